//! `keystrata account …`.

use std::{num::NonZeroU64, time::Duration};

use clap::{Subcommand, ValueEnum};

use super::{
    bulk::JobArgs,
    life::{ConfirmArgs, DestroyArgs, MinVersionArgs, StateArgs, duration},
};

/// List, show, create and rotate accounts, say what they may do, and end them
#[derive(Debug, clap::Args)]
pub(crate) struct AccountArgs {
    #[command(subcommand)]
    pub(crate) command: AccountCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    List(ListArgs),
    /// Show the KEKs of an account, oldest first; needs no root key
    #[command(after_help = "\
Examples:
  keystrata account show acme
  keystrata account show acme billing   (a path of two segments)

With --json, keys: account [segments], status, min_version, shredded_at, keks [{kek_id, version, suite, state, created_at,
age_seconds, retired_at, wrapped_by [ids]}]; times are seconds since 1970, shredded_at is null for an account that was not
shredded, and retired_at for a KEK that was never retired.")]
    Show(NameArgs),
    /// Make an account's first KEK, before anything is sealed for it
    ///
    /// The first `keystrata seal` does that too. This fails for an account that is there, and for one that was shredded.
    #[command(after_help = "\
Examples:
  keystrata account create acme

With --json, keys: account [segments], kek_id, version, suite, created_at.")]
    Create(NameArgs),
    Rotate(RotateArgs),
    /// Let an account seal and open again, with every version of its KEK that is not destroyed
    ///
    /// From whichever state. Needs no root key, as the other two.
    #[command(after_help = STATE_HELP)]
    Enable(StateArgs),
    /// Let an account open and not seal: a tenant who has left and may still fetch what is his
    ///
    /// Processes that use the account seal no more within 30 seconds. Nothing is lost; `account enable` undoes it.
    #[command(after_help = STATE_HELP)]
    OpenOnly(NameArgs),
    /// Let an account neither seal nor open, until it is enabled or opens only
    ///
    /// Processes that seal for the account stop within 30 seconds, others when the time to live of the KEK that they hold is over.
    /// KEKs of other accounts that it wraps cannot be had either. Nothing is lost; `account enable` undoes it.
    #[command(after_help = STATE_HELP)]
    Disable(StateArgs),
    MinVersion(MinVersionArgs),
    DestroyVersion(DestroyArgs),
    /// Get an account's KEKs by the recovery root key, and wrap them by the current ones
    ///
    /// For the day on which the root keys that wrapped them are gone, and only then: name a new one as `root` first. The recovery
    /// root is used for unwrapping by this command alone; it wraps every new KEK. KEKs that it did not wrap cannot be had. For all
    /// accounts at once, name it as a former root of `keystrata reroot --add`.
    #[command(after_help = "\
Examples:
  keystrata account recover acme
  keystrata account recover acme --root local:new.key --recovery-root local:recovery.key

Exit status: 0 the current root keys wrap all KEKs now; 3 some they do not.

With --json, keys: account [segments], recovered, keks (all but destroyed ones), wrapped (by the current root keys), failed [{kek_id,
error}].")]
    Recover(NameArgs),
    Shred(ShredArgs),
}

const STATE_HELP: &str = "\
Examples:
  keystrata account open-only acme
  keystrata account disable acme
  keystrata account disable acme --version 1
  keystrata account enable acme billing   (a path of two segments)

With --json, keys: account [segments], version (null for all), status (of the account), changed (false if it was so before).";

/// Make a new KEK the account's primary: new objects are sealed under it, old ones still open
///
/// Processes that use the account seal under the new KEK within 30 seconds. With --older-than it is done to all accounts whose
/// primary is at least so old; those that do not seal, and shredded ones, are passed over. Calls are made in the background then,
/// within the budget.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata account rotate acme
  keystrata account rotate --older-than 90d --dry-run
  keystrata account rotate --older-than 90d --checkpoint rotate.checkpoint

Exit status with --older-than: 0 all of them are rotated; 3 some accounts failed; 1 it did not come to its end.

With --json, keys: account [segments], kek_id, version, suite, created_at; with --older-than: dry_run, accounts, changed, unchanged,
failed, examples [{account [segments], kek_id, kind, message}], kms {calls, estimated_usd} (null where no root key is in a KMS).")]
pub(crate) struct RotateArgs {
    /// The account; further segments of a path follow, outermost first
    #[arg(value_name = "NAME", required_unless_present = "older_than", conflicts_with = "older_than")]
    pub(crate) account: Vec<String>,
    /// All accounts whose primary was made at least so long ago, as in 90d
    #[arg(long, value_name = "AGE", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// List accounts with the KEK that new objects are sealed under; needs no root key
///
/// In the order of their paths: fewer segments first, and of equally many those with shorter ones. Pages through the store, so it
/// takes as little memory for a million accounts as for ten.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata account list
  keystrata account list --status shredded --json
  keystrata account list --limit 1000 --after acme --after billing   (those after a path of two segments)

Segments of an account's path are joined by `/`; a `/`, a `%` or a control character within one is written as %XX.

With --json, keys: accounts [{account [segments], status, kek_id, version, suite, created_at, shredded_at}]; times are seconds
since 1970. An account without a primary has null for what is the primary's, and one that was not shredded for shredded_at.")]
pub(crate) struct ListArgs {
    /// Only accounts after this one. Give it again for each further segment of a path, outermost first
    #[arg(long, value_name = "NAME")]
    pub(crate) after: Vec<String>,
    /// At most this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<NonZeroU64>,
    /// Only accounts in this status, instead of all that are not shredded
    #[arg(long)]
    pub(crate) status: Option<AccountStatus>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What may be done with an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccountStatus {
    /// Seals and opens
    Enabled,
    /// Opens and does not seal
    OpenOnly,
    /// Its primary is disabled: seals nothing until it is enabled again
    Disabled,
    /// Its KEKs were destroyed, and its path is not used again
    Shredded,
    /// Has KEKs and none to seal under: the store was changed by other means
    NoPrimary,
    /// Whatever its status
    All,
}

impl AccountStatus {
    /// As it is typed and shown.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::OpenOnly => "open-only",
            Self::Disabled => "disabled",
            Self::Shredded => "shredded",
            Self::NoPrimary => "no-primary",
            Self::All => "all",
        }
    }
}

/// One account.
#[derive(Debug, clap::Args)]
pub(crate) struct NameArgs {
    /// The account; further segments of a path follow, outermost first
    #[arg(value_name = "NAME", required = true)]
    pub(crate) account: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Destroy an account's KEKs for ever, so that nothing sealed for it opens again
///
/// The path keeps a tombstone and is never used again. Refused while its KEKs wrap those of other accounts. Has to be confirmed
/// by the account's name, typed at the terminal or given with --yes-i-mean. Needs no root key.
///
/// Processes that hold a KEK in memory go on with it until its time to live is over. A backup of the store together with the
/// root key still opens: delete the backups too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata account shred acme --dry-run
  keystrata account shred acme
  keystrata account shred acme billing --yes-i-mean acme/billing   (a path of two segments)

With --json, keys: account [segments], dry_run, already, shredded_at, keks (their number), stranded (accounts that another process
put below it in that very moment: reroot them while it lives); with --dry-run instead of stranded kek_ids, null as keks where a
record cannot be read.")]
pub(crate) struct ShredArgs {
    /// The account; further segments of a path follow, outermost first
    #[arg(value_name = "NAME", required = true)]
    pub(crate) account: Vec<String>,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_shown_as_it_is_typed() {
        for status in AccountStatus::value_variants() {
            assert_eq!(status.to_possible_value().unwrap().get_name(), status.name());
        }
    }
}

//! `keystrata account …`.

use std::num::NonZeroU64;

use clap::{Subcommand, ValueEnum};

/// List, show, create, rotate or shred accounts
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
    /// Make a new KEK the account's primary: new objects are sealed under it, old ones still open
    ///
    /// Processes that use the account seal under the new KEK within 30 seconds.
    #[command(after_help = "\
Examples:
  keystrata account rotate acme

With --json, keys: account [segments], kek_id, version, suite, created_at.")]
    Rotate(NameArgs),
    Shred(ShredArgs),
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

With --json, keys: account [segments], dry_run, already, shredded_at, keks (their number); with --dry-run also kek_ids,
both null where a record cannot be read.")]
pub(crate) struct ShredArgs {
    /// The account; further segments of a path follow, outermost first
    #[arg(value_name = "NAME", required = true)]
    pub(crate) account: Vec<String>,
    /// Destroy nothing, and tell what would be
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The account's name as `account list` shows it, instead of typing it at the terminal
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) yes_i_mean: Option<String>,
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

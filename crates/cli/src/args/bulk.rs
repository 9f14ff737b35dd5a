//! `keystrata rewrap`, `rekey`, `reroot`: what is done to many objects or accounts.

use std::{num::NonZeroUsize, path::PathBuf};

use keystrata_hierarchy::Reroot;

use super::ObjectArgs;

/// Put envelopes in files under their account's primary KEK, in place
///
/// Writes 88 bytes of each header; data and context are not needed and not touched. The old header and the new one are first
/// written to a journal beside the file (its name and .ks-rewrap): a rewrap that was interrupted is brought to its end by running
/// it again. A file that fails keeps none of the others from it. What is rewrapped is protected only once the old version is
/// destroyed or below the account's lowest version; against somebody who may have learnt a KEK, use `rekey`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata rewrap --account acme report.ks card.sealed
  find /data/acme -name '*.ks' -print0 | xargs -0 keystrata rewrap --account acme

Exit status: 0 all of them are under the primary; 3 some are not; 1 nothing was done.

With --json, keys: account [segments], began_at (seconds since 1970, for `account destroy-version`), changed, unchanged, failed,
files [{file, outcome, error}]; outcome is changed, unchanged or failed.")]
pub(crate) struct RewrapArgs {
    /// Whose data it is. Give it again for each further segment of a path, outermost first
    #[arg(long = "account", value_name = "NAME", required = true)]
    pub(crate) account: Vec<String>,
    /// The envelopes
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Seal the data of envelopes in files anew, under new keys
///
/// For what somebody may have learnt a key of: opens each file, seals its data under a new DEK and the account's primary, and
/// puts that in the file's place in one step, with its mode and owner. A file that fails stays as it is and keeps none of the others
/// from it. Rotate the account first. Copies and backups of the file stay under the old keys. Nothing else may write the file
/// meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata account rotate acme
  keystrata rekey --account acme --context file=report.pdf report.ks

Exit status: 0 all of them are sealed anew; 3 some are not; 1 nothing was done.

With --json, keys: account [segments], changed, unchanged (always 0), failed, files [{file, outcome, error}]; outcome is changed
or failed.")]
pub(crate) struct RekeyArgs {
    #[command(flatten)]
    pub(crate) object: ObjectArgs,
    /// The envelopes, all with the same context
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Bring the KEKs of all accounts under the root keys of the settings
///
/// In two steps. `--add` wraps each KEK by every root key that the settings name as `root` (and by the recovery root) and keeps its
/// other wraps; those have to be named as former roots to be unwrapped. `--retire` takes the others away, of KEKs that have all of
/// the new ones. No envelope changes. Every process has to know the new root key before the first step, and to have it as its
/// current one before the second.
///
/// What is done already costs a read, so whatever was interrupted is gone on with by running it again, from its beginning or, with
/// `--checkpoint`, from where it was. Calls are made in the background, within the budget.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata reroot --add --root local:new.key --former-root local:old.key --dry-run
  keystrata reroot --add --from local:old.key --checkpoint reroot.checkpoint
  keystrata reroot --verify-and-retire --from local:old.key --yes-i-mean local:new.key
  keystrata reroot --add --account acme

KEKs below a parent's or in a group are not moved by this command, and fail: with --from they are passed over.

Exit status: 0 all is as it is to be; 3 some accounts failed; 1 it did not come to its end, or was refused.

With --json, keys: step, dry_run, accounts, changed, unchanged, failed, added, dropped (wraps), examples [{account [segments],
kek_id, kind, message}], kms {calls, estimated_usd} (null where no root key is in a KMS).")]
pub(crate) struct RerootArgs {
    #[command(flatten)]
    pub(crate) step: StepArgs,
    /// Only KEKs that this root key wraps; one of the settings, by its URI or its id
    #[arg(long, value_name = "ROOT", conflicts_with = "account")]
    pub(crate) from: Option<String>,
    /// Only this account. Give it again for each further segment of a path, outermost first
    #[arg(long, value_name = "NAME", conflicts_with_all = ["checkpoint", "at_once"])]
    pub(crate) account: Vec<String>,
    /// The URI of the first root key that stays, instead of typing it at the terminal; for the steps that retire
    #[arg(long, value_name = "ROOT", conflicts_with = "add")]
    pub(crate) yes_i_mean: Option<String>,
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which step of a reroot.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct StepArgs {
    /// Wrap KEKs by the current root keys, and keep their other wraps
    #[arg(long)]
    add: bool,
    /// Drop the wraps by all other root keys; has to be confirmed
    #[arg(long)]
    retire: bool,
    /// The same, after unwrapping what stays: one call for each root key that does
    #[arg(long)]
    verify_and_retire: bool,
}

impl StepArgs {
    pub(crate) fn step(&self) -> Reroot {
        match self {
            Self { add: true, .. } => Reroot::Add,
            Self { verify_and_retire: true, .. } => Reroot::VerifyAndRetire,
            _ => Reroot::Retire,
        }
    }
}

/// How a job over many accounts runs.
#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    /// Write nothing and call no KMS, and tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Keep in this file how far the job is: after every 256 accounts, in one step. A job that finds it goes on from there; one
    /// that comes to its end removes it
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// How many accounts to work on at a time
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) at_once: NonZeroUsize,
    /// How many accounts that failed to show
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) examples: usize,
}

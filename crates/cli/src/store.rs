//! `keystrata store`: what an operator does to a whole KEK store.

mod check;
mod copy;
mod upkeep;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::{args::SettingsArgs, failure::Outcome, settings::StoreLocation};

/// Check, copy, back up or migrate a KEK store
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    Check(CheckArgs),
    Copy(CopyArgs),
    Backup(BackupArgs),
    Migrate(MigrateArgs),
}

/// Look at every account of the store and tell what is wrong
///
/// Finds records that do not parse or lie in the wrong account, accounts without a primary or with one that is not the newest,
/// wraps by root keys that are not configured, KEKs whose parent is gone, and records that came back after a shredding. Changes
/// nothing; the store may be in use.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata store check
  keystrata store check --any-root --json
  keystrata store check --unwrap --yes

Exit status: 0 all is well; 3 something was found; 1 the check did not come to its end.

With --json, keys: store, clean, accounts, shredded, keks, root_wraps, parent_wraps, findings, kinds {kind: number}, examples
[{account [segments], kek_id, kind, message}], unwrap (null without --unwrap) {root_wraps, parent_wraps, unwrapped, findings,
kms_calls, estimated_usd}.")]
#[allow(clippy::struct_excessive_bools)] // flags
pub(crate) struct CheckArgs {
    /// Also unwrap every KEK by each of the root keys that wrap it: one call for each, within the budget
    #[arg(long)]
    pub(crate) unwrap: bool,
    /// Make these calls without asking
    #[arg(long, requires = "unwrap")]
    pub(crate) yes: bool,
    /// Take wraps by whatever root key; then none needs to be configured
    #[arg(long, conflicts_with = "unwrap")]
    pub(crate) any_root: bool,
    /// How many findings of each kind to show
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) examples: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Copy every account of one store into another
///
/// Carries over all KEKs, which is the primary, the lowest version in use, and the tombstones of shredded accounts. What is in
/// the other store is never changed. Each account is read back after it was written. A copy that was interrupted is taken up by
/// running it again. Stop what creates and rotates first: run it once more at the end, and it must find all accounts the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata store copy --from sqlite:old.db --to sqlite:new.db --dry-run
  keystrata store copy --from sqlite:old.db --to sqlite:new.db

Exit status: 0 all is there; 3 some accounts differ or could not be copied; 1 the copy did not come to its end.

With --json, keys: from, to, dry_run, accounts, copied, same, differ, failed, examples [{account [segments], kind, message}].")]
pub(crate) struct CopyArgs {
    /// The store to read
    #[arg(long, value_name = "URI")]
    pub(crate) from: StoreLocation,
    /// The store to write; one that is not there is made
    #[arg(long, value_name = "URI")]
    pub(crate) to: StoreLocation,
    /// Write nothing, and tell what would be
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How many accounts that differ or failed to show
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) examples: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write a copy of an SQLite store to a new file, while it is in use
///
/// The copy is of one moment, checked before it gets its name, and private to its owner. It holds what is shredded later: delete
/// old backups. A store that an earlier release wrote is copied as it is. Other stores are backed up with their own tools.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata store backup /backup/keks-2026-01-31.db

With --json, keys: store, file, bytes, accounts.")]
pub(crate) struct BackupArgs {
    /// The file to make; nothing may be there
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Bring the store to the schema of this release
///
/// An SQLite store is brought there by whatever command first opens it, but `store backup`; this one says what it does, and with
/// --dry-run what it would do. In a database on a server this also makes a store where there is none. A store of a newer release
/// is refused and stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata store migrate --dry-run
  keystrata store migrate

With --json, keys: store, from, to, steps, dry_run.")]
pub(crate) struct MigrateArgs {
    /// Change nothing, and tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) async fn run(args: &StoreArgs, settings: &SettingsArgs) -> Result<Outcome> {
    match &args.command {
        StoreCommand::Check(args) => check::run(args, settings).await,
        StoreCommand::Copy(args) => copy::run(args).await,
        StoreCommand::Backup(args) => upkeep::backup(args, settings).await.map(|()| Outcome::Done),
        StoreCommand::Migrate(args) => upkeep::migrate(args, settings).await.map(|()| Outcome::Done),
    }
}

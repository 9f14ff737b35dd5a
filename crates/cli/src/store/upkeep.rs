//! `keystrata store backup` and `migrate`.

use std::fmt::Write;

use anyhow::{Result, bail};
use keystrata_store::{Migration, SqliteKekStore};
use serde_json::json;

use super::{BackupArgs, MigrateArgs};
use crate::{args::SettingsArgs, keys, output};

pub(super) async fn backup(args: &BackupArgs, settings: &SettingsArgs) -> Result<()> {
    let location = settings.store()?;
    let Some(path) = location.path() else {
        bail!("{location} is backed up with its own tools: this command copies SQLite files")
    };
    let backup = SqliteKekStore::back_up(path, &args.file).await?;
    let (file, bytes, accounts) = (args.file.display().to_string(), backup.bytes, backup.accounts);
    if args.json {
        return output::print_json(&json!({
            "store": location.to_string(), "file": file, "bytes": bytes, "accounts": accounts,
        }));
    }
    output::print(&format!("{file} has {accounts} account(s) of {location} in {bytes} bytes, and is checked\n"))
}

pub(super) async fn migrate(args: &MigrateArgs, settings: &SettingsArgs) -> Result<()> {
    let location = settings.store()?;
    let Migration { from, to, steps, .. } = keys::migrate_store(&location, args.dry_run).await?;
    if args.json {
        return output::print_json(&json!({
            "store": location.to_string(), "from": from, "to": to, "steps": steps, "dry_run": args.dry_run,
        }));
    }
    let mut text = match (steps.is_empty(), args.dry_run) {
        (true, _) => format!("{location} has schema version {from}, that of this release: there is nothing to do\n"),
        (false, true) => format!("{location} has schema version {from}; to bring it to version {to} would\n"),
        (false, false) => format!("{location} had schema version {from} and has version {to} now:\n"),
    };
    for step in steps {
        writeln!(text, "- {step}")?;
    }
    output::print(&text)
}

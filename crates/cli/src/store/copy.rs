//! `keystrata store copy`.

use std::{fs, sync::Arc};

use anyhow::{Result, bail};
use keystrata_hierarchy::{CopyEvent, CopyMode, CopyReport, KekStore, MemoryKekStore, copy_store};
use serde_json::json;

use super::CopyArgs;
use crate::{
    failure::Outcome,
    findings::{Example, Examples, chain},
    keys, output, progress,
    settings::StoreLocation,
};

pub(super) async fn run(args: &CopyArgs) -> Result<Outcome> {
    if is_same(&args.from, &args.to) {
        bail!("--from and --to name the same store, {}: there is nothing to copy", args.from);
    }
    let from = keys::open_store(&args.from).await?;
    let to = open_target(args).await?;
    let mode = if args.dry_run { CopyMode::DryRun } else { CopyMode::Write };
    let bar = progress::over_accounts(&from, if args.dry_run { "comparing" } else { "copying" }).await?;
    let mut examples = Examples::new(args.examples);
    let copied = copy_store(&from, &*to, mode, |event| {
        bar.inc(1);
        note(&mut examples, event);
    });
    let copied = copied.await;
    bar.finish_and_clear();
    if copied.is_err() && !args.json {
        output::print(&examples.text())?; // what was found until then is worth knowing
    }
    let CopyReport { accounts, copied, same, differ, failed, .. } = copied?;
    if args.json {
        output::print_json(&json!({
            "from": args.from.to_string(), "to": args.to.to_string(), "dry_run": args.dry_run,
            "accounts": accounts, "copied": copied, "same": same, "differ": differ, "failed": failed,
            "examples": examples.json(),
        }))?;
    } else {
        let verb = if args.dry_run { "would be copied" } else { "copied and read back" };
        output::print(&format!(
            "{}{accounts} account(s): {copied} {verb}, {same} there already, {differ} differ, {failed} failed\n",
            examples.text()
        ))?;
    }
    Ok(if differ + failed == 0 { Outcome::Done } else { Outcome::Findings })
}

/// The store to write. A dry run makes none: all would be copied into an empty one.
async fn open_target(args: &CopyArgs) -> Result<Arc<dyn KekStore>> {
    if !args.dry_run {
        return keys::create_store(&args.to).await;
    }
    match args.to.path() {
        Some(path) if fs::symlink_metadata(path).is_err() => Ok(Arc::new(MemoryKekStore::new())),
        _ => keys::open_store(&args.to).await,
    }
}

/// As far as can be told: a file has many names.
fn is_same(one: &StoreLocation, other: &StoreLocation) -> bool {
    let file = |location: &StoreLocation| location.path().and_then(|path| fs::canonicalize(path).ok());
    one == other || file(one).is_some_and(|file_of_one| file(other) == Some(file_of_one))
}

fn note(examples: &mut Examples, event: CopyEvent) {
    let (path, kind, message) = match event {
        CopyEvent::Differs(path) => {
            (path, "differs", "something else is there under its path, and stays as it is".to_owned())
        }
        CopyEvent::Failed(path, error) => (path, "failed", chain(&error)),
        _ => return,
    };
    examples.add(Example { path, kek_id: None, kind, message });
}

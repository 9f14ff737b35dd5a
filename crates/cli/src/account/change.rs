//! `keystrata account create` and `rotate`: a first KEK, and a new one.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use keystrata_hierarchy::{Creation, KekStore, KeyPath, jobs::Task};
use serde_json::json;

use super::{advised, segments};
use crate::{
    args::{NameArgs, RotateArgs, SettingsArgs},
    failure::Outcome,
    job::{self, JobReport},
    keys::{self, Opened},
    kms::Work,
    output,
};

pub(super) async fn create(args: &NameArgs, settings: &SettingsArgs) -> Result<()> {
    let path = KeyPath::new(&args.account)?;
    let Opened { keys, store, .. } = keys::open_for(settings, Work::Few).await?;
    match keys.account(path.clone())?.create().await.map_err(advised)? {
        Creation::Created => {}
        Creation::Exists => bail!("account {path} is there already: `keystrata account rotate` gives it a new KEK"),
    }
    tell(&*store, &path, "created", args.json).await
}

pub(super) async fn rotate(args: &RotateArgs, settings: &SettingsArgs) -> Result<Outcome> {
    if let Some(age) = args.older_than {
        return rotate_old(age, args, settings).await;
    }
    if args.job.dry_run || args.job.checkpoint.is_some() {
        bail!("--dry-run and --checkpoint are for many accounts: give --older-than AGE instead of a name");
    }
    let path = KeyPath::new(&args.account)?;
    let Opened { keys, store, .. } = keys::open_for(settings, Work::Few).await?;
    keys.account(path.clone())?.rotate().await.map_err(advised)?;
    tell(&*store, &path, "rotated", args.json).await.map(|()| Outcome::Done)
}

async fn rotate_old(age: Duration, args: &RotateArgs, settings: &SettingsArgs) -> Result<Outcome> {
    let opened = keys::open_for(settings, Work::Bulk).await?;
    let done = job::run(&opened, Task::RotateOlderThan(age), &args.job, "rotating").await?;
    let JobReport { tally, examples, .. } = &done;
    if args.json {
        output::print_json(&done.json(args.job.dry_run))?;
    } else {
        let verb = if args.job.dry_run { "would be rotated" } else { "rotated" };
        output::print(&format!(
            "{}{} account(s): {} {verb}, {} younger or not sealing, {} failed\n",
            examples.text(),
            tally.accounts,
            tally.changed,
            tally.unchanged,
            tally.failed
        ))?;
    }
    Ok(done.outcome())
}

/// What the store has now.
async fn tell(store: &dyn KekStore, path: &KeyPath, what: &str, json: bool) -> Result<()> {
    let primary =
        store.primary(path).await?.with_context(|| format!("account {path} was {what}, and is gone again"))?;
    let (id, version) = (primary.identity.id, primary.identity.version);
    if json {
        return output::print_json(&json!({
            "account": segments(path),
            "kek_id": id.to_string(),
            "version": version.get(),
            "suite": primary.identity.suite.to_byte(),
            "created_at": primary.created_at,
        }));
    }
    output::print(&format!("{what} account {path}: its primary is KEK {id}, version {version}\n"))
}

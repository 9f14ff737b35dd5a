//! `keystrata account shred`: an account's KEKs destroyed for ever.

use std::fmt::Write;

use anyhow::{Result, bail};
use keystrata_hierarchy::{
    AccountCopy, Change, KekState, KeyError, KeyPath, LifecycleError, Policy, ShredPlan, Tombstone,
};
use serde_json::json;

use super::{life_advised, segments};
use crate::{
    args::{SettingsArgs, ShredArgs},
    confirm, keys, output,
    utc::Utc,
};

pub(super) async fn run(args: &ShredArgs, settings: &SettingsArgs) -> Result<()> {
    let path = KeyPath::new(&args.account)?;
    let (keys, store) = keys::open_without_roots(settings, Policy::default()).await?;
    let account = keys.account(path.clone())?;
    let plan = match account.shred_plan().await {
        Ok(plan) => Some(plan),
        // An account with a broken record is shredded all the same.
        Err(LifecycleError::Key(KeyError::Corrupt { .. })) => None,
        Err(error) => return Err(life_advised(error)),
    };
    if let Some(plan) = &plan {
        if let Some(tombstone) = plan.tombstone {
            return tell(&path, tombstone, Change::AlreadySo, &[], args.json);
        }
        refuse_if_it_wraps_others(plan)?;
    }
    let copy = if plan.is_some() { store.export(&path).await? } else { None };
    if args.confirm.dry_run {
        return output::print(&if args.json { facts(&path, copy.as_ref()) } else { text(&path, copy.as_ref())? });
    }
    let plan = text(&path, copy.as_ref())?;
    confirm::by_name(&plan, "the name of account", &path.to_string(), args.confirm.yes_i_mean.as_deref())?;
    let shredded = account.shred().await.map_err(life_advised)?;
    tell(&path, shredded.tombstone, shredded.change, &shredded.stranded, args.json)
}

/// Their objects would be lost with it, and nobody asked for that.
fn refuse_if_it_wraps_others(plan: &ShredPlan) -> Result<()> {
    if plan.children.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = plan.children.iter().map(ToString::to_string).collect();
    bail!(
        "the KEKs of account {} wrap those of {}{}, which would be lost with them: shred those accounts first, or give them \
         another place",
        plan.path,
        named.join(", "),
        if plan.has_more_children { " and others" } else { "" }
    )
}

/// `copy` is `None` if a record is broken.
fn text(path: &KeyPath, copy: Option<&AccountCopy>) -> Result<String> {
    let mut text = format!("This destroys for ever the KEKs of account {path}:\n");
    for record in copy.iter().flat_map(|copy| &copy.records) {
        let (id, version, created) = (record.identity.id, record.identity.version, Utc(record.created_at));
        writeln!(text, "  {id}  version {version}, {}, created {created}", record.state)?;
    }
    if copy.is_none() {
        text.push_str("  all that there are; some of its records cannot be read\n");
    }
    text.push_str(
        "Nothing that was sealed for it opens again, and its path is not used again. Processes that hold a KEK in memory\n\
         go on with it until its time to live is over; backups of the store hold the KEKs until they are deleted.\n",
    );
    Ok(text)
}

fn facts(path: &KeyPath, copy: Option<&AccountCopy>) -> String {
    let ids: Option<Vec<_>> = copy.map(|copy| {
        let there = copy.records.iter().filter(|record| record.state != KekState::Destroyed);
        there.map(|record| record.identity.id.to_string()).collect()
    });
    let facts = json!({
        "account": segments(path), "dry_run": true, "already": false,
        "shredded_at": null, "keks": ids.as_ref().map(Vec::len), "kek_ids": ids,
    });
    format!("{facts:#}\n")
}

fn tell(path: &KeyPath, tombstone: Tombstone, change: Change, stranded: &[KeyPath], json: bool) -> Result<()> {
    let (Tombstone { at, keks }, already) = (tombstone, change == Change::AlreadySo);
    if json {
        let stranded: Vec<_> = stranded.iter().map(segments).collect();
        return output::print_json(&json!({
            "account": segments(path), "dry_run": false, "already": already, "shredded_at": at, "keks": keks,
            "stranded": stranded,
        }));
    }
    let verb = if already { "was shredded before, at" } else { "is shredded, at" };
    let mut text = format!("account {path} {verb} {}: {keks} KEK(s) destroyed\n", Utc(at));
    if !stranded.is_empty() {
        let named: Vec<_> = stranded.iter().map(ToString::to_string).collect();
        let named = named.join(", ");
        writeln!(
            text,
            "another process has just put {named} below it: give these another place while that process lives, or what they \
             seal is lost"
        )?;
    }
    output::print(&text)
}

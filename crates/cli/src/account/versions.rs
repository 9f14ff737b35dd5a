//! `keystrata account min-version` and `destroy-version`: old versions given up for ever.

use std::fmt::Write;

use anyhow::{Result, bail};
use keystrata_hierarchy::{Change, KekRecord, KekState, KeyPath, Policy};
use serde_json::json;

use super::{
    life_advised, segments,
    state::{export, kek_of},
};
use crate::{
    args::{DestroyArgs, MinVersionArgs, SettingsArgs},
    confirm, keys, output,
    utc::Utc,
};

pub(super) async fn raise_floor(args: &MinVersionArgs, settings: &SettingsArgs) -> Result<()> {
    let path = KeyPath::new(&args.account)?;
    let (keys, store) = keys::open_without_roots(settings, Policy::default()).await?;
    let copy = export(&*store, &path).await?;
    let floor = args.version;
    let is_above = |record: &KekRecord| copy.primary == Some(record.identity.id) && record.identity.version < floor;
    if let Some(primary) = copy.records.iter().find(|record| is_above(record)) {
        let primary = primary.identity.version;
        bail!("version {floor} of account {path} is above its primary, version {primary}: rotate first");
    }
    let opens = |record: &&KekRecord| {
        let version = record.identity.version;
        version >= copy.min_version && version < floor && record.state != KekState::Destroyed
    };
    let given_up: Vec<_> = copy.records.iter().filter(opens).collect();
    let tell = |changed: bool, dry_run: bool| {
        if args.json {
            let versions: Vec<_> = given_up.iter().map(|record| record.identity.version.get()).collect();
            return output::print_json(&json!({
                "account": segments(&path), "dry_run": dry_run, "min_version": floor.get().max(copy.min_version.get()),
                "changed": changed, "given_up": versions,
            }));
        }
        output::print(&if changed {
            format!("account {path} opens version {floor} and later, and nothing of before\n")
        } else {
            format!("account {path} opened nothing below version {} before: nothing was done\n", copy.min_version)
        })
    };
    if floor <= copy.min_version {
        return tell(false, args.confirm.dry_run);
    }
    let mut plan = format!("This gives up for ever what account {path} has sealed under the versions below {floor}:\n");
    plan.push_str(&lines(&given_up)?);
    if args.confirm.dry_run {
        return if args.json { tell(false, true) } else { output::print(&plan) };
    }
    confirm::by_name(&plan, "the name of account", &path.to_string(), args.confirm.yes_i_mean.as_deref())?;
    let change = keys.account(path.clone())?.set_min_version(floor).await.map_err(life_advised)?;
    tell(change == Change::Made, false)
}

pub(super) async fn destroy(args: &DestroyArgs, settings: &SettingsArgs) -> Result<()> {
    let path = KeyPath::new(&args.account)?;
    let policy = Policy::builder().dangerous_uncapped_kek_ttl(args.longest_ttl).build()?;
    let (keys, store) = keys::open_without_roots(settings, policy).await?;
    let copy = export(&*store, &path).await?;
    let record = kek_of(&copy, args.version)?;
    let (id, version) = (record.identity.id, record.identity.version);
    let facts = |changed: bool| {
        json!({
            "account": segments(&path), "dry_run": args.confirm.dry_run, "version": version.get(), "kek_id": id.to_string(),
            "changed": changed,
        })
    };
    let is_destroyed = record.state == KekState::Destroyed;
    if !is_destroyed {
        let mut plan = format!("This destroys for ever one KEK of account {path}:\n");
        plan.push_str(&lines(&[record])?);
        plan.push_str("What is still sealed under it is lost.\n");
        if args.confirm.dry_run {
            return if args.json { output::print_json(&facts(false)) } else { output::print(&plan) };
        }
        confirm::by_name(&plan, "the name of account", &path.to_string(), args.confirm.yes_i_mean.as_deref())?;
    }
    let changed = match args.rewrap_began.filter(|_| !is_destroyed) {
        None => false, // clap lets nothing but a dry run be without it
        Some(scan) => {
            keys.account(path.clone())?.destroy_version(id, scan).await.map_err(life_advised)? == Change::Made
        }
    };
    if args.json {
        return output::print_json(&facts(changed));
    }
    let verb = if changed { "is destroyed" } else { "was destroyed before" };
    output::print(&format!("version {version} of account {path}, KEK {id}, {verb}\n"))
}

fn lines(records: &[&KekRecord]) -> Result<String> {
    let mut text = String::new();
    for record in records {
        let (id, version, created) = (record.identity.id, record.identity.version, Utc(record.created_at));
        writeln!(text, "  {id}  version {version}, {}, created {created}", record.state)?;
    }
    Ok(text)
}

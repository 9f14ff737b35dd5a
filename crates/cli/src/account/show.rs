//! `keystrata account show`: all that the store holds of one account.

use std::fmt::Write;

use anyhow::{Result, bail};
use keystrata_hierarchy::{AccountCopy, KekRecord, KeyPath};
use serde_json::{Value, json};

use super::{list::status, segments, wrapped_by};
use crate::{
    args::{NameArgs, SettingsArgs},
    keys, output,
    utc::{self, Age, Utc},
};

pub(super) async fn run(args: &NameArgs, settings: &SettingsArgs) -> Result<()> {
    let path = KeyPath::new(&args.account)?;
    let store = keys::open_store(&settings.store()?).await?;
    let Some(copy) = store.export(&path).await? else {
        bail!(
            "account {path} has no KEK in this store; its first `keystrata seal` makes one, or `keystrata account create`"
        );
    };
    let now = utc::now();
    if args.json { output::print_json(&json(&copy, now)) } else { output::print(&text(&copy, now)?) }
}

fn text(copy: &AccountCopy, now: u64) -> Result<String> {
    let mut text = format!("account     {}\nstatus      {}\n", copy.path, status(&copy.head()).name());
    if let Some(tombstone) = copy.tombstone {
        let (at, keks) = (tombstone.at, tombstone.keks);
        writeln!(text, "shredded    {} ({}), {keks} KEK(s) destroyed", Utc(at), Age::of(at, now))?;
    }
    if copy.min_version.get() > 1 {
        writeln!(text, "in use      version {} and later", copy.min_version)?;
    }
    for record in &copy.records {
        write!(
            text,
            "\nKEK id      {}\nversion     {}\nsuite       {} ({})\nstate       {}\ncreated     {} ({})\n",
            record.identity.id,
            record.identity.version,
            record.identity.suite.to_byte(),
            record.identity.suite,
            record.state,
            Utc(record.created_at),
            Age::of(record.created_at, now),
        )?;
        if record.retired_at != 0 {
            writeln!(text, "retired     {} ({})", Utc(record.retired_at), Age::of(record.retired_at, now))?;
        }
        for wrapper in wrapped_by(record) {
            writeln!(text, "wrapped by  {wrapper}")?;
        }
    }
    Ok(text)
}

fn json(copy: &AccountCopy, now: u64) -> Value {
    let keks: Vec<_> = copy.records.iter().map(|record| kek(record, now)).collect();
    json!({
        "account": segments(&copy.path),
        "status": status(&copy.head()).name(),
        "min_version": copy.min_version.get(),
        "shredded_at": copy.tombstone.map(|tombstone| tombstone.at),
        "keks": keks,
    })
}

fn kek(record: &KekRecord, now: u64) -> Value {
    json!({
        "kek_id": record.identity.id.to_string(),
        "version": record.identity.version.get(),
        "suite": record.identity.suite.to_byte(),
        "state": record.state.to_string(),
        "created_at": record.created_at,
        "age_seconds": now.saturating_sub(record.created_at),
        "retired_at": (record.retired_at != 0).then_some(record.retired_at),
        "wrapped_by": wrapped_by(record),
    })
}

//! `keystrata account`: what the KEK store holds. The records are public; no root key is asked.

use std::fmt::Write;

use anyhow::{Result, bail};
use keystrata_hierarchy::{KekRecord, KekStore, KeyPath};
use keystrata_primitives::Wrapper;
use serde_json::{Value, json};

use crate::{
    args::{AccountArgs, AccountCommand, SettingsArgs},
    keys, output,
    utc::Utc,
};

/// Accounts asked of the store at a time.
const PAGE: usize = 1000;

pub(crate) async fn run(args: &AccountArgs, settings: &SettingsArgs) -> Result<()> {
    match &args.command {
        AccountCommand::List { json } => {
            let store = keys::open_store(&settings.store()?).await?;
            if *json { list_json(&store).await } else { list(&store).await }
        }
        AccountCommand::Show { account, json } => {
            let path = KeyPath::new(account)?;
            let store = keys::open_store(&settings.store()?).await?;
            show(&store, &path, *json).await
        }
    }
}

/// Page by page: a store may hold a million accounts, and the first should not wait for the last.
async fn list(store: &impl KekStore) -> Result<()> {
    output::print(&format!("{:32}  {:>7}  {:20}  ACCOUNT\n", "KEK ID", "VERSION", "CREATED"))?;
    let mut after = None;
    while let Some(page) = next_page(store, &mut after).await? {
        let mut text = String::new();
        for KekRecord { identity, created_at, .. } in page {
            let (id, version, path) = (identity.id, identity.version, identity.path);
            writeln!(text, "{id:32}  {version:>7}  {:20}  {path}", Utc(created_at).to_string())?;
        }
        output::print(&text)?;
    }
    Ok(())
}

async fn list_json(store: &impl KekStore) -> Result<()> {
    let mut accounts: Vec<Value> = Vec::new();
    let mut after = None;
    while let Some(page) = next_page(store, &mut after).await? {
        accounts.extend(page.iter().map(|record| {
            json!({
                "account": segments(&record.identity.path),
                "kek_id": record.identity.id.to_string(),
                "version": record.identity.version.get(),
                "suite": record.identity.suite.to_byte(),
                "created_at": record.created_at,
            })
        }));
    }
    output::print_json(&json!({ "accounts": accounts }))
}

/// The primaries after `after`, which moves on; `None` after the last.
async fn next_page(store: &impl KekStore, after: &mut Option<KeyPath>) -> Result<Option<Vec<KekRecord>>> {
    let page = store.primaries(after.as_ref(), PAGE).await?;
    let Some(last) = page.last() else { return Ok(None) };
    *after = Some(last.identity.path.clone());
    Ok(Some(page))
}

async fn show(store: &impl KekStore, path: &KeyPath, json: bool) -> Result<()> {
    let records = store.records(path).await?;
    if records.is_empty() {
        bail!("account {path} has no KEK in this store; its first `keystrata seal` makes one");
    }
    if json {
        let keks: Vec<_> = records.iter().map(kek_json).collect();
        return output::print_json(&json!({ "account": segments(path), "keks": keks }));
    }
    let mut text = format!("account     {path}\n");
    for record in &records {
        write!(
            text,
            "\nKEK id      {}\nversion     {}\nsuite       {} ({})\nstate       {}\ncreated     {}\n",
            record.identity.id,
            record.identity.version,
            record.identity.suite.to_byte(),
            record.identity.suite,
            record.state,
            Utc(record.created_at),
        )?;
        if record.retired_at != 0 {
            writeln!(text, "retired     {}", Utc(record.retired_at))?;
        }
        for wrapper in wrapped_by(record) {
            writeln!(text, "wrapped by  {wrapper}")?;
        }
    }
    output::print(&text)
}

fn kek_json(record: &KekRecord) -> Value {
    json!({
        "kek_id": record.identity.id.to_string(),
        "version": record.identity.version.get(),
        "suite": record.identity.suite.to_byte(),
        "state": record.state.to_string(),
        "created_at": record.created_at,
        "retired_at": (record.retired_at != 0).then_some(record.retired_at),
        "wrapped_by": wrapped_by(record),
    })
}

fn segments(path: &KeyPath) -> Vec<&str> {
    path.segments().collect()
}

fn wrapped_by(record: &KekRecord) -> Vec<String> {
    let name = |wrapper: &Wrapper| match wrapper {
        Wrapper::Root(id) => id.to_string(),
        Wrapper::Parent { path, kek_id } => format!("KEK {kek_id} of account {path}"),
        _ => "something this release does not know".to_owned(),
    };
    record.wraps.iter().map(|wrap| name(&wrap.wrapper)).collect()
}

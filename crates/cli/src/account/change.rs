//! `keystrata account create` and `rotate`: a first KEK, and a new one.

use anyhow::{Context, Result, bail};
use keystrata_hierarchy::{Creation, KekStore, KeyPath};
use serde_json::json;

use super::{segments, with_date};
use crate::{
    args::{NameArgs, SettingsArgs},
    keys, output,
};

pub(super) async fn create(args: &NameArgs, settings: &SettingsArgs) -> Result<()> {
    let path = KeyPath::new(&args.account)?;
    let (keys, store) = keys::open_with_store(settings).await?;
    match keys.account(path.clone())?.create().await.map_err(with_date)? {
        Creation::Created => {}
        Creation::Exists => bail!("account {path} is there already: `keystrata account rotate` gives it a new KEK"),
    }
    tell(&*store, &path, "created", args.json).await
}

pub(super) async fn rotate(args: &NameArgs, settings: &SettingsArgs) -> Result<()> {
    let path = KeyPath::new(&args.account)?;
    let (keys, store) = keys::open_with_store(settings).await?;
    keys.account(path.clone())?.rotate().await.map_err(with_date)?;
    tell(&*store, &path, "rotated", args.json).await
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

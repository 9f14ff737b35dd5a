//! `keystrata account enable`, `open-only` and `disable`: what an account may do, all of which can be undone.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use keystrata_hierarchy::{Account, AccountCopy, Change, KekRecord, KekStore, KekVersion, KeyPath, Policy};
use serde_json::json;

use super::{life_advised, list::status, segments, unknown};
use crate::{
    args::{NameArgs, SettingsArgs, StateArgs},
    keys, output,
};

pub(super) async fn enable(args: &StateArgs, settings: &SettingsArgs) -> Result<()> {
    let target = Target::open(&args.account, args.version, settings).await?;
    let change = match target.kek().await? {
        None => target.account.enable().await,
        Some(kek) => target.account.enable_version(kek.identity.id).await,
    };
    target.tell("seals and opens", "is enabled", change.map_err(life_advised)?, args.json).await
}

pub(super) async fn open_only(args: &NameArgs, settings: &SettingsArgs) -> Result<()> {
    let target = Target::open(&args.account, None, settings).await?;
    let change = target.account.open_only().await.map_err(life_advised)?;
    target.tell("opens, and does not seal", "", change, args.json).await
}

pub(super) async fn disable(args: &StateArgs, settings: &SettingsArgs) -> Result<()> {
    let target = Target::open(&args.account, args.version, settings).await?;
    let change = match target.kek().await? {
        None => target.account.disable().await,
        Some(kek) => target.account.disable_version(kek.identity.id).await,
    };
    target.tell("neither seals nor opens", "is disabled", change.map_err(life_advised)?, args.json).await
}

/// What is to change: an account, or one version of its KEK.
struct Target {
    path: KeyPath,
    version: Option<KekVersion>,
    account: Account,
    store: Arc<dyn KekStore>,
}

impl Target {
    async fn open(account: &[String], version: Option<KekVersion>, settings: &SettingsArgs) -> Result<Self> {
        let path = KeyPath::new(account)?;
        let (keys, store) = keys::open_without_roots(settings, Policy::default()).await?;
        Ok(Self { account: keys.account(path.clone())?, path, version, store })
    }

    async fn kek(&self) -> Result<Option<KekRecord>> {
        let Some(version) = self.version else { return Ok(None) };
        kek_of(&export(&*self.store, &self.path).await?, version).cloned().map(Some)
    }

    async fn tell(&self, account_does: &str, version_is: &str, change: Change, json: bool) -> Result<()> {
        let (path, changed) = (&self.path, change == Change::Made);
        if json {
            let head = self.store.head(path).await?.ok_or_else(|| unknown(path))?;
            return output::print_json(&json!({
                "account": segments(path), "version": self.version.map(KekVersion::get), "status": status(&head).name(), "changed": changed,
            }));
        }
        let before = if changed { "" } else { ", as it did before" };
        output::print(&match self.version {
            None => format!("account {path} {account_does}{before}\n"),
            Some(version) => {
                let before = if changed { "" } else { ", as it was before" };
                format!("version {version} of account {path} {version_is}{before}\n")
            }
        })
    }
}

/// All that there is of an account that can be changed.
pub(super) async fn export(store: &dyn KekStore, path: &KeyPath) -> Result<AccountCopy> {
    let copy = store.export(path).await?.ok_or_else(|| unknown(path))?;
    match copy.tombstone {
        None => Ok(copy),
        Some(tombstone) => Err(super::shredded(path, tombstone)),
    }
}

/// The record of one version.
pub(super) fn kek_of(copy: &AccountCopy, version: KekVersion) -> Result<&KekRecord> {
    let record = copy.records.iter().find(|record| record.identity.version == version);
    record.ok_or_else(|| {
        let versions: Vec<_> = copy.records.iter().map(|record| record.identity.version.to_string()).collect();
        anyhow!("account {} has no version {version}, only {}", copy.path, versions.join(", "))
    })
}

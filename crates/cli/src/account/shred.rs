//! `keystrata account shred`: an account's KEKs destroyed for ever.

use std::{fmt::Write, sync::Arc};

use anyhow::{Result, bail};
use keystrata_hierarchy::{AccountCopy, KekStore, KeyPath, Shred, Tombstone, WrappedBy, WrapperQuery};
use serde_json::json;

use super::segments;
use crate::{
    args::{SettingsArgs, ShredArgs},
    confirm, keys, output,
    utc::{self, Utc},
};

/// Accounts named in a refusal.
const NAMED: usize = 3;

pub(super) async fn run(args: &ShredArgs, settings: &SettingsArgs) -> Result<()> {
    let path = KeyPath::new(&args.account)?;
    let store = keys::open_store(&settings.store()?).await?;
    let plan = Plan::new(&store, &path).await?;
    if let Some(tombstone) = plan.copy.as_ref().and_then(|copy| copy.tombstone) {
        return tell(&path, tombstone, true, args.json);
    }
    plan.refuse_if_it_wraps_others()?;
    if args.dry_run {
        return output::print(&if args.json { plan.json() } else { plan.text()? });
    }
    confirm::by_name(&plan.text()?, &path.to_string(), args.yes_i_mean.as_deref())?;
    match store.shred(&path, utc::now()).await? {
        Shred::Shredded(tombstone) => tell(&path, tombstone, false, args.json),
        Shred::Already(tombstone) => tell(&path, tombstone, true, args.json),
        Shred::Unknown => bail!("account {path} has no KEK in this store: nothing was done"),
    }
}

/// What would be destroyed, and what hangs on it.
struct Plan {
    path: KeyPath,
    /// `None` if a record is broken: an account is shredded all the same.
    copy: Option<AccountCopy>,
    /// KEKs of other accounts that its KEKs wrap.
    children: u64,
    /// The first few of those accounts.
    named: Vec<KeyPath>,
}

impl Plan {
    async fn new(store: &Arc<dyn KekStore>, path: &KeyPath) -> Result<Self> {
        let copy = match store.export(path).await {
            Ok(Some(copy)) => Some(copy),
            Ok(None) => bail!("account {path} has no KEK in this store: nothing was done"),
            Err(error) if error.unreadable().is_some() => None,
            Err(error) => return Err(error.into()),
        };
        let mut plan = Self { path: path.clone(), copy, children: 0, named: Vec::new() };
        let mut children = WrappedBy::new(Arc::clone(store), WrapperQuery::Path(path.clone()));
        while let Some(child) = children.next().await? {
            let child = child.map_or_else(|unreadable| unreadable.path, |record| record.identity.path);
            plan.children += 1;
            if plan.named.len() < NAMED && plan.named.last() != Some(&child) {
                plan.named.push(child);
            }
        }
        Ok(plan)
    }

    /// Their objects would be lost with it, and nobody asked for that.
    fn refuse_if_it_wraps_others(&self) -> Result<()> {
        if self.children == 0 {
            return Ok(());
        }
        let named: Vec<_> = self.named.iter().map(ToString::to_string).collect();
        bail!(
            "the KEKs of account {} wrap {} KEK(s) of other accounts ({} first), which would be lost with them: shred \
             those accounts first, or give them another place",
            self.path,
            self.children,
            named.join(", ")
        )
    }

    fn text(&self) -> Result<String> {
        let mut text = format!("This destroys for ever the KEKs of account {}:\n", self.path);
        for record in self.copy.iter().flat_map(|copy| &copy.records) {
            let (id, version, created) = (record.identity.id, record.identity.version, Utc(record.created_at));
            writeln!(text, "  {id}  version {version}, {}, created {created}", record.state)?;
        }
        if self.copy.is_none() {
            text.push_str("  all that there are; some of its records cannot be read\n");
        }
        text.push_str(
            "Nothing that was sealed for it opens again, and its path is not used again. Processes that hold a KEK in memory\n\
             go on with it until its time to live is over; backups of the store hold the KEKs until they are deleted.\n",
        );
        Ok(text)
    }

    fn json(&self) -> String {
        let records = self.copy.as_ref().map(|copy| &copy.records);
        let ids: Option<Vec<_>> =
            records.map(|records| records.iter().map(|record| record.identity.id.to_string()).collect());
        let facts = json!({
            "account": segments(&self.path), "dry_run": true, "already": false,
            "shredded_at": null, "keks": ids.as_ref().map(Vec::len), "kek_ids": ids,
        });
        format!("{facts:#}\n")
    }
}

fn tell(path: &KeyPath, Tombstone { at, keks }: Tombstone, already: bool, json: bool) -> Result<()> {
    if json {
        return output::print_json(&json!({
            "account": segments(path), "dry_run": false, "already": already, "shredded_at": at, "keks": keks,
        }));
    }
    let verb = if already { "was shredded before, at" } else { "is shredded, at" };
    output::print(&format!("account {path} {verb} {}: {keks} KEK(s) destroyed\n", Utc(at)))
}

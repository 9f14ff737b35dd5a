//! `keystrata account list`: the heads of all accounts, page by page.

use std::{fmt::Write, num::NonZeroU64};

use anyhow::{Result, bail};
use keystrata_hierarchy::{Heads, KekState, KeyPath, PathHead};
use serde_json::{Value, json};

use super::segments;
use crate::{
    args::{AccountStatus, ListArgs, SettingsArgs},
    keys, output,
    utc::Utc,
};

/// Lines that are written at once.
const BATCH: usize = 256;

pub(super) async fn run(args: &ListArgs, settings: &SettingsArgs) -> Result<()> {
    let after = if args.after.is_empty() { None } else { Some(KeyPath::new(&args.after)?) };
    let store = keys::open_store(&settings.store()?).await?;
    let mut heads = Heads::new(store, after);
    let mut list = List::begin(args.json)?;
    let (mut unreadable, mut first) = (0_u64, None);
    let mut left = args.limit.map_or(u64::MAX, NonZeroU64::get);
    while left > 0 {
        let Some(head) = heads.next().await? else { break };
        match head {
            Ok(head) if is_wanted(&head, args.status) => {
                list.add(&head)?;
                left -= 1;
            }
            Ok(_) => {}
            Err(broken) => {
                unreadable += 1;
                first.get_or_insert(broken.path);
            }
        }
    }
    list.end()?;
    match first {
        None => Ok(()),
        Some(path) => bail!(
            "{unreadable} account(s) cannot be read and are left out, account {path} first: `keystrata store check` says why"
        ),
    }
}

/// Which of the statuses an account is in.
pub(super) fn status(head: &PathHead) -> AccountStatus {
    match (&head.primary, head.tombstone) {
        (_, Some(_)) => AccountStatus::Shredded,
        (Some(primary), None) if primary.state == KekState::Disabled => AccountStatus::Disabled,
        // Its primary all the same: see docs/lifecycle.md.
        (Some(primary), None) if primary.state == KekState::Retired => AccountStatus::OpenOnly,
        (Some(_), None) => AccountStatus::Enabled,
        (None, None) => AccountStatus::NoPrimary,
    }
}

fn is_wanted(head: &PathHead, wanted: Option<AccountStatus>) -> bool {
    let status = status(head);
    match wanted {
        None => status != AccountStatus::Shredded,
        Some(AccountStatus::All) => true,
        Some(wanted) => status == wanted,
    }
}

/// Written as it comes: a store may hold a million accounts, and the first should not wait for the last.
struct List {
    json: bool,
    count: u64,
    text: String,
    lines: usize,
}

impl List {
    fn begin(json: bool) -> Result<Self> {
        let mut list = Self { json, count: 0, text: String::new(), lines: 0 };
        if json {
            list.text.push_str("{\n  \"accounts\": [");
        } else {
            writeln!(list.text, "{:32}  {:>7}  {:20}  {:10}  ACCOUNT", "KEK ID", "VERSION", "CREATED", "STATUS")?;
        }
        list.flush()?;
        Ok(list)
    }

    fn add(&mut self, head: &PathHead) -> Result<()> {
        if self.json {
            let comma = if self.count == 0 { "" } else { "," };
            write!(self.text, "{comma}\n    {}", entry(head))?;
        } else {
            let status = status(head).name();
            let path = &head.path;
            match &head.primary {
                Some(primary) => {
                    let (id, version) = (primary.identity.id, primary.identity.version);
                    let created = Utc(primary.created_at).to_string();
                    writeln!(self.text, "{id}  {version:>7}  {created:20}  {status:10}  {path}")?;
                }
                None => writeln!(self.text, "{:32}  {:>7}  {:20}  {status:10}  {path}", "-", "-", "-")?,
            }
        }
        self.count += 1;
        self.lines += 1;
        if self.lines == BATCH { self.flush() } else { Ok(()) }
    }

    fn end(mut self) -> Result<()> {
        if self.json {
            self.text.push_str(if self.count == 0 { "]\n}\n" } else { "\n  ]\n}\n" });
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.lines = 0;
        output::print(&std::mem::take(&mut self.text))
    }
}

fn entry(head: &PathHead) -> Value {
    let primary = head.primary.as_ref();
    json!({
        "account": segments(&head.path),
        "status": status(head).name(),
        "kek_id": primary.map(|record| record.identity.id.to_string()),
        "version": primary.map(|record| record.identity.version.get()),
        "suite": primary.map(|record| record.identity.suite.to_byte()),
        "created_at": primary.map(|record| record.created_at),
        "shredded_at": head.tombstone.map(|tombstone| tombstone.at),
    })
}

//! `keystrata account`: what the KEK store holds, and what an operator does to one account.

mod change;
mod list;
mod show;
mod shred;

use anyhow::{Error, Result, anyhow};
use keystrata_hierarchy::{KekRecord, KeyError, KeyPath, StoreError, Tombstone};
use keystrata_primitives::Wrapper;

use crate::{
    args::{AccountArgs, AccountCommand, SettingsArgs},
    utc::Utc,
};

pub(crate) async fn run(args: &AccountArgs, settings: &SettingsArgs) -> Result<()> {
    match &args.command {
        AccountCommand::List(args) => list::run(args, settings).await,
        AccountCommand::Show(args) => show::run(args, settings).await,
        AccountCommand::Create(args) => change::create(args, settings).await,
        AccountCommand::Rotate(args) => change::rotate(args, settings).await,
        AccountCommand::Shred(args) => shred::run(args, settings).await,
    }
}

pub(crate) fn segments(path: &KeyPath) -> Vec<&str> {
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

/// Adds when it was to what the library says of a shredded account.
fn with_date(error: KeyError) -> Error {
    match &error {
        KeyError::Shredded(StoreError::Shredded { path, tombstone }) => shredded(path, *tombstone),
        _ => error.into(),
    }
}

fn shredded(path: &KeyPath, Tombstone { at, keks }: Tombstone) -> Error {
    anyhow!(
        "account {path} was shredded at {}: its {keks} KEK(s) were destroyed, and its path is not used again; choose \
         another name",
        Utc(at)
    )
}

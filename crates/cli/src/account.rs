//! `keystrata account`: what the KEK store holds, and what an operator does to one account.

mod change;
mod list;
mod recover;
mod show;
mod shred;
mod state;
mod versions;

use anyhow::{Error, Result, anyhow};
use keystrata_hierarchy::{KekRecord, KekStore, KeyError, KeyPath, LifecycleError, StoreError, Tombstone};
use keystrata_primitives::Wrapper;

use crate::{
    args::{AccountArgs, AccountCommand, SettingsArgs},
    failure::Outcome,
    utc::Utc,
};

pub(crate) async fn run(args: &AccountArgs, settings: &SettingsArgs) -> Result<Outcome> {
    let done = match &args.command {
        AccountCommand::List(args) => list::run(args, settings).await,
        AccountCommand::Show(args) => show::run(args, settings).await,
        AccountCommand::Create(args) => change::create(args, settings).await,
        AccountCommand::Rotate(args) => return change::rotate(args, settings).await,
        AccountCommand::Enable(args) => state::enable(args, settings).await,
        AccountCommand::OpenOnly(args) => state::open_only(args, settings).await,
        AccountCommand::Disable(args) => state::disable(args, settings).await,
        AccountCommand::MinVersion(args) => versions::raise_floor(args, settings).await,
        AccountCommand::DestroyVersion(args) => versions::destroy(args, settings).await,
        AccountCommand::Recover(args) => return recover::run(args, settings).await,
        AccountCommand::Shred(args) => shred::run(args, settings).await,
    };
    done.map(|()| Outcome::Done)
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
pub(crate) fn advised(error: KeyError) -> Error {
    match &error {
        KeyError::Shredded(StoreError::Shredded { path, tombstone }) => shredded(path, *tombstone),
        _ => error.into(),
    }
}

/// [`advised`] for what needs an account that is there.
pub(crate) fn life_advised(error: LifecycleError) -> Error {
    match error {
        LifecycleError::Key(KeyError::NoAccount { path }) => unknown(&path),
        LifecycleError::Key(error) => advised(error),
        error => error.into(),
    }
}

/// Refuses an account that is not there, or not any more.
pub(crate) async fn refuse_unknown(store: &dyn KekStore, path: &KeyPath) -> Result<()> {
    let head = store.head(path).await?.ok_or_else(|| unknown(path))?;
    head.tombstone.map_or(Ok(()), |tombstone| Err(shredded(path, tombstone)))
}

fn unknown(path: &KeyPath) -> Error {
    anyhow!("account {path} has no KEK in this store: nothing was done")
}

fn shredded(path: &KeyPath, Tombstone { at, keks }: Tombstone) -> Error {
    anyhow!(
        "account {path} was shredded at {}: its {keks} KEK(s) were destroyed, and its path is not used again; choose \
         another name",
        Utc(at)
    )
}

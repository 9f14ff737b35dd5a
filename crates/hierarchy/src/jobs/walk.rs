//! The accounts that a job goes through, in the order of their paths.

use std::sync::Arc;

use keystrata_primitives::{KekId, KeyPath};

use super::Task;
use crate::{
    error::KeyError,
    store::{Heads, KekStore, PathHead, StoreError, WrapperQuery},
};

/// Records asked for at a time.
const PAGE: usize = 256;

/// The last KEK of an account, in the order in which records are listed.
const LAST: KekId = KekId::from_bytes([0xff; KekId::LEN]);

/// One account, and what was listed of it; or that it cannot be read.
pub(super) struct Found {
    pub(super) path: KeyPath,
    pub(super) head: Result<Option<PathHead>, KeyError>,
}

pub(super) struct Walk {
    /// The account that was found last.
    place: Option<KeyPath>,
    accounts: Accounts,
}

enum Accounts {
    All(Heads),
    Under { store: Arc<dyn KekStore>, wrapper: WrapperQuery },
}

impl Walk {
    pub(super) fn new(store: Arc<dyn KekStore>, task: &Task, place: Option<&KeyPath>) -> Self {
        let place = place.cloned();
        let accounts = match task {
            Task::Reroot { under: Some(wrapper), .. } => Accounts::Under { store, wrapper: wrapper.clone() },
            _ => Accounts::All(Heads::new(store, place.clone())),
        };
        Self { place, accounts }
    }

    pub(super) fn place(&self) -> Option<&KeyPath> {
        self.place.as_ref()
    }

    /// The next `most` accounts, and whether these are the last.
    pub(super) async fn next_batch(&mut self, most: usize) -> Result<(Vec<Found>, bool), StoreError> {
        let mut batch = Vec::new();
        while batch.len() < most {
            let found = match &mut self.accounts {
                Accounts::All(heads) => match heads.next().await? {
                    None => return Ok((batch, true)),
                    Some(Ok(head)) => Found { path: head.path.clone(), head: Ok(Some(head)) },
                    Some(Err(unreadable)) => {
                        Found { path: unreadable.path, head: Err(KeyError::from_store(unreadable.error, None)) }
                    }
                },
                Accounts::Under { store, wrapper } => {
                    let before = batch.len();
                    under(&**store, wrapper, &mut self.place, &mut batch).await?;
                    if batch.len() == before {
                        return Ok((batch, true));
                    }
                    continue;
                }
            };
            self.place = Some(found.path.clone());
            batch.push(found);
        }
        Ok((batch, false))
    }
}

/// The accounts of one page of records after `place`, each once; none if there is no further record. So a batch may come
/// out a page longer than asked for.
async fn under(
    store: &dyn KekStore,
    wrapper: &WrapperQuery,
    place: &mut Option<KeyPath>,
    batch: &mut Vec<Found>,
) -> Result<(), StoreError> {
    let page = store.by_wrapper(wrapper, place.as_ref().map(|path| (path, LAST)), PAGE).await;
    let paths: Vec<_> = match page {
        Ok(page) => page.into_iter().map(|record| record.identity.path).collect(),
        // Whether something before it in the page would have been listed cannot be told: one at a time up to it.
        Err(error) if error.unreadable().is_some() => {
            match store.by_wrapper(wrapper, place.as_ref().map(|path| (path, LAST)), 1).await {
                Ok(page) => page.into_iter().map(|record| record.identity.path).collect(),
                Err(error) => {
                    let Some(path) = error.unreadable().cloned() else { return Err(error) };
                    refuse_out_of_order(place.as_ref(), &path)?;
                    *place = Some(path.clone());
                    batch.push(Found { path, head: Err(KeyError::from_store(error, None)) });
                    return Ok(());
                }
            }
        }
        Err(error) => return Err(error),
    };
    for path in paths {
        if place.as_ref() == Some(&path) {
            continue;
        }
        refuse_out_of_order(place.as_ref(), &path)?;
        *place = Some(path.clone());
        batch.push(Found { path, head: Ok(None) });
    }
    Ok(())
}

/// A store that answers in another order would be gone through for ever.
fn refuse_out_of_order(place: Option<&KeyPath>, path: &KeyPath) -> Result<(), StoreError> {
    match place {
        Some(place) if path <= place => Err(StoreError::incompatible(format!("it lists account {path} out of order"))),
        _ => Ok(()),
    }
}

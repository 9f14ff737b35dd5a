//! Lists of paths: that of all accounts, and for each wrapper that of the accounts with a record by it.
//!
//! Items of their own, written by the transaction that makes them true. A secondary index of DynamoDB follows its table
//! later, and who asks whether a root key still wraps anything must not be told of yesterday.

use std::collections::BTreeSet;

use keystrata_hierarchy::{KekRecord, KeyPath, StoreError};

use super::{
    commit::Write,
    error::Failure,
    items::{key_of, keyed},
    keys::{Entry, List, entry, split},
    table::Table,
};
use crate::{
    rows::Misplaced,
    wrappers::{IndexKey, index_keys},
};

/// Items asked for at a time.
const PAGE: usize = 1000;

/// At most `limit` paths of `list` after `after`, in the order of [`KeyPath::as_bytes`].
pub(super) async fn paths(
    table: &Table,
    list: &List,
    after: Option<&KeyPath>,
    limit: usize,
) -> Result<Vec<KeyPath>, Failure> {
    let mut found = Vec::new();
    let mut after = match after {
        None => None,
        Some(path) => match split(path) {
            Some((first, eighth)) => {
                branch(table, list, &first, Some(eighth), limit, &mut found).await?;
                Some(first)
            }
            None => Some(list.place(path).entry.sk),
        },
    };
    while found.len() < limit {
        let wanted = (limit - found.len()).min(PAGE);
        let page = table.query(list.pk(), after.as_deref(), wanted).await?;
        let is_last = page.len() < wanted;
        for sk in page.iter().filter_map(key_of).map(|key| key.sk) {
            match entry(None, &sk)? {
                Entry::Path(path) if found.len() < limit => found.push(path),
                Entry::Path(_) => break,
                Entry::Branch => branch(table, list, &sk, None, limit, &mut found).await?,
            }
            after = Some(sk);
        }
        if is_last {
            break;
        }
    }
    Ok(found)
}

/// The same of the paths that begin with the seven segments `first`, until there are `limit` in `found`.
async fn branch(
    table: &Table,
    list: &List,
    first: &str,
    mut after: Option<String>,
    limit: usize,
    found: &mut Vec<KeyPath>,
) -> Result<(), Failure> {
    let behind = list.behind(first);
    while found.len() < limit {
        let wanted = (limit - found.len()).min(PAGE);
        let page = table.query(behind.pk(), after.as_deref(), wanted).await?;
        for sk in page.iter().filter_map(key_of).map(|key| key.sk) {
            if let Entry::Path(path) = entry(Some(first), &sk)? {
                found.push(path);
            }
            after = Some(sk);
        }
        if page.len() < wanted {
            break;
        }
    }
    Ok(())
}

/// Puts `path` into a list. What leads there stays for ever: it stands for other paths too.
pub(super) fn enter(list: &List, path: &KeyPath) -> Vec<Write> {
    let place = list.place(path);
    [Some(place.entry), place.branch].into_iter().flatten().map(|key| Write::Set { item: keyed(&key) }).collect()
}

/// Takes it out again.
pub(super) fn leave(list: &List, path: &KeyPath) -> Write {
    Write::Delete { key: list.place(path).entry }
}

pub(super) fn enter_wrappers<'a>(path: &KeyPath, wrappers: impl IntoIterator<Item = &'a IndexKey>) -> Vec<Write> {
    wrappers.into_iter().flat_map(|wrapper| enter(&List::wrapped_by(wrapper), path)).collect()
}

pub(super) fn leave_wrappers<'a>(path: &KeyPath, wrappers: impl IntoIterator<Item = &'a IndexKey>) -> Vec<Write> {
    wrappers.into_iter().map(|wrapper| leave(&List::wrapped_by(wrapper), path)).collect()
}

/// What the new account `path` with these records is listed by.
pub(super) fn enter_account<'a>(path: &KeyPath, records: impl IntoIterator<Item = &'a KekRecord>) -> Vec<Write> {
    let wrappers: BTreeSet<_> = records.into_iter().flat_map(index_keys).collect();
    let mut writes = enter(&List::accounts(), path);
    writes.extend(enter_wrappers(path, &wrappers));
    writes
}

/// Told of a listed account that is not there.
pub(super) fn not_there(path: &KeyPath) -> StoreError {
    Misplaced("existence").of(path.clone())
}

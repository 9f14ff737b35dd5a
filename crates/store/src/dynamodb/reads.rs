//! What is read, and how it comes to be of one moment.

use std::{collections::VecDeque, sync::Arc};

use keystrata_hierarchy::{AccountCopy, KekId, KekRecord, KekState, KeyPath, PathHead, StoreError, WrapperQuery};
use tokio::task::JoinHandle;

use super::{
    error::Failure,
    items::{Head, Item, SetHash, Stored, key_of},
    keys::{HEAD, KEK, Key, List, account, keks_of},
    list, schema,
    table::{Table, pause},
};
use crate::wrappers::index_key;

/// Accounts read at once by a listing.
const AHEAD: usize = 16;
/// Heads asked for at a time.
const PAGE: usize = 256;
/// How often an account is read that somebody is changing.
const ATTEMPTS: u32 = 8;

pub(super) async fn head(table: &Table, path: &KeyPath) -> Result<Option<Head>, Failure> {
    let item = table.get(&Key::head(path)).await?;
    Ok(item.map(|item| Head::read(path, &item)).transpose()?)
}

/// The head that a change begins with, in a table of this release.
pub(super) async fn head_to_change(table: &Table, path: &KeyPath) -> Result<Option<Head>, Failure> {
    let keys = [Key::schema(), Key::head(path)];
    let found = table.get_all(&keys).await?;
    schema::check(&table.at, found.get(&keys[0]))?;
    Ok(found.get(&keys[1]).map(|item| Head::read(path, item)).transpose()?)
}

pub(super) async fn record(table: &Table, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, Failure> {
    let Some(head) = head(table, path).await? else { return Ok(None) };
    head.account.refuse_if_shredded()?;
    if head.account.primary == Some(id) {
        let primary = head.primary().cloned();
        return Ok(head.usable(primary.as_ref())?);
    }
    let key = Key::kek(path, &head.life, id);
    let stored = table.get(&key).await?.as_ref().and_then(Stored::read);
    let Some(stored) = stored else {
        // A transaction reaches one item after the other. Whether the KEK has just been moved here is asked of both at once.
        return record_together(table, path, id, &key).await;
    };
    let record = head.usable(Some(&stored))?;
    if record.as_ref().is_some_and(|record| record.state == KekState::Destroyed) {
        return record_together(table, path, id, &key).await;
    }
    Ok(record)
}

async fn record_together(table: &Table, path: &KeyPath, id: KekId, key: &Key) -> Result<Option<KekRecord>, Failure> {
    let mut found = table.get_together(&[Key::head(path), key.clone()]).await?.into_iter();
    let Some(item) = found.next().flatten() else { return Ok(None) };
    let head = Head::read(path, &item)?;
    let is_primary = head.account.primary == Some(id);
    let stored =
        if is_primary { head.primary().cloned() } else { found.next().flatten().as_ref().and_then(Stored::read) };
    Ok(head.usable(stored.as_ref())?)
}

/// An account as it is stored.
pub(super) struct Snapshot {
    pub(super) head: Head,
    /// Beside the primary, with their keys.
    pub(super) others: Vec<(Key, Stored)>,
    /// What a creation or an import left behind that came to nothing.
    pub(super) strays: Vec<Key>,
    /// Whether these are all that the head counts. If not, somebody changes the account, or something is lost.
    is_whole: bool,
}

impl Snapshot {
    /// The account as it is now; what is being written may be missing.
    pub(super) async fn look(table: &Table, path: &KeyPath) -> Result<Option<Self>, Failure> {
        let items = table.query(&account(path), None, usize::MAX).await?;
        let mut head = None;
        let mut keks: Vec<(Key, Item)> = Vec::new();
        for item in items {
            match key_of(&item) {
                Some(key) if key.sk == HEAD => head = Some(Head::read(path, &item)?),
                Some(key) if key.sk.starts_with(KEK) => keks.push((key, item)),
                _ => {}
            }
        }
        let Some(head) = head else { return Ok(None) };
        let own = keks_of(&head.life);
        let (own, strays): (Vec<_>, Vec<_>) = keks.into_iter().partition(|(key, _)| key.sk.starts_with(&own));
        let mut hash = SetHash::default();
        let mut others = Vec::with_capacity(own.len());
        for (key, item) in own {
            let Some(stored) = Stored::read(&item) else { return Err(list::not_there(path).into()) };
            hash.toggle(&stored);
            others.push((key, stored));
        }
        let strays = strays.into_iter().map(|(key, _)| key).collect();
        let is_whole = hash == head.others;
        Ok(Some(Self { head, others, strays, is_whole }))
    }

    /// The account as of one moment, if it settles down: else as it was seen last.
    pub(super) async fn seen(table: &Table, path: &KeyPath) -> Result<Option<Self>, Failure> {
        for attempt in 1..ATTEMPTS {
            match Self::look(table, path).await? {
                Some(snapshot) if !snapshot.is_whole => pause(attempt).await,
                settled => return Ok(settled),
            }
        }
        Self::look(table, path).await
    }

    /// The account as of one moment.
    pub(super) async fn take(table: &Table, path: &KeyPath) -> Result<Option<Self>, Failure> {
        let Some(first) = Self::seen(table, path).await? else { return Ok(None) };
        // What is left of a shredded account is of no use to anybody, and may be on its way out.
        if first.is_whole || first.head.account.tombstone.is_some() {
            return Ok(Some(first));
        }
        let again = Self::look(table, path).await?;
        match again {
            Some(again) if again.head.revision == first.head.revision && !again.is_whole => {
                Err(StoreError::Corrupt { path: path.clone(), source: Arc::new(Incomplete) }.into())
            }
            Some(again) if again.is_whole => Ok(Some(again)),
            _ => Err(table.busy().into()),
        }
    }

    /// What [`KekStore::export`](keystrata_hierarchy::KekStore::export) gives.
    pub(super) fn copy(self) -> Result<AccountCopy, StoreError> {
        let path = &self.head.account.path;
        let stored = self.others.iter().map(|(_, stored)| stored).chain(self.head.primary());
        let mut records = stored.map(|stored| stored.record(path)).collect::<Result<Vec<_>, _>>()?;
        records.sort_by_key(|record| record.identity.version);
        if self.head.account.tombstone.is_some() {
            // Of a shredding that was interrupted: nobody gets these any more.
            for record in &mut records {
                (record.state, record.wraps) = (KekState::Destroyed, Vec::new());
            }
        }
        Ok(self.head.account.copy(records))
    }
}

/// Why an account cannot be read as a whole.
#[derive(Debug, thiserror::Error)]
#[error("its records are not those that its head tells of")]
struct Incomplete;

pub(super) async fn export(table: &Table, path: &KeyPath) -> Result<Option<AccountCopy>, Failure> {
    let Some(snapshot) = Snapshot::take(table, path).await? else { return Ok(None) };
    Ok(Some(snapshot.copy()?))
}

pub(super) async fn accounts(table: &Table, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, Failure> {
    let mut heads: Vec<PathHead> = Vec::new();
    let mut after = after.cloned();
    while heads.len() < limit {
        let wanted = (limit - heads.len()).min(PAGE);
        let paths = list::paths(table, &List::accounts(), after.as_ref(), wanted).await?;
        let is_last = paths.len() < wanted;
        let keys: Vec<_> = paths.iter().map(Key::head).collect();
        let mut found = table.get_all(&keys).await?;
        for (path, key) in paths.iter().zip(&keys) {
            let item = if let Some(item) = found.remove(key) {
                item
            } else {
                // Its creation may be reaching one item after the other, unless it is lost.
                let item = table.get_together(std::slice::from_ref(key)).await?.pop().flatten();
                item.ok_or_else(|| list::not_there(path))?
            };
            heads.push(Head::read(path, &item)?.path_head()?);
        }
        after = paths.into_iter().next_back();
        if is_last {
            break;
        }
    }
    Ok(heads)
}

pub(super) async fn by_wrapper(
    table: &Arc<Table>,
    query: &WrapperQuery,
    after: Option<(&KeyPath, KekId)>,
    limit: usize,
) -> Result<Vec<KekRecord>, Failure> {
    let list = List::wrapped_by(&index_key(query));
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    // The account that the page before ended in may have more.
    if let Some((path, id)) = after {
        let records = wrapped(table, query, path).await?;
        found.extend(records.into_iter().filter(|record| record.identity.id.as_bytes() > id.as_bytes()));
        found.truncate(limit);
    }
    let mut after = after.map(|(path, _)| path.clone());
    while found.len() < limit {
        let wanted = (limit - found.len()).min(PAGE);
        let paths = list::paths(table, &list, after.as_ref(), wanted).await?;
        let is_last = paths.len() < wanted;
        after = paths.last().cloned();
        let mut ahead = Ahead::new(table, query, paths);
        while found.len() < limit {
            let Some(records) = ahead.next().await else { break };
            found.extend(records?);
        }
        found.truncate(limit);
        if is_last {
            break;
        }
    }
    Ok(found)
}

/// The records of one account that have a wrap by what is asked for, in the order of their ids. None, if the list is ahead
/// of the account or behind.
async fn wrapped(table: &Table, query: &WrapperQuery, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
    let Some(copy) = export(table, path).await? else { return Ok(Vec::new()) };
    let mut records: Vec<_> = copy.records.into_iter().filter(|record| query.matches(record)).collect();
    records.sort_by_key(|record| *record.identity.id.as_bytes());
    Ok(records)
}

type Wrapped = Result<Vec<KekRecord>, StoreError>;

/// Accounts that are read at once and given in their order.
struct Ahead<'a> {
    table: &'a Arc<Table>,
    query: &'a WrapperQuery,
    paths: std::vec::IntoIter<KeyPath>,
    begun: VecDeque<JoinHandle<Wrapped>>,
}

impl<'a> Ahead<'a> {
    fn new(table: &'a Arc<Table>, query: &'a WrapperQuery, paths: Vec<KeyPath>) -> Self {
        Self { table, query, paths: paths.into_iter(), begun: VecDeque::with_capacity(AHEAD) }
    }

    async fn next(&mut self) -> Option<Wrapped> {
        while self.begun.len() < AHEAD
            && let Some(path) = self.paths.next()
        {
            let (table, query) = (Arc::clone(self.table), self.query.clone());
            self.begun.push_back(tokio::spawn(async move { wrapped(&table, &query, &path).await }));
        }
        let answer = self.begun.front_mut()?.await;
        self.begun.pop_front();
        Some(answer.unwrap_or_else(|stopped| Err(StoreError::unavailable("a read was given up: try again", stopped))))
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        for reading in &self.begun {
            reading.abort();
        }
    }
}

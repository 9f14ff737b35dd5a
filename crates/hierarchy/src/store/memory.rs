//! A store in memory: for tests, and for services whose objects need not outlive the process.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use keystrata_primitives::{KekId, KekRecord, KekState, KekVersion, KeyPath};

use super::{
    AccountCopy, Creation, Import, KekStore, PathHead, Raise, Rotation, Shred, StoreError, Update, WrapperQuery,
};

/// A [`KekStore`] that is gone with the process, and every object sealed under its KEKs with it.
#[derive(Debug, Default)]
pub struct MemoryKekStore {
    /// `KeyPath` orders by its encoding.
    accounts: Mutex<BTreeMap<KeyPath, AccountCopy>>,
}

impl MemoryKekStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<KeyPath, AccountCopy>> {
        // No code panics while it holds the lock.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn after<T>(key: Option<T>) -> Bound<T> {
    key.map_or(Bound::Unbounded, Bound::Excluded)
}

#[async_trait]
impl KekStore for MemoryKekStore {
    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        Ok(self.accounts().get(path).map(AccountCopy::head))
    }

    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        let accounts = self.accounts();
        let Some(account) = accounts.get(path) else { return Ok(None) };
        account.head().refuse_if_shredded()?;
        let record = account.records.iter().find(|record| record.identity.id == id).cloned();
        record.map(|record| StoreError::check_min_version(record, account.min_version)).transpose()
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        Ok(self.accounts().get(path).cloned())
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        // What could not be written as bytes must not get in here either.
        StoreError::check_new_primary(record)?;
        let path = &record.identity.path;
        match self.accounts().entry(path.clone()) {
            Entry::Occupied(known) => known.get().head().refuse_if_shredded().map(|()| Creation::Exists),
            Entry::Vacant(new) => {
                new.insert(AccountCopy {
                    path: path.clone(),
                    records: vec![record.clone()],
                    primary: Some(record.identity.id),
                    min_version: KekVersion::FIRST,
                    tombstone: None,
                });
                Ok(Creation::Created)
            }
        }
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        StoreError::check_new_primary(record)?;
        let mut accounts = self.accounts();
        let Some(account) = accounts.get_mut(&record.identity.path) else { return Ok(Rotation::Superseded) };
        account.head().refuse_if_shredded()?;
        let is_primary = |known: &KekRecord| known.identity.id == previous && known.state == KekState::Primary;
        let old = account.records.iter_mut().find(|known| is_primary(known));
        let Some(old) = old else { return Ok(Rotation::Superseded) };
        *old = StoreError::check_later(old.clone(), record)?;
        account.records.push(record.clone());
        account.primary = Some(record.identity.id);
        Ok(Rotation::Rotated)
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        StoreError::check_same_kek(expected, new)?;
        let mut accounts = self.accounts();
        let Some(account) = accounts.get_mut(&expected.identity.path) else { return Ok(Update::Changed) };
        account.head().refuse_if_shredded()?;
        let Some(stored) = account.records.iter_mut().find(|stored| *stored == expected) else {
            return Ok(Update::Changed);
        };
        StoreError::check_update(stored, new, account.primary == Some(stored.identity.id))?;
        stored.clone_from(new);
        Ok(Update::Updated)
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        let mut accounts = self.accounts();
        let Some(account) = accounts.get_mut(path) else { return Ok(Raise::AbovePrimary) };
        let head = account.head();
        head.refuse_if_shredded()?;
        let raise = head.raise(to);
        if raise == Raise::Raised {
            account.min_version = to;
        }
        Ok(raise)
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        let mut accounts = self.accounts();
        let Some(account) = accounts.get_mut(path) else { return Ok(Shred::Unknown) };
        if let Some(tombstone) = account.tombstone {
            return Ok(Shred::Already(tombstone));
        }
        *account = account.clone().shredded(at);
        Ok(account.tombstone.map_or(Shred::Unknown, Shred::Shredded))
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        StoreError::check_copy(copy)?;
        match self.accounts().entry(copy.path.clone()) {
            Entry::Occupied(known) if known.get() == copy => Ok(Import::Same),
            Entry::Occupied(_) => Ok(Import::Differs),
            Entry::Vacant(new) => {
                new.insert(copy.clone());
                Ok(Import::Imported)
            }
        }
    }

    async fn accounts(&self, start: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        let accounts = self.accounts();
        let later = accounts.range::<KeyPath, _>((after(start), Bound::Unbounded));
        Ok(later.map(|(_, account)| account.head()).take(limit).collect())
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        start: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        let mut found = Vec::new();
        let accounts = self.accounts();
        let from = start.map_or(Bound::Unbounded, |(path, _)| Bound::Included(path));
        for (path, account) in accounts.range::<KeyPath, _>((from, Bound::Unbounded)) {
            let is_later = |id: &KekId| start.is_none_or(|start| (path, id.as_bytes()) > (start.0, start.1.as_bytes()));
            let mut records: Vec<_> = account.records.iter().filter(|record| is_later(&record.identity.id)).collect();
            records.sort_by_key(|record| *record.identity.id.as_bytes());
            found.extend(
                records.into_iter().filter(|record| wrapper.matches(record)).take(limit - found.len()).cloned(),
            );
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }
}

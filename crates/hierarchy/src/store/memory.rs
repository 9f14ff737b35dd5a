//! A store in memory: for tests, and for services whose objects need not outlive the process.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use keystrata_primitives::{KekId, KekRecord, KekState, KeyPath};

use super::{Creation, KekStore, Rotation, StoreError};

/// A [`KekStore`] that is gone with the process, and every object sealed under its KEKs with it.
#[derive(Debug, Default)]
pub struct MemoryKekStore {
    /// By path, oldest version first. `KeyPath` orders by its encoding.
    accounts: Mutex<BTreeMap<KeyPath, Vec<KekRecord>>>,
}

impl MemoryKekStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<KeyPath, Vec<KekRecord>>> {
        // No code panics while it holds the lock.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn primary_of(records: &[KekRecord]) -> Option<&KekRecord> {
    records.iter().find(|record| record.state == KekState::Primary)
}

#[async_trait]
impl KekStore for MemoryKekStore {
    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        let accounts = self.accounts();
        let records = accounts.get(path).map_or(&[][..], Vec::as_slice);
        Ok(records.iter().find(|record| record.identity.id == id).cloned())
    }

    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        Ok(self.accounts().get(path).and_then(|records| primary_of(records)).cloned())
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        // What could not be written as bytes must not get in here either.
        StoreError::check_new_primary(record)?;
        let path = &record.identity.path;
        let mut accounts = self.accounts();
        if accounts.contains_key(path) {
            return Ok(Creation::Exists);
        }
        accounts.insert(path.clone(), vec![record.clone()]);
        Ok(Creation::Created)
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        StoreError::check_new_primary(record)?;
        let mut accounts = self.accounts();
        let Some(records) = accounts.get_mut(&record.identity.path) else { return Ok(Rotation::Superseded) };
        let is_primary = |known: &KekRecord| known.identity.id == previous && known.state == KekState::Primary;
        let Some(old) = records.iter_mut().find(|known| is_primary(known)) else { return Ok(Rotation::Superseded) };
        StoreError::check_later(old, record)?;
        old.state = KekState::Retired;
        old.retired_at = record.created_at;
        records.push(record.clone());
        Ok(Rotation::Rotated)
    }

    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
        Ok(self.accounts().get(path).cloned().unwrap_or_default())
    }

    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let accounts = self.accounts();
        let later = accounts.range::<KeyPath, _>((start, Bound::Unbounded));
        Ok(later.filter_map(|(_, records)| primary_of(records)).take(limit).cloned().collect())
    }
}

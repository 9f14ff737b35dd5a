//! A store in memory: for tests, and for services whose objects need not outlive the process.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use keystrata_primitives::{KekId, KekRecord, KekState, KeyPath, RecordError};

use super::{Creation, KekStore, StoreError};

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
        let path = &record.identity.path;
        // What could not be written as bytes must not get in here either.
        record.encode().map_err(|error| StoreError::corrupt(path, error))?;
        if record.state != KekState::Primary {
            let error = RecordError::Malformed("the first record of an account must be its primary");
            return Err(StoreError::corrupt(path, error));
        }
        let mut accounts = self.accounts();
        if accounts.contains_key(path) {
            return Ok(Creation::Exists);
        }
        accounts.insert(path.clone(), vec![record.clone()]);
        Ok(Creation::Created)
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

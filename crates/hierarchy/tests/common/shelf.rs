//! A store that gives whatever a test puts there, broken or not, and whose imports fail on cue.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Creation, Import, KekId, KekRecord, KekStore, KekVersion, KeyPath, PathHead, Raise, Rotation, Shred,
    StoreError, Update, WrapperQuery,
};

/// How an import fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nothing was written.
    Request,
    /// It was written, and nobody was told.
    Answer,
}

#[derive(Debug, Default)]
pub(crate) struct Shelf {
    accounts: Mutex<BTreeMap<KeyPath, Result<AccountCopy, StoreError>>>,
    /// After how many imports one fails, and how.
    fault: Mutex<Option<(usize, Lost)>>,
    /// Whether it lists the first page again and again.
    is_in_circles: AtomicBool,
    /// Whether it keeps something else than it was given.
    pub(crate) is_forgetful: bool,
}

impl Shelf {
    pub(crate) fn put(&self, copy: AccountCopy) {
        self.accounts().insert(copy.path.clone(), Ok(copy));
    }

    /// Lets every look at `path` fail.
    pub(crate) fn put_error(&self, path: &KeyPath, error: StoreError) {
        self.accounts().insert(path.clone(), Err(error));
    }

    pub(crate) fn fail_after(&self, imports: usize, lost: Lost) {
        *self.fault.lock().unwrap() = Some((imports, lost));
    }

    pub(crate) fn always_from_the_start(&self) {
        self.is_in_circles.store(true, Ordering::SeqCst);
    }

    /// All that is there.
    pub(crate) fn copies(&self) -> Vec<AccountCopy> {
        self.accounts().values().map(|account| account.clone().unwrap()).collect()
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<KeyPath, Result<AccountCopy, StoreError>>> {
        self.accounts.lock().unwrap()
    }

    fn next_fault(&self) -> Option<Lost> {
        let mut fault = self.fault.lock().unwrap();
        match &mut *fault {
            Some((0, lost)) => {
                let lost = *lost;
                *fault = None;
                Some(lost)
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }
}

#[async_trait]
impl KekStore for Shelf {
    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        self.accounts().get(path).cloned().transpose().map(|copy| copy.map(|copy| copy.head()))
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        self.accounts().get(path).cloned().transpose()
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        StoreError::check_copy(copy)?;
        let fault = self.next_fault();
        let lost = || StoreError::Unavailable { message: "lost on the way".into(), source: None };
        if fault == Some(Lost::Request) {
            return Err(lost());
        }
        let there = self.accounts().get(&copy.path).cloned().transpose()?;
        let import = match there {
            Some(there) if there == *copy => Import::Same,
            Some(_) => Import::Differs,
            None => {
                let mut kept = copy.clone();
                if self.is_forgetful {
                    kept.records[0].created_at += 1;
                }
                self.put(kept);
                Import::Imported
            }
        };
        if fault == Some(Lost::Answer) { Err(lost()) } else { Ok(import) }
    }

    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        let after = after.filter(|_| !self.is_in_circles.load(Ordering::SeqCst));
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let accounts = self.accounts();
        let page = accounts.range::<KeyPath, _>((from, Bound::Unbounded)).take(limit);
        page.map(|(_, account)| account.as_ref().map(AccountCopy::head).map_err(Clone::clone)).collect()
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        let after = after.filter(|_| !self.is_in_circles.load(Ordering::SeqCst));
        let is_later = |path: &KeyPath, id: KekId| {
            after.is_none_or(|(after, after_id)| (path, id.as_bytes()) > (after, after_id.as_bytes()))
        };
        let mut found = Vec::new();
        for (path, account) in self.accounts().iter() {
            let copy = match account {
                Ok(copy) => copy,
                Err(_) if !is_later(path, KekId::from_bytes([0xff; KekId::LEN])) => continue,
                Err(error) => return Err(error.clone()),
            };
            let mut records: Vec<_> = copy.records.iter().filter(|record| is_later(path, record.identity.id)).collect();
            records.sort_by_key(|record| *record.identity.id.as_bytes());
            for record in records.into_iter().filter(|record| wrapper.matches(record)) {
                found.push(record.clone());
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    async fn record(&self, _: &KeyPath, _: KekId) -> Result<Option<KekRecord>, StoreError> {
        unreachable!("a shelf is looked at as a whole")
    }

    async fn create(&self, _: &KekRecord) -> Result<Creation, StoreError> {
        unreachable!("a shelf is filled by the test and by imports")
    }

    async fn rotate(&self, _: KekId, _: &KekRecord) -> Result<Rotation, StoreError> {
        unreachable!("a shelf is filled by the test and by imports")
    }

    async fn update(&self, _: &KekRecord, _: &KekRecord) -> Result<Update, StoreError> {
        unreachable!("a shelf is filled by the test and by imports")
    }

    async fn raise_min_version(&self, _: &KeyPath, _: KekVersion) -> Result<Raise, StoreError> {
        unreachable!("a shelf is filled by the test and by imports")
    }

    async fn shred(&self, _: &KeyPath, _: u64) -> Result<Shred, StoreError> {
        unreachable!("a shelf is filled by the test and by imports")
    }
}

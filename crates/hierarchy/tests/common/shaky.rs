//! A store whose writes fail where a test says, and whose calls come in any order.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Creation, Import, KekId, KekRecord, KekStore, KekVersion, KeyPath, MemoryKekStore, PathHead, Raise,
    Rotation, Shred, StoreError, Update, WrapperQuery,
};

/// What happens at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and is not made.
    Before,
    /// It is made, and its answer is lost.
    After,
    /// It is not made, and never answered.
    HangBefore,
    /// It is made, and never answered.
    HangAfter,
}

impl Fault {
    pub const ALL: [Self; 4] = [Self::Before, Self::After, Self::HangBefore, Self::HangAfter];
}

#[derive(Debug)]
pub struct Shaky {
    pub inner: MemoryKekStore,
    /// After so many more writes, this happens, once.
    plan: Mutex<Option<(usize, Fault)>>,
    writes: AtomicUsize,
    /// Lets others go first by chance.
    chance: Mutex<Option<fastrand::Rng>>,
}

impl Shaky {
    pub fn new() -> Self {
        let (inner, plan) = (MemoryKekStore::new(), Mutex::default());
        Self { inner, plan, writes: AtomicUsize::new(0), chance: Mutex::default() }
    }

    /// A store whose calls are answered in an order by chance, the same for the same seed.
    pub fn shuffled(seed: u64) -> Self {
        Self { chance: Mutex::new(Some(fastrand::Rng::with_seed(seed))), ..Self::new() }
    }

    pub fn fail_write(&self, nth: usize, fault: Fault) {
        *self.plan.lock().unwrap() = Some((nth, fault));
    }

    /// Whether the fault that was planned has not happened; it will not any more.
    pub fn take_plan(&self) -> bool {
        self.plan.lock().unwrap().take().is_some()
    }

    async fn shuffle(&self) {
        let others = self.chance.lock().unwrap().as_mut().map_or(0, |chance| chance.usize(0..6));
        for _ in 0..others {
            tokio::task::yield_now().await;
        }
    }

    async fn write<T>(&self, write: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.shuffle().await;
        self.writes.fetch_add(1, Ordering::SeqCst);
        let fault = {
            let mut plan = self.plan.lock().unwrap();
            match &mut *plan {
                Some((0, fault)) => {
                    let fault = *fault;
                    *plan = None;
                    Some(fault)
                }
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        let lost = || StoreError::unavailable("the test cut the line", std::io::Error::other("cut"));
        let written = match fault {
            Some(Fault::Before) => return Err(lost()),
            Some(Fault::HangBefore) => return std::future::pending().await,
            _ => write.await,
        };
        match fault {
            Some(Fault::After) => return Err(lost()),
            Some(Fault::HangAfter) => return std::future::pending().await,
            _ => {}
        }
        self.shuffle().await;
        written
    }
}

#[async_trait]
impl KekStore for Shaky {
    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        self.shuffle().await;
        let head = self.inner.head(path).await;
        self.shuffle().await;
        head
    }

    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        self.shuffle().await;
        let record = self.inner.record(path, id).await;
        self.shuffle().await;
        record
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        self.shuffle().await;
        let copy = self.inner.export(path).await;
        self.shuffle().await;
        copy
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        self.write(self.inner.create(record)).await
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        self.write(self.inner.rotate(previous, record)).await
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        self.write(self.inner.update(expected, new)).await
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        self.write(self.inner.raise_min_version(path, to)).await
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        self.write(self.inner.shred(path, at)).await
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        self.write(self.inner.import(copy)).await
    }

    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        self.inner.accounts(after, limit).await
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        self.inner.by_wrapper(wrapper, after, limit).await
    }
}

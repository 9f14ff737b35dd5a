//! The first KEK of an account, when several make it at once or the store answers badly.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use common::{Fixture, row};
use keystrata_hierarchy::{
    Context, Creation, Hierarchy, KekId, KekRecord, KekStore, KeyError, KeyPath, MemoryKekStore, OpenError, SealError,
    StoreError,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_make_an_account_at_once_end_with_one_kek() {
    let fixture = Fixture::new();
    let processes: Vec<Hierarchy> = (0..8).map(|_| fixture.process()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..80 {
        let account = processes[n % 8].account("acme").unwrap();
        tasks.spawn(async move { account.seal(b"x", &Context::none()).await.unwrap() });
    }
    let sealed = tasks.join_all().await;
    let records = fixture.store.records(&KeyPath::account("acme").unwrap()).await.unwrap();
    assert_eq!(records.len(), 1);
    // Each process: one call to make a KEK, and one more if it lost the race.
    assert!((8..=15).contains(&fixture.root.calls()), "{}", fixture.root.calls());
    for envelope in &sealed {
        assert_eq!(envelope[4..20], *records[0].identity.id.as_bytes());
        assert_eq!(processes[0].account("acme").unwrap().open(envelope, &Context::none()).await.unwrap(), b"x");
    }
}

/// What a [`Faulty`] store does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Writes, and then says that it could not.
    CreateAnswersLate,
    /// Does not write and says so.
    CreateFails,
    /// Cannot be read.
    Down,
    /// Answers with the record of whoever comes first.
    AnyRecord,
}

#[derive(Debug, Default)]
struct Faulty {
    inner: MemoryKekStore,
    fault: Mutex<Option<Fault>>,
    reads: AtomicU64,
}

impl Faulty {
    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    fn has(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap() == Some(fault)
    }

    async fn read<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.has(Fault::Down) {
            return Err(StoreError::unavailable("the test took it down", std::io::Error::other("down")));
        }
        read.await
    }
}

#[async_trait]
impl KekStore for Faulty {
    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        if self.has(Fault::AnyRecord) {
            return Ok(self.inner.primaries(None, 1).await?.pop());
        }
        self.read(self.inner.record(path, id)).await
    }

    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        if self.has(Fault::AnyRecord) {
            return Ok(self.inner.primaries(None, 1).await?.pop());
        }
        self.read(self.inner.primary(path)).await
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        let failed = Err(StoreError::unavailable("the test broke it", std::io::Error::other("broken")));
        if self.has(Fault::CreateFails) {
            return failed;
        }
        let created = self.inner.create(record).await;
        if self.has(Fault::CreateAnswersLate) { failed } else { created }
    }

    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
        self.inner.records(path).await
    }

    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
        self.inner.primaries(after, limit).await
    }
}

fn with_faults() -> (Fixture, Arc<Faulty>, Hierarchy) {
    let fixture = Fixture::new();
    let store = Arc::new(Faulty::default());
    let keys = fixture.builder().store(Arc::clone(&store)).build().unwrap();
    (fixture, store, keys)
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_settled_by_looking_for_ones_own_kek() {
    let (_fixture, store, keys) = with_faults();
    store.set(Some(Fault::CreateAnswersLate));
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(store.records(acme.path()).await.unwrap().len(), 1);
    assert_eq!(acme.open(&sealed, &row(1)).await.unwrap(), b"x");
}

#[tokio::test]
async fn nothing_is_sealed_under_a_kek_that_was_not_stored() {
    let (_fixture, store, keys) = with_faults();
    store.set(Some(Fault::CreateFails));
    let acme = keys.account("acme").unwrap();
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::StoreUnavailable(_))), "{refused}");
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
    store.set(None);
    acme.seal(b"x", &row(1)).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_down_is_noticed_when_the_kek_is_due_and_not_before() {
    let (fixture, store, keys) = with_faults();
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    store.set(Some(Fault::Down));
    // Past the time the primary is taken on trust, short of the KEK's own deadline.
    fixture.clock.advance(std::time::Duration::from_secs(299));
    acme.seal(b"x", &row(1)).await.unwrap();
    acme.open(&sealed, &row(1)).await.unwrap();
    fixture.clock.advance(std::time::Duration::from_secs(1));
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::StoreUnavailable(_))), "{refused}");
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::StoreUnavailable(_))), "{refused}");
}

#[tokio::test]
async fn the_store_is_asked_for_the_primary_every_30_seconds_and_not_in_between() {
    let (fixture, store, keys) = with_faults();
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    let before = store.reads.load(Ordering::SeqCst);
    for _ in 0..59 {
        fixture.clock.advance(std::time::Duration::from_millis(500));
        acme.seal(b"x", &row(1)).await.unwrap();
    }
    assert_eq!(store.reads.load(Ordering::SeqCst), before);
    fixture.clock.advance(std::time::Duration::from_millis(500));
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(store.reads.load(Ordering::SeqCst), before + 1);
    assert_eq!(fixture.root.calls(), 1);
}

#[tokio::test]
async fn a_store_that_answers_with_anothers_record_is_refused() {
    let (fixture, store, keys) = with_faults();
    let sealed = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    store.set(Some(Fault::AnyRecord));
    let calls = fixture.root.calls();
    let other = keys.account("other").unwrap();
    let refused = other.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Corrupt { .. })), "{refused}");
    let refused = other.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::Corrupt { .. })), "{refused}");
    assert_eq!(fixture.root.calls(), calls);
}

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
    AccountCopy, Context, Creation, Hierarchy, Import, KekId, KekRecord, KekState, KekStore, KekVersion, KeyError,
    KeyPath, MemoryKekStore, OpenError, PathHead, Raise, RootContext, RootKey, RootKeyError, RootKeyId, Rotation,
    SealError, SecretKey, Shred, StoreError, Update, WrapperQuery, test_util::ScriptedRootKey,
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
    /// Never answers when asked for a primary.
    Hangs,
    /// Says that its records are broken.
    Corrupt,
    /// Shows every record in this state, and so no primary.
    State(KekState),
    /// Waits before it writes until the test lets it.
    CreateWaits,
}

#[derive(Debug, Default)]
struct Faulty {
    inner: MemoryKekStore,
    fault: Mutex<Option<Fault>>,
    reads: AtomicU64,
    gate: tokio::sync::RwLock<()>,
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
        if self.has(Fault::Corrupt) {
            let path = KeyPath::account("acme").unwrap();
            return Err(StoreError::Corrupt { path, source: Arc::new(std::io::Error::other("broken")) });
        }
        read.await
    }

    fn seen(&self, record: KekRecord) -> KekRecord {
        match *self.fault.lock().unwrap() {
            Some(Fault::State(state)) => KekRecord { state, ..record },
            _ => record,
        }
    }
}

#[async_trait]
impl KekStore for Faulty {
    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        if self.has(Fault::AnyRecord) {
            return Ok(self.inner.primaries(None, 1).await?.pop());
        }
        Ok(self.read(self.inner.record(path, id)).await?.map(|record| self.seen(record)))
    }

    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        if self.has(Fault::AnyRecord) {
            return Ok(self.inner.primaries(None, 1).await?.pop());
        }
        if self.has(Fault::Hangs) {
            std::future::pending::<()>().await;
        }
        let primary = self.read(self.inner.primary(path)).await?.map(|record| self.seen(record));
        Ok(primary.filter(|record| record.state == KekState::Primary))
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        let failed = Err(StoreError::unavailable("the test broke it", std::io::Error::other("broken")));
        if self.has(Fault::CreateFails) {
            return failed;
        }
        if self.has(Fault::CreateWaits) {
            drop(self.gate.read().await);
        }
        let created = self.inner.create(record).await;
        if self.has(Fault::CreateAnswersLate) { failed } else { created }
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        self.inner.rotate(previous, record).await
    }

    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
        let records = self.read(self.inner.records(path)).await?;
        Ok(records.into_iter().map(|record| self.seen(record)).collect())
    }

    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
        self.inner.primaries(after, limit).await
    }

    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        self.inner.head(path).await
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        self.inner.export(path).await
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        self.inner.update(expected, new).await
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        self.inner.raise_min_version(path, to).await
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        self.inner.shred(path, at).await
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        self.inner.import(copy).await
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
async fn an_account_is_created_once_and_whoever_did_is_told() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let acme = keys.account("acme").unwrap();
    assert_eq!(acme.create().await.unwrap(), Creation::Created);
    for again in [&acme, &fixture.process().account("acme").unwrap()] {
        assert_eq!(again.create().await.unwrap(), Creation::Exists);
    }
    assert_eq!((fixture.root.calls(), keys.cached_keks()), (1, 0));
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    let record = fixture.store.primary(acme.path()).await.unwrap().unwrap();
    assert_eq!(sealed[4..20], *record.identity.id.as_bytes());

    let calls = fixture.root.calls();
    let disabled = KekRecord { state: KekState::Disabled, ..record.clone() };
    fixture.store.update(&record, &disabled).await.unwrap();
    assert_eq!(acme.create().await.unwrap(), Creation::Exists, "disabled is there");
    fixture.store.shred(acme.path(), 5).await.unwrap();
    assert!(matches!(acme.create().await, Err(KeyError::Shredded(_))));
    assert_eq!(fixture.root.calls(), calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_create_an_account_at_once_one_did() {
    let fixture = Fixture::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let account = fixture.process().account("acme").unwrap();
        tasks.spawn(async move { account.create().await.unwrap() });
    }
    let created = tasks.join_all().await;
    assert_eq!(created.iter().filter(|creation| **creation == Creation::Created).count(), 1, "{created:?}");
    assert_eq!(fixture.store.records(&KeyPath::account("acme").unwrap()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_creation_of_unknown_outcome_is_settled_and_one_that_failed_is_told() {
    let (fixture, store, keys) = with_faults();
    store.set(Some(Fault::CreateAnswersLate));
    assert_eq!(keys.account("late").unwrap().create().await.unwrap(), Creation::Created);
    store.set(Some(Fault::CreateFails));
    let refused = keys.account("failed").unwrap().create().await;
    assert!(matches!(refused, Err(KeyError::StoreUnavailable(_))), "{refused:?}");
    store.set(None);
    fixture.root.fail_next(RootKeyError::denied("revoked"));
    let refused = keys.account("denied").unwrap().create().await;
    assert!(matches!(refused, Err(KeyError::Denied(_))), "{refused:?}");
    for account in ["failed", "denied"] {
        assert!(store.records(&KeyPath::account(account).unwrap()).await.unwrap().is_empty());
    }
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
async fn two_who_race_to_make_a_kek_both_use_the_winners() {
    let fixture = Fixture::new();
    let slow = fixture.root.hold().await;
    let racers: Vec<_> = (0..2)
        .map(|_| {
            let account = fixture.process().account("acme").unwrap();
            tokio::spawn(async move { account.seal(b"x", &Context::none()).await.unwrap() })
        })
        .collect();
    while fixture.root.calls() < 2 {
        tokio::task::yield_now().await;
    }
    drop(slow);
    let mut ids = Vec::new();
    for racer in racers {
        ids.push(racer.await.unwrap()[4..20].to_vec());
    }
    assert_eq!(ids[0], ids[1]);
    let stored = fixture.store.primary(&KeyPath::account("acme").unwrap()).await.unwrap().unwrap();
    assert_eq!(ids[0], stored.identity.id.as_bytes());
    assert_eq!(fixture.root.calls(), 3, "a KEK by each, and the loser's unwrap of the winner's");
}

#[tokio::test]
async fn a_new_kek_is_overwritten_in_time_though_the_store_does_not_answer() {
    let (fixture, store, keys) = with_faults();
    store.set(Some(Fault::CreateWaits));
    let slow = store.gate.write().await;
    let acme = keys.account("acme").unwrap();
    let first = tokio::spawn({
        let acme = acme.clone();
        async move { acme.seal(b"x", &row(1)).await }
    });
    while keys.memory().slots_used == 0 {
        tokio::task::yield_now().await;
    }
    fixture.clock.advance(common::TTL);
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
    drop(slow);
    // It was stored in the end, and is unwrapped again.
    let sealed = first.await.unwrap().unwrap();
    assert_eq!(acme.open(&sealed, &row(1)).await.unwrap(), b"x");
    assert_eq!(fixture.root.calls(), 2);
}

#[tokio::test]
async fn a_store_that_hangs_is_not_waited_for_while_a_kek_is_at_hand() {
    let (fixture, store, keys) = with_faults();
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    store.set(Some(Fault::Hangs));
    for _ in 0..149 {
        // From the fifteenth second on the store is asked in the background, and never answers.
        fixture.clock.advance(std::time::Duration::from_secs(2));
        acme.seal(b"x", &row(1)).await.unwrap();
    }
    assert_eq!(fixture.root.calls(), 1);
    store.set(None);
    fixture.clock.advance(std::time::Duration::from_secs(2));
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(fixture.root.calls(), 2, "healed, and the KEK's time was up");
}

#[tokio::test]
async fn a_broken_record_is_corrupt_to_whoever_seals_and_whoever_opens() {
    let (fixture, store, keys) = with_faults();
    let sealed = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    store.set(Some(Fault::Corrupt));
    let acme = fixture.builder().store(store).build().unwrap().account("acme").unwrap();
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Corrupt { kek_id: Some(_), .. })), "{refused}");
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::Corrupt { kek_id: None, .. })), "{refused}");
}

#[tokio::test]
async fn a_kek_opens_while_primary_or_retired_and_an_account_without_a_primary_seals_nothing() {
    let (fixture, store, keys) = with_faults();
    let sealed = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    for state in [KekState::Retired, KekState::Disabled, KekState::Destroyed] {
        store.set(Some(Fault::State(state)));
        let acme = fixture.builder().store(Arc::clone(&store)).build().unwrap().account("acme").unwrap();
        let calls = fixture.root.calls();
        let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(refused, SealError::Key(KeyError::NoPrimary { keks: 1, .. })), "{refused}");
        assert_eq!(fixture.root.calls(), calls, "no call for an account that is not new");
        match acme.open(&sealed, &row(1)).await {
            Ok(opened) => assert_eq!((opened.as_slice(), state), (&b"x"[..], KekState::Retired)),
            Err(OpenError::Key(KeyError::WrongState { state: refused, .. })) => assert_eq!(refused, state),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Answers with a wrapped key of no bytes.
#[derive(Debug)]
struct Senseless(ScriptedRootKey);

#[async_trait]
impl RootKey for Senseless {
    fn id(&self) -> &RootKeyId {
        self.0.id()
    }

    async fn wrap_key(&self, _: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        Ok(Vec::new())
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.0.unwrap_key(wrapped, context).await
    }
}

#[tokio::test]
async fn a_root_key_that_answers_nonsense_is_at_fault_itself() {
    let fixture = Fixture::new();
    let keys = fixture.builder().root_key(Senseless(ScriptedRootKey::new("test:root"))).build().unwrap();
    let refused = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::RootUnavailable(_))), "{refused}");
    assert!(fixture.store.primaries(None, 1).await.unwrap().is_empty());
    assert_eq!(keys.memory().slots_used, 0);
}

#[tokio::test]
async fn handles_made_for_every_request_share_though_the_accounts_turn_over() {
    let (fixture, store, _) = with_faults();
    let keys = fixture.builder().store(Arc::clone(&store)).capacity(50).build().unwrap();
    for generation in ["old", "new"] {
        let before = store.reads.load(Ordering::SeqCst);
        for _ in 0..20 {
            for n in 0..50 {
                keys.account(format!("{generation} {n}")).unwrap().seal(b"x", &row(1)).await.unwrap();
            }
        }
        // Each account once: is there a primary, and if not, are there other KEKs?
        assert_eq!(store.reads.load(Ordering::SeqCst) - before, 100, "{generation}");
        fixture.clock.advance(common::TTL);
    }
}

#[tokio::test]
async fn the_store_is_asked_for_the_primary_in_the_background_from_half_its_time_on() {
    let (fixture, store, keys) = with_faults();
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    let before = store.reads.load(Ordering::SeqCst);
    for round in 0..3 {
        for _ in 0..29 {
            fixture.clock.advance(std::time::Duration::from_millis(500));
            acme.seal(b"x", &row(1)).await.unwrap();
        }
        assert_eq!(store.reads.load(Ordering::SeqCst), before + round);
        fixture.clock.advance(std::time::Duration::from_millis(500));
        acme.seal(b"x", &row(1)).await.unwrap();
        while store.reads.load(Ordering::SeqCst) == before + round {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(store.reads.load(Ordering::SeqCst), before + 3);
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

//! Root keys, stores and recorders that do what they should not.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{
    Fixture, TTL, exact, row,
    tricky::{Tricky, settle},
};
use keystrata_hierarchy::{
    GeneratedKey, KeyError, OpenError, RootContext, RootKey, RootKeyError, RootKeyId, SealError, SecretKey,
    test_util::ScriptedRootKey,
};
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

#[tokio::test]
async fn wrong_bytes_from_the_root_key_are_no_key() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let sealed = tricky.sealed_for("acme").await;
        let keys = tricky.process(exact().kek_ttl(ttl));
        let acme = keys.account("acme").unwrap();
        tricky.root.answer(Some([7; 32]));
        let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
        assert!(matches!(refused, OpenError::Key(KeyError::Corrupt { kek_id: Some(_), .. })), "{refused}");
        let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(&refused, SealError::Key(error @ KeyError::Corrupt { .. }) if !error.is_retryable()));
        assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
        tricky.root.answer(None);
        tricky.clock.advance(Duration::from_secs(30));
        acme.open(&sealed, &row(1)).await.unwrap();
    }
}

/// Gives every account the same secret.
#[derive(Debug)]
struct SameForAll(RootKeyId);

impl SameForAll {
    fn secret() -> SecretKey {
        SecretKey::from_slice(&[7; 32]).unwrap()
    }
}

#[async_trait]
impl RootKey for SameForAll {
    fn id(&self) -> &RootKeyId {
        &self.0
    }

    async fn wrap_key(&self, _: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        Ok(vec![1])
    }

    async fn unwrap_key(&self, _: &[u8], _: &RootContext) -> Result<SecretKey, RootKeyError> {
        Ok(Self::secret())
    }

    async fn generate_key(&self, _: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        Ok(GeneratedKey { secret: Self::secret(), wrapped: vec![1] })
    }
}

#[tokio::test]
async fn the_same_secret_for_all_accounts_still_gives_each_a_kek_of_its_own() {
    let fixture = Fixture::new();
    let process = || fixture.builder().root_key(SameForAll(RootKeyId::new("test:same").unwrap())).build().unwrap();
    let keys = process();
    let (acme, other) = (keys.account("acme").unwrap(), keys.account("other").unwrap());
    let of_acme = acme.seal(b"x", &row(1)).await.unwrap();
    let of_other = other.seal(b"x", &row(1)).await.unwrap();
    let mut moved = of_acme.clone();
    moved[4..20].copy_from_slice(&of_other[4..20]);
    let refused = other.open(&moved, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Rejected), "{refused}");
    assert_eq!(process().account("acme").unwrap().open(&of_acme, &row(1)).await.unwrap(), b"x");
}

/// Never answers the first calls.
#[derive(Debug)]
struct Silent {
    inner: ScriptedRootKey,
    calls: AtomicU64,
    unanswered: u64,
}

impl Silent {
    async fn begin(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) < self.unanswered {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl RootKey for Silent {
    fn id(&self) -> &RootKeyId {
        self.inner.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.begin().await;
        self.inner.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.begin().await;
        self.inner.unwrap_key(wrapped, context).await
    }
}

#[tokio::test]
async fn a_root_key_that_never_answers_holds_up_nobody_who_comes_half_a_minute_later() {
    let fixture = Fixture::new();
    let sealed = fixture.process().account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    let root = Silent { inner: ScriptedRootKey::new("test:root"), calls: AtomicU64::new(0), unanswered: 2 };
    let root = Arc::new(root);
    let keys = fixture.builder().root_key(Arc::clone(&root)).build().unwrap();
    let (acme, new) = (keys.account("acme").unwrap(), keys.account("new").unwrap());
    let first = tokio::spawn({
        let (acme, new, sealed) = (acme.clone(), new.clone(), sealed.clone());
        async move {
            let context = row(1);
            tokio::join!(acme.open(&sealed, &context), new.seal(b"x", &context)).0
        }
    });
    settle().await;
    assert_eq!(root.calls.load(Ordering::SeqCst), 2);
    fixture.clock.advance(Duration::from_secs(30));
    assert_eq!(acme.open(&sealed, &row(1)).await.unwrap(), b"x");
    new.seal(b"x", &row(1)).await.unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!((root.calls.load(Ordering::SeqCst), keys.cached_keks()), (4, 2));
    assert!(!first.is_finished(), "whoever waits for it still does");
    first.abort();
    keys.close();
    assert_eq!(keys.memory().slots_used, 0);
}

#[tokio::test]
async fn a_root_key_that_panics_is_an_error_to_who_waits_and_nothing_to_who_need_not() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let keys = tricky.process(exact().refresh_ahead(true));
    let acme = keys.account("acme").unwrap();
    tricky.root.panic(true);
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Key(error @ KeyError::Interrupted) if error.is_retryable()), "{refused}");
    tricky.root.panic(false);
    acme.open(&sealed, &row(1)).await.unwrap();
    tricky.root.panic(true);
    tricky.clock.advance(TTL * 9 / 10);
    for second in 0..30 {
        acme.try_open(&sealed, &row(1)).unwrap().expect("in its time");
        settle().await;
        assert_eq!(tricky.root.calls(), 3 + second + 1, "a renewal a second");
        tricky.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(keys.memory().slots_used, 0);
    let refused = acme.rotate().await.unwrap_err();
    assert!(matches!(refused, KeyError::Interrupted), "{refused}");
    tricky.root.panic(false);
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!((keys.cached_keks(), tricky.store.versions("acme").await), (1, 1));
}

#[tokio::test]
async fn a_store_that_lags_behind_is_caught_up_with() {
    let tricky = Tricky::new();
    let old = tricky.sealed_for("acme").await;
    let elsewhere = tricky.process(exact()).account("acme").unwrap();
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    acme.open(&old, &row(1)).await.unwrap();
    elsewhere.rotate().await.unwrap();
    let new = elsewhere.seal(b"y", &row(1)).await.unwrap();
    tricky.store.show(|record| {
        let state = keystrata_hierarchy::KekState::Primary;
        (record.identity.version.get() == 1).then_some(keystrata_hierarchy::KekRecord { state, ..record })
    });
    let refused = acme.open(&new, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::NotFound { .. })), "{refused}");
    assert_eq!(acme.seal(b"x", &row(1)).await.unwrap()[4..20], old[4..20], "as far as it can tell");
    tricky.store.show_the_truth();
    tricky.clock.advance(Duration::from_secs(1));
    assert_eq!(acme.open(&new, &row(1)).await.unwrap(), b"y");
    tricky.clock.advance(Duration::from_secs(29));
    assert_eq!(acme.seal(b"x", &row(1)).await.unwrap()[4..20], new[4..20]);
    assert_eq!(acme.open(&old, &row(1)).await.unwrap(), b"x");
}

#[tokio::test]
async fn the_shortest_ttl_keeps_nothing_longer() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact().kek_ttl(Duration::from_nanos(1)).refresh_ahead(true));
    let acme = keys.account("acme").unwrap();
    for calls in 1..=3 {
        // The clock stands still meanwhile.
        acme.seal(b"x", &row(1)).await.unwrap();
        tricky.clock.advance(Duration::from_millis(100));
        assert_eq!((tricky.root.calls(), keys.memory().slots_used), (calls, 0));
    }
}

/// A recorder whose every counter panics on the sweeper's thread.
#[derive(Debug, Clone)]
struct Panicking;

impl CounterFn for Panicking {
    fn increment(&self, _: u64) {
        assert_ne!(std::thread::current().name(), Some("keystrata-sweep"), "as the test wants it to");
    }

    fn absolute(&self, _: u64) {}
}

impl Recorder for Panicking {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(self.clone()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn a_recorder_that_panics_does_not_keep_keys_from_being_overwritten() {
    let tricky = Tricky::new();
    let keys = metrics::with_local_recorder(&Panicking, || tricky.process(exact()));
    for n in 0..3 {
        keys.account(format!("account {n}")).unwrap().seal(b"x", &row(1)).await.unwrap();
        tricky.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(keys.memory().slots_used, 3);
    tricky.clock.advance(TTL - Duration::from_secs(3));
    assert_eq!(keys.memory().slots_used, 2);
    tricky.clock.advance(Duration::from_secs(2));
    assert_eq!(keys.memory().slots_used, 0);
    assert_eq!(tricky.clock.sleepers(), 1, "the same thread");
}

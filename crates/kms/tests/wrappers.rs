//! The engine's suite through every wrapper, around a key file that can be made to fail.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey,
    test_util::conformance::{self, RootKeyFault, RootKeyHarness},
};
use keystrata_kms::{
    Breaker, BreakerPolicy, Budget, Budgeted, Counted, Guard, LocalRootKey, Operation, Outcome, RetryPolicy, Retrying,
    Timed,
};
use tempfile::TempDir;

use self::common::{SECOND, number};

type Fault = Arc<Mutex<Option<RootKeyFault>>>;

/// A key file behind a KMS that fails on cue.
#[derive(Debug)]
struct Moody {
    file: LocalRootKey,
    fault: Fault,
}

impl Moody {
    fn mood(&self) -> Result<(), RootKeyError> {
        match *self.fault.lock().unwrap() {
            None => Ok(()),
            Some(RootKeyFault::Throttling) => Err(RootKeyError::throttled("slow down")),
            Some(RootKeyFault::Denying) => Err(RootKeyError::denied("no")),
            Some(_) => Err(RootKeyError::unavailable("down")),
        }
    }
}

#[async_trait]
impl RootKey for Moody {
    fn id(&self) -> &RootKeyId {
        self.file.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.mood()?;
        self.file.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.mood()?;
        self.file.unwrap_key(wrapped, context).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.mood()?;
        self.file.generate_key(context).await
    }
}

/// Two key files, each opened anew and put into the same wrapper.
struct Wrapped<W> {
    folder: TempDir,
    fault: Fault,
    wrapper: W,
}

impl<W> Wrapped<W> {
    fn in_each(wrapper: W) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            LocalRootKey::create(folder.path().join(name)).unwrap();
        }
        Self { folder, fault: Fault::default(), wrapper }
    }

    fn open(&self, name: &str) -> Moody {
        let file = LocalRootKey::open(self.folder.path().join(name)).unwrap();
        Moody { file, fault: Arc::clone(&self.fault) }
    }
}

impl<R: RootKey + 'static, W: Fn(Moody) -> R> RootKeyHarness for Wrapped<W> {
    type Root = R;

    async fn root(&self) -> R {
        (self.wrapper)(self.open("one"))
    }

    async fn other_key(&self) -> Option<R> {
        Some((self.wrapper)(self.open("two")))
    }

    async fn set_fault(&self, fault: Option<RootKeyFault>) -> bool {
        *self.fault.lock().unwrap() = fault;
        true
    }
}

fn ample() -> Arc<Budget> {
    Arc::new(Budget::per_second(number(1_000_000), number(100_000)))
}

/// Quick, since the suite waits for it.
fn retry() -> RetryPolicy {
    RetryPolicy { first_bound: Duration::from_micros(100), ..RetryPolicy::default() }
}

/// Probes at once: the suite goes on as soon as a fault is gone.
fn breaker() -> BreakerPolicy {
    BreakerPolicy { pause: Duration::ZERO, longest_pause: Duration::ZERO, ..BreakerPolicy::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_file_itself_conforms() {
    conformance::root_key_in(&Wrapped::in_each(|root| root)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_retries_it_conforms() {
    conformance::root_key_in(&Wrapped::in_each(|root| Retrying::new(root, "test", retry()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_breaker_it_conforms() {
    conformance::root_key_in(&Wrapped::in_each(|root| Breaker::new(root, "test", breaker()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_budget_it_conforms() {
    let budget = ample();
    conformance::root_key_in(&Wrapped::in_each(|root| Budgeted::new(root, Arc::clone(&budget)))).await;
    let stats = budget.stats();
    assert!(stats.admitted > 100 && stats.waiting == 0, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn counted_it_conforms_and_every_outcome_is_seen() {
    let counted = Mutex::new(Vec::new());
    let harness = Wrapped::in_each(|root| {
        let root = Arc::new(Counted::new(root, "test"));
        counted.lock().unwrap().push(Arc::clone(&root));
        root
    });
    conformance::root_key_in(&harness).await;
    let stats: Vec<_> = counted.lock().unwrap().iter().map(|root| root.stats()).collect();
    for outcome in [Outcome::Done, Outcome::Throttled, Outcome::Denied, Outcome::Unavailable, Outcome::Rejected] {
        assert!(stats.iter().any(|stats| stats.of(Operation::Unwrap, outcome) > 0), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_deadline_it_conforms() {
    conformance::root_key_in(&Wrapped::in_each(|root| Timed::new(root, 60 * SECOND))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_all_of_it_it_conforms() {
    let guard = Guard::new("test", ample()).retry(retry()).breaker(breaker());
    conformance::root_key_in(&Wrapped::in_each(|root| guard.clone().around(root))).await;
}

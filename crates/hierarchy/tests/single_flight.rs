//! One KMS call for a miss, whoever waits and whoever leaves.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use common::{Fixture, row};
use keystrata_hierarchy::{
    Account, Hierarchy, KeyError, RootContext, RootKey, RootKeyError, RootKeyId, SealError, SecretKey,
    test_util::ScriptedRootKey,
};
use tokio::task::JoinSet;

async fn seal_in_tasks(account: &Account, tasks: u32) -> Vec<Result<Vec<u8>, SealError>> {
    let mut set = JoinSet::new();
    for n in 0..tasks {
        let account = account.clone();
        set.spawn(async move { account.seal(b"x", &row(n)).await });
    }
    set.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_tasks_make_a_new_account_with_one_call() {
    let fixture = Fixture::new();
    let account = fixture.process().account("acme").unwrap();
    let sealed = seal_in_tasks(&account, 1_000).await;
    assert_eq!(fixture.root.calls(), 1);
    let first = sealed[0].as_ref().unwrap();
    assert!(sealed.iter().all(|sealed| sealed.as_ref().unwrap()[4..20] == first[4..20]), "one KEK for all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_tasks_open_and_seal_on_a_cold_cache_with_one_call() {
    let fixture = Fixture::new();
    let sealed: Arc<[u8]> = fixture.process().account("acme").unwrap().seal(b"x", &row(7)).await.unwrap().into();
    let account = fixture.process().account("acme").unwrap();
    let mut set = JoinSet::new();
    for n in 0..1_000 {
        let (account, sealed) = (account.clone(), Arc::clone(&sealed));
        set.spawn(async move {
            if n % 2 == 0 {
                assert_eq!(account.open(&sealed, &row(7)).await.unwrap(), b"x");
            } else {
                account.seal(b"x", &row(n)).await.unwrap();
            }
        });
    }
    set.join_all().await;
    assert_eq!(fixture.root.calls(), 2, "one by each process");
}

#[tokio::test]
async fn a_cancelled_caller_takes_nobody_down() {
    let fixture = Fixture::new();
    let account = fixture.process().account("acme").unwrap();
    let slow = fixture.root.hold().await;
    let leader = fixture.begin_seal(&account).await;
    let follower = tokio::spawn({
        let account = account.clone();
        async move { account.seal(b"x", &row(2)).await }
    });
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    drop(slow);
    follower.await.unwrap().unwrap();
    account.seal(b"x", &row(3)).await.unwrap();
    assert_eq!(fixture.root.calls(), 1);
}

#[tokio::test]
async fn a_caller_who_leaves_alone_still_leaves_a_kek_behind() {
    let fixture = Fixture::new();
    let account = fixture.process().account("acme").unwrap();
    let slow = fixture.root.hold().await;
    let only = fixture.begin_seal(&account).await;
    only.abort();
    drop(slow);
    account.seal(b"x", &row(2)).await.unwrap();
    assert_eq!(fixture.root.calls(), 1);
}

#[tokio::test]
async fn one_failure_answers_all_who_waited_and_nobody_after() {
    let fixture = Fixture::new();
    let account = fixture.process().account("acme").unwrap();
    fixture.root.fail_next(RootKeyError::unavailable("no route"));
    let answers = seal_in_tasks(&account, 100).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(SealError::Key(KeyError::RootUnavailable(_))))));
    assert_eq!(fixture.root.calls(), 1);
    account.seal(b"x", &row(1)).await.unwrap();
}

/// Panics until told otherwise.
#[derive(Debug)]
struct Panicking {
    inner: ScriptedRootKey,
    panics: AtomicBool,
}

#[async_trait]
impl RootKey for Panicking {
    fn id(&self) -> &RootKeyId {
        self.inner.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        assert!(!self.panics.load(Ordering::SeqCst), "the adapter panics, as the test wants it to");
        self.inner.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.inner.unwrap_key(wrapped, context).await
    }
}

#[tokio::test]
async fn an_adapter_that_panics_is_an_answer_and_leaves_the_way_clear() {
    let fixture = Fixture::new();
    let root = Arc::new(Panicking { inner: ScriptedRootKey::new("test:root"), panics: AtomicBool::new(true) });
    let keys = Hierarchy::builder().root_key(Arc::clone(&root)).store(Arc::clone(&fixture.store)).build().unwrap();
    let account = keys.account("acme").unwrap();
    let answers = seal_in_tasks(&account, 10).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(SealError::Key(KeyError::Interrupted)))));
    root.panics.store(false, Ordering::SeqCst);
    account.seal(b"x", &row(1)).await.unwrap();
}

#[test]
fn a_runtime_shut_down_in_mid_load_leaves_the_way_clear_for_the_next() {
    let fixture = Fixture::new();
    let account = fixture.process().account("acme").unwrap();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let first = runtime();
    let slow = first.block_on(fixture.root.hold());
    first.spawn({
        let account = account.clone();
        async move { account.seal(b"x", &row(1)).await }
    });
    while fixture.root.calls() == 0 {
        std::thread::yield_now();
    }
    first.shutdown_background();
    drop(slow);
    runtime().block_on(account.seal(b"x", &row(2))).unwrap();
}

fn runtime_of_one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_runtime_that_nobody_drives_any_more_holds_nobody_up() {
    let fixture = Fixture::new();
    let account = fixture.process().account("acme").unwrap();
    let idle = runtime_of_one_thread();
    let slow = idle.block_on(fixture.root.hold());
    idle.block_on(async {
        let left = fixture.begin_seal(&account).await;
        left.abort();
    });
    drop(slow);
    // The first load is never polled again, and its runtime is still there.
    runtime_of_one_thread().block_on(account.seal(b"x", &row(2))).unwrap();
    drop(idle);
}

#[test]
fn on_a_runtime_of_their_own_loads_serve_callers_anywhere() {
    let fixture = Fixture::new();
    let loads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let account = fixture.builder().runtime(loads.handle().clone()).build().unwrap().account("acme").unwrap();
    let slow = loads.block_on(fixture.root.hold());
    let callers: Vec<_> = (0..4)
        .map(|n| {
            let account = account.clone();
            std::thread::spawn(move || runtime_of_one_thread().block_on(account.seal(b"x", &row(n))).unwrap())
        })
        .collect();
    while fixture.root.calls() == 0 {
        std::thread::yield_now();
    }
    drop(slow);
    for caller in callers {
        caller.join().unwrap();
    }
    assert_eq!(fixture.root.calls(), 1);
}

#[tokio::test]
async fn a_load_that_began_too_long_ago_is_not_joined() {
    let fixture = Fixture::new();
    let account = fixture.process().account("acme").unwrap();
    let slow = fixture.root.hold().await;
    let seal = |n| {
        let account = account.clone();
        tokio::spawn(async move { account.seal(b"x", &row(n)).await })
    };
    let first = seal(1);
    while fixture.root.calls() < 1 {
        tokio::task::yield_now().await;
    }
    fixture.clock.advance(std::time::Duration::from_millis(29_999));
    let joined = seal(2);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.root.calls(), 1);
    fixture.clock.advance(std::time::Duration::from_millis(1));
    let another = seal(3);
    while fixture.root.calls() < 2 {
        tokio::task::yield_now().await;
    }
    drop(slow);
    for caller in [first, joined, another] {
        caller.await.unwrap().unwrap();
    }
    account.seal(b"x", &row(4)).await.unwrap();
    // The one that was first to be stored, and an unwrap of it for whom the other was waiting.
    assert!(fixture.root.calls() <= 3, "{}", fixture.root.calls());
}

//! The budget around root keys, through the public API and the real engine, in virtual time.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::{sync::Arc, task::Poll, time::Duration};

use keystrata_hierarchy::{
    Context, Demand, Hierarchy, MemoryKekStore, RootContext, RootKey, RootKeyError, SecretKey,
    test_util::ScriptedRootKey,
};
use keystrata_kms::{BreakerState, Budget, Budgeted, RetryPolicy, SendAgain, Timer};

use self::common::{MILLISECOND, SECOND, World, assert_within_budget, context, number};

fn bare() -> ScriptedRootKey {
    ScriptedRootKey::new("test:root")
}

#[tokio::test(start_paused = true)]
async fn cold_callers_of_a_thousand_accounts_make_a_thousand_calls_at_the_rate() {
    const ACCOUNTS: usize = 1_000;
    const CALLERS: usize = 64;
    let world = World::new();
    let store = Arc::new(MemoryKekStore::new());
    let kms = world.kms("test:root", Duration::from_millis(20));
    let row = Context::new().with("row", "1");
    let process = |root: Arc<dyn RootKey>| {
        Hierarchy::builder().root_key(root).store(Arc::clone(&store)).clock(world.clock.clone()).build().unwrap()
    };

    let before = process(Arc::new(bare()));
    let mut sealed = Vec::new();
    for account in 0..ACCOUNTS {
        sealed.push(before.account(format!("account {account}")).unwrap().seal(b"x", &row).await.unwrap());
    }

    let budget = Arc::new(world.budget(500, 20));
    let root = Arc::new(world.guard("test", &budget).around(Arc::clone(&kms)));
    let cold = process(Arc::clone(&root) as _);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..ACCOUNTS * CALLERS {
        let account = cold.account(format!("account {}", caller % ACCOUNTS)).unwrap();
        let (sealed, row) = (sealed[caller % ACCOUNTS].clone(), row.clone());
        callers.spawn(async move { account.open(&sealed, &row).await.unwrap() });
    }
    world.settle().await;
    // However many callers: an account has one place.
    assert_eq!(budget.stats().waiting, ACCOUNTS - 20);
    // 980 at 500 a second, and the latency of the last.
    world.pass(Duration::from_millis(1_979)).await;
    assert!(!callers.is_empty());
    world.pass(Duration::from_millis(10)).await;
    assert_eq!(callers.join_all().await.len(), ACCOUNTS * CALLERS);
    assert_eq!((kms.calls().len(), root.kms_calls()), (ACCOUNTS, 1_000));
    assert_within_budget(&kms.calls(), 500, 20);
    assert_eq!(budget.stats().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_point_takes_nothing_with_it() {
    let secret = SecretKey::generate().unwrap();
    let acme = context("acme");
    let mut polls = 0;
    loop {
        let world = World::new();
        let kms = world.kms("test:root", 3 * MILLISECOND);
        kms.set(None);
        let budget = Arc::new(world.budget(100, 1));
        let root = Arc::new(world.guard("test", &budget).around(Arc::clone(&kms)));
        world.settle().await;
        budget.admit(&RootContext::none()).await.unwrap(); // now calls wait
        let mut call = Box::pin(root.wrap_key(&secret, &acme));
        let mut is_done = false;
        for _ in 0..polls {
            is_done = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
            if is_done {
                break;
            }
            world.pass(MILLISECOND).await;
        }
        drop(call);
        assert_eq!(budget.stats().waiting, 0, "after {polls} polls");
        let was_sent = kms.calls().len();
        assert_eq!(budget.stats().admitted, 1 + was_sent as u64, "what was sent was counted, and nothing else");
        assert_eq!(root.kms_calls(), was_sent as u64);
        // The next one is served, no later than if the other had been sent.
        let next = tokio::spawn(async move { root.wrap_key(&SecretKey::generate().unwrap(), &context("b")).await });
        world.pass(Duration::from_millis(24)).await;
        assert!(next.is_finished(), "after {polls} polls");
        next.await.unwrap().unwrap();
        assert_within_budget(&kms.calls(), 100, 1);
        if is_done {
            break;
        }
        polls += 1;
    }
    assert!(polls > 10, "there are that many points at which it can be dropped, and {polls} were tried");
}

#[tokio::test(start_paused = true)]
async fn one_call_too_many_is_told_when_to_come_back() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    let budget = Arc::new(world.budget(10, 1).max_wait(SECOND));
    let root = Arc::new(Budgeted::new(Arc::clone(&kms), Arc::clone(&budget)));
    let mut calls = Vec::new();
    for _ in 0..12 {
        let root = Arc::clone(&root);
        calls.push(tokio::spawn(async move { root.wrap_key(&SecretKey::generate().unwrap(), &context("a")).await }));
    }
    world.settle().await;
    assert_eq!(budget.stats().waiting, 10);
    let refused = calls.pop().unwrap().await.unwrap().unwrap_err();
    let RootKeyError::Overloaded { retry_after, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*retry_after, Duration::from_millis(1_100));
    world.pass(SECOND).await;
    assert!(calls.iter().all(tokio::task::JoinHandle::is_finished));
    assert_eq!(budget.stats().admitted + budget.stats().refused, 12);
}

#[tokio::test(start_paused = true)]
async fn a_second_request_within_a_call_takes_a_token_and_is_counted() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    let budget = Arc::new(world.budget(10, 2));
    let root = Arc::new(world.guard("test", &budget).around(Arc::clone(&kms)));
    let call = || {
        let root = Arc::clone(&root);
        tokio::spawn(async move { root.wrap_key(&SecretKey::generate().unwrap(), &context("a")).await })
    };
    kms.sends_twice(true);
    let first = call();
    world.pass(2 * MILLISECOND).await;
    first.await.unwrap().unwrap();
    assert_eq!((kms.calls().len(), root.kms_calls(), budget.stats().admitted), (2, 2, 2));
    assert_eq!(root.stats().calls.further_requests(), 1);

    // There is no token for a second request: the call comes back for one, and by then it needs only one.
    let second = call();
    world.pass(Duration::from_millis(100)).await;
    assert_eq!(kms.calls().len(), 3);
    kms.sends_twice(false);
    world.pass(SECOND).await;
    second.await.unwrap().unwrap();
    assert_eq!((kms.calls().len(), root.kms_calls(), budget.stats().admitted), (4, 4, 4));
    assert_within_budget(&kms.calls(), 10, 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_to_be_sent_again_is_no_failure_of_the_kms() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    let budget = Arc::new(world.budget(10, 1));
    let retry = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    let root = Arc::new(world.guard("test", &budget).retry(retry).around(Arc::clone(&kms)));
    kms.sends_twice(true);
    for _ in 0..10 {
        let root = Arc::clone(&root);
        let call = tokio::spawn(async move { root.wrap_key(&SecretKey::generate().unwrap(), &context("a")).await });
        world.pass(Duration::from_millis(101)).await;
        assert!(SendAgain::is(&call.await.unwrap().unwrap_err()));
    }
    assert_eq!(root.stats().breaker, BreakerState::Closed);
    assert_within_budget(&kms.calls(), 10, 1);
}

#[tokio::test(start_paused = true)]
async fn a_kms_that_does_not_answer_is_not_sent_more() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    kms.says(&RootKeyError::unavailable("down"));
    let budget = Arc::new(world.budget(100, 1).adaptive());
    let root = Arc::new(Budgeted::new(Arc::clone(&kms), Arc::clone(&budget)));
    let calls = async |n: usize| {
        for _ in 0..n {
            let root = Arc::clone(&root);
            tokio::spawn(async move { root.wrap_key(&SecretKey::generate().unwrap(), &context("a")).await });
        }
        world.pass(5 * SECOND).await;
    };
    calls(40).await;
    let per_second = budget.stats().per_second;
    assert!((per_second - 10.0).abs() < 1e-9, "it began there, and nothing was answered: {per_second}");
    kms.set(None);
    calls(40).await;
    assert!(budget.stats().per_second > 10.0, "answers raise it");
}

#[tokio::test(start_paused = true)]
async fn background_calls_wait_while_the_foreground_finds_its_reserve() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    let budget = Arc::new(world.budget(10, 10));
    let root = Arc::new(Budgeted::new(Arc::clone(&kms), Arc::clone(&budget)));
    for _ in 0..30 {
        let root = Arc::clone(&root);
        tokio::spawn(async move {
            let bulk = context("bulk").with_demand(Demand::background());
            root.wrap_key(&SecretKey::generate().unwrap(), &bulk).await
        });
    }
    world.settle().await;
    assert_eq!(kms.calls().len(), 2, "the background leaves eight of ten tokens");
    for _ in 0..8 {
        let root = Arc::clone(&root);
        tokio::spawn(async move { root.wrap_key(&SecretKey::generate().unwrap(), &context("a")).await });
    }
    world.settle().await;
    assert_eq!(kms.calls().len(), 10);
}

#[test]
fn runtimes_that_are_dropped_or_stand_still_hold_nobody_up() {
    let clock = keystrata_hierarchy::test_util::ManualClock::new();
    let budget = Budget::per_second(number(10), number(1)).timer(Timer::on(clock.clone()));
    let root = Arc::new(Budgeted::new(bare(), Arc::new(budget)));
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let call = |account: &'static str| {
        let root = Arc::clone(&root);
        async move { root.wrap_key(&SecretKey::generate().unwrap(), &context(account)).await }
    };
    let (dropped, stopped, driven) = (runtime(), runtime(), runtime());
    driven.block_on(call("first")).unwrap();
    for _ in 0..3 {
        dropped.spawn(call("dropped"));
        stopped.spawn(call("stopped"));
    }
    // They queue up, and are not polled again.
    dropped.block_on(async { tokio::task::yield_now().await });
    stopped.block_on(async { tokio::task::yield_now().await });
    let waiting = driven.spawn(call("driven"));
    driven.block_on(async { tokio::task::yield_now().await });
    drop(dropped);
    // The stopped one's turn comes first, and is missed.
    clock.advance(Duration::from_millis(100));
    clock.advance(Duration::from_millis(100));
    driven.block_on(async { tokio::task::yield_now().await });
    driven.block_on(async { tokio::task::yield_now().await });
    assert!(waiting.is_finished());
    driven.block_on(waiting).unwrap().unwrap();
}

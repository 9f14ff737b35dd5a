//! Deadlines, retries, breakers and their composition, in virtual time.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::{
    Context, Hierarchy, KeyError, MemoryKekStore, OpenError, Policy, RootKey, RootKeyError, Roots, SecretKey,
};
use keystrata_kms::{
    Breaker, BreakerOpen, BreakerPolicy, BreakerState, Operation, Outcome, RetryPolicy, Retrying, Timed, TooSlow,
};
use tokio::task::JoinHandle;

use self::common::{Down, Kms, MILLISECOND, SECOND, World, assert_within_budget, context};

type Answer = Result<Vec<u8>, RootKeyError>;

fn call(root: &Arc<impl RootKey + 'static>, account: &str) -> JoinHandle<Answer> {
    let (root, context) = (Arc::clone(root), context(account));
    tokio::spawn(async move { root.wrap_key(&SecretKey::generate().unwrap(), &context).await })
}

/// The answer of a call that is given this long.
async fn answer(world: &World, root: &Arc<impl RootKey + 'static>, within: Duration) -> Answer {
    let call = call(root, "acme");
    world.pass(within).await;
    assert!(call.is_finished());
    call.await.unwrap()
}

fn down() -> RootKeyError {
    RootKeyError::unavailable("the test says so")
}

fn breaker(world: &World, kms: &Arc<Kms>) -> Arc<Breaker<Arc<Kms>>> {
    Arc::new(Breaker::with_timer(Arc::clone(kms), "test", BreakerPolicy::default(), world.timer.clone()))
}

async fn trip(world: &World, kms: &Arc<Kms>, breaker: &Arc<Breaker<Arc<Kms>>>) {
    kms.says(&down());
    for _ in 0..5 {
        assert_eq!(breaker.state(), BreakerState::Closed);
        let error = answer(world, breaker, Duration::ZERO).await.unwrap_err();
        assert_eq!(BreakerOpen::of(&error), None);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}

/// A world in which a KMS of this latency is down and the breaker before it has opened just now.
async fn tripped(latency: Duration) -> (World, Arc<Kms>, Arc<Breaker<Arc<Kms>>>) {
    let world = World::new();
    let kms = world.kms("test:root", latency);
    let root = breaker(&world, &kms);
    trip(&world, &kms, &root).await;
    (world, kms, root)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_at_its_deadline_and_not_before() {
    let world = World::new();
    let kms = world.kms("test:root", 100 * MILLISECOND);
    let root = Arc::new(Timed::with_timer(Arc::clone(&kms), 100 * MILLISECOND, world.timer.clone()));
    answer(&world, &root, 100 * MILLISECOND).await.unwrap();
    kms.set(Some(Down::Hangs));
    let hanging = call(&root, "acme");
    world.pass(99 * MILLISECOND).await;
    assert!(!hanging.is_finished());
    world.pass(MILLISECOND).await;
    let Err(RootKeyError::Unavailable { source: Some(source), .. }) = hanging.await.unwrap() else { panic!() };
    assert_eq!(source.downcast_ref(), Some(&TooSlow { limit: 100 * MILLISECOND }));
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_probes_and_closes() {
    let (world, kms, root) = tripped(10 * MILLISECOND).await;

    let error = answer(&world, &root, Duration::ZERO).await.unwrap_err();
    assert_eq!(BreakerOpen::of(&error), Some(BreakerOpen { retry_after: SECOND }));
    assert!(error.to_string().contains("1s"), "{error}");
    assert_eq!(kms.calls().len(), 5, "the KMS was left alone");

    // Each probe that fails doubles the pause, up to half a minute.
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        world.pass((pause * SECOND).saturating_sub(MILLISECOND)).await;
        assert_eq!(root.state(), BreakerState::Open);
        let calls = kms.calls().len();
        answer(&world, &root, MILLISECOND).await.unwrap_err();
        assert_eq!(root.state(), BreakerState::HalfOpen);
        assert_eq!(kms.calls().len(), calls);
        answer(&world, &root, Duration::ZERO).await.unwrap_err();
        assert_eq!(kms.calls().len(), calls + 1);
    }

    // One probe that is answered closes it, and then all is as at first.
    kms.set(None);
    world.pass(30 * SECOND).await;
    answer(&world, &root, 10 * MILLISECOND).await.unwrap();
    trip(&world, &kms, &root).await;
    let error = answer(&world, &root, Duration::ZERO).await.unwrap_err();
    assert_eq!(BreakerOpen::of(&error), Some(BreakerOpen { retry_after: SECOND }));
}

#[tokio::test(start_paused = true)]
async fn of_many_callers_one_probes_and_a_dropped_probe_makes_room_for_another() {
    let (world, kms, root) = tripped(10 * MILLISECOND).await;
    world.pass(SECOND).await;
    kms.set(Some(Down::Hangs));
    let callers: Vec<_> = (0..10).map(|_| call(&root, "acme")).collect();
    world.settle().await;
    assert_eq!(kms.calls().len(), 6);
    assert_eq!(callers.iter().filter(|caller| caller.is_finished()).count(), 9);
    for caller in callers {
        caller.abort();
    }
    kms.set(None);
    answer(&world, &root, 10 * MILLISECOND).await.unwrap();
    assert_eq!(root.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_never_ends_is_not_the_last() {
    let (world, kms, root) = tripped(10 * MILLISECOND).await;
    world.pass(SECOND).await;
    kms.set(Some(Down::Hangs));
    let _stuck = call(&root, "acme");
    world.pass(SECOND).await;
    kms.set(None);
    answer(&world, &root, 10 * MILLISECOND).await.unwrap();
    assert_eq!(root.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_probe_says_counts_though_another_began() {
    let world = World::new();
    let kms = world.kms("test:root", 1400 * MILLISECOND);
    let timed = Timed::with_timer(Arc::clone(&kms), 1500 * MILLISECOND, world.timer.clone());
    let root = Arc::new(Breaker::with_timer(timed, "test", BreakerPolicy::default(), world.timer.clone()));
    kms.says(&down());
    for _ in 0..5 {
        answer(&world, &root, Duration::ZERO).await.unwrap_err();
    }
    // Longer on its way than the pause: a second probe begins before the first one ends, and that one opens it again.
    kms.set(Some(Down::Hangs));
    world.pass(SECOND).await;
    let first = call(&root, "acme");
    world.pass(SECOND).await;
    let second = call(&root, "acme");
    world.pass(500 * MILLISECOND).await;
    first.await.unwrap().unwrap_err();
    assert_eq!(root.state(), BreakerState::Open, "it backs off");
    world.pass(SECOND).await;
    second.await.unwrap().unwrap_err();
    let error = answer(&world, &root, Duration::ZERO).await.unwrap_err();
    assert_eq!(BreakerOpen::of(&error), Some(BreakerOpen { retry_after: SECOND }), "two seconds from the first");

    // A probe that is dropped makes room for another, which closes it.
    world.pass(SECOND).await;
    let dropped = call(&root, "acme");
    world.settle().await;
    kms.set(None);
    dropped.abort();
    answer(&world, &root, 1400 * MILLISECOND).await.unwrap();
    assert_eq!(root.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_success_that_comes_after_the_next_probe_began_closes_the_breaker() {
    let (world, kms, root) = tripped(1400 * MILLISECOND).await;
    kms.set(None);
    world.pass(SECOND).await;
    let first = call(&root, "acme");
    world.pass(SECOND).await;
    kms.set(Some(Down::Hangs));
    let _second = call(&root, "acme");
    world.pass(400 * MILLISECOND).await;
    first.await.unwrap().unwrap();
    assert_eq!(root.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn answers_do_not_trip_a_breaker() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    let root = breaker(&world, &kms);
    for says in [RootKeyError::denied("no"), RootKeyError::Rejected, RootKeyError::throttled("slow down")] {
        kms.says(&says);
        for _ in 0..20 {
            answer(&world, &root, Duration::ZERO).await.unwrap_err();
        }
        assert_eq!(root.state(), BreakerState::Closed, "{says}");
    }
    // And they interrupt a row of failures; what never reached the KMS does not.
    for says in [down(), down(), down(), down(), RootKeyError::Rejected, down(), down(), down(), down()] {
        kms.says(&says);
        answer(&world, &root, Duration::ZERO).await.unwrap_err();
    }
    assert_eq!(root.state(), BreakerState::Closed);
    for says in [RootKeyError::Withdrawn, down()] {
        kms.says(&says);
        answer(&world, &root, Duration::ZERO).await.unwrap_err();
    }
    assert_eq!(root.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn what_the_kms_was_not_asked_is_no_probe() {
    let (world, kms, root) = tripped(MILLISECOND).await;
    world.pass(SECOND).await;
    kms.set(Some(Down::IsNotAsked));
    for _ in 0..3 {
        assert!(matches!(answer(&world, &root, Duration::ZERO).await, Err(RootKeyError::Rejected)));
        assert!(root.rewrap_key(kms.id(), b"x", &context("acme")).await.unwrap().is_none());
        assert_eq!(root.state(), BreakerState::HalfOpen);
    }
    kms.says(&down());
    answer(&world, &root, Duration::ZERO).await.unwrap_err();
    assert_eq!(root.state(), BreakerState::Open, "that was the probe");
}

fn retrying(world: &World, kms: &Arc<Kms>, policy: RetryPolicy) -> Arc<Retrying<Arc<Kms>>> {
    Arc::new(Retrying::with_timer(Arc::clone(kms), "test", policy, world.timer.clone()))
}

#[tokio::test(start_paused = true)]
async fn retries_are_few_random_and_the_same_for_the_same_seed() {
    let policy = |seed| RetryPolicy {
        max_attempts: 6,
        first_bound: 100 * MILLISECOND,
        seed: Some(seed),
        ..RetryPolicy::default()
    };
    let run = async |seed| {
        let world = World::new();
        let kms = world.kms("test:root", MILLISECOND);
        kms.says(&down());
        let root = retrying(&world, &kms, policy(seed));
        assert!(answer(&world, &root, 10 * SECOND).await.is_err());
        assert_eq!(root.retries(), 5);
        kms.calls()
    };
    let calls = run(1).await;
    assert_eq!(calls.len(), 6);
    for (retry, pair) in (0_u32..).zip(calls.windows(2)) {
        let (wait, bound) = (pair[1].saturating_sub(pair[0]), 100 * MILLISECOND * 2_u32.pow(retry));
        assert!(wait <= bound.min(2 * SECOND) + MILLISECOND, "{wait:?} after {bound:?}");
    }
    assert_eq!(run(1).await, calls);
    assert_ne!(run(2).await, calls);
}

#[tokio::test(start_paused = true)]
async fn jitter_is_spread_over_the_whole_of_its_bound() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    kms.says(&RootKeyError::throttled("slow down"));
    let policy = RetryPolicy { max_attempts: 2, first_bound: SECOND, seed: Some(7), ..RetryPolicy::default() };
    let root = retrying(&world, &kms, policy);
    let callers: Vec<_> = (0..1_000).map(|_| call(&root, "acme")).collect();
    world.pass(SECOND).await;
    assert!(callers.iter().all(JoinHandle::is_finished));
    let retries = kms.calls().split_off(1_000);
    for tenth in 0..10 {
        let (begin, end) = (tenth * 100 * MILLISECOND, (tenth + 1) * 100 * MILLISECOND);
        let count = retries.iter().filter(|at| begin <= **at && **at < end).count();
        assert!((60..=140).contains(&count), "{count} of 1,000 in {begin:?}..{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_retry_begins_after_the_total_time() {
    let world = World::new();
    let kms = world.kms("test:root", MILLISECOND);
    kms.says(&down());
    let policy = RetryPolicy { max_attempts: u32::MAX, max_total: 5 * SECOND, seed: Some(3), ..RetryPolicy::default() };
    let root = retrying(&world, &kms, policy);
    assert!(answer(&world, &root, 5 * SECOND).await.is_err());
    assert!(kms.calls().len() > 5);
}

#[tokio::test(start_paused = true)]
async fn what_will_not_pass_is_not_tried_again() {
    let overloaded = RootKeyError::Overloaded { message: "too many".into(), retry_after: SECOND };
    for error in [RootKeyError::denied("no"), RootKeyError::Rejected, overloaded, RootKeyError::Withdrawn] {
        let world = World::new();
        let kms = world.kms("test:root", MILLISECOND);
        kms.says(&error);
        let root = retrying(&world, &kms, RetryPolicy::default());
        assert!(answer(&world, &root, Duration::ZERO).await.is_err());
        assert_eq!(kms.calls().len(), 1, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_not_tried_again() {
    let (world, _, inner) = tripped(MILLISECOND).await;
    let root = Retrying::with_timer(inner, "test", RetryPolicy::default(), world.timer.clone());
    let error = answer(&world, &Arc::new(root), Duration::ZERO).await.unwrap_err();
    assert!(BreakerOpen::of(&error).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_kms_that_is_down_sees_no_more_than_the_budget() {
    for says in [down(), RootKeyError::throttled("slow down")] {
        let world = World::new();
        let kms = world.kms("test:root", MILLISECOND);
        kms.says(&says);
        let budget = Arc::new(world.budget(50, 10));
        // The worst case: a breaker that never opens, and retries without end.
        let breaker = BreakerPolicy { failures: u32::MAX, ..BreakerPolicy::default() };
        let retry = RetryPolicy { max_attempts: u32::MAX, seed: Some(5), ..RetryPolicy::default() };
        let root = Arc::new(world.guard("test", &budget).breaker(breaker).retry(retry).around(Arc::clone(&kms)));
        let callers: Vec<_> = (0..400).map(|caller| call(&root, &caller.to_string())).collect();
        world.pass(25 * SECOND).await;
        assert!(callers.iter().all(JoinHandle::is_finished));
        let calls = kms.calls();
        assert!(calls.len() > 400, "{}", calls.len());
        assert_within_budget(&calls, 50, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kms_that_is_down_does_not_slow_the_accounts_of_another() {
    for outage in [Down::Hangs, Down::Says(down())] {
        let world = World::new();
        let (dead, live) = (world.kms("test:dead", 20 * MILLISECOND), world.kms("test:live", 20 * MILLISECOND));
        dead.set(Some(outage));
        let budget = Arc::new(world.budget(100, 10));
        let guard = |label| world.guard(label, &budget).attempt_limit(SECOND);
        let (dead_root, live_root) =
            (Arc::new(guard("dead").around(dead.clone())), Arc::new(guard("live").around(live)));
        let mut doomed = Vec::new();
        let mut slowest = Duration::ZERO;
        // Each tenth of a second 100 calls of 30 accounts to the dead one, and one to the other.
        for _ in 0..100 {
            for caller in 0..100 {
                doomed.push(call(&dead_root, &format!("dead {}", caller % 30)));
            }
            let began = world.elapsed();
            let good = call(&live_root, "live");
            while !good.is_finished() {
                world.pass(10 * MILLISECOND).await;
            }
            good.await.unwrap().unwrap();
            slowest = slowest.max(world.elapsed().saturating_sub(began));
            world.pass((100 * MILLISECOND).saturating_sub(world.elapsed().saturating_sub(began))).await;
        }
        // At worst, before the breaker opens, it waits for one turn of each of 30 accounts at 100 a second.
        assert!(slowest <= 350 * MILLISECOND, "{slowest:?}");
        // Until the first deadlines pass, as many as the budget allows; then none of those who wait.
        assert!(dead.calls().len() <= 120, "{} of 10,000 reached the dead one", dead.calls().len());
        world.pass(SECOND).await;
        assert!(doomed.iter().all(JoinHandle::is_finished), "nobody waits for the dead one for long");
        assert_eq!(budget.stats().waiting, 0);
        assert_within_budget(&dead.calls(), 100, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_counts_what_it_sends() {
    let world = World::new();
    let kms = world.kms("test:root", 10 * MILLISECOND);
    let budget = Arc::new(world.budget(1_000, 100));
    let retry = RetryPolicy { seed: Some(1), ..RetryPolicy::default() };
    let root = Arc::new(world.guard("test", &budget).retry(retry).around(Arc::clone(&kms)));
    answer(&world, &root, 10 * MILLISECOND).await.unwrap();
    kms.says(&RootKeyError::denied("no"));
    answer(&world, &root, Duration::ZERO).await.unwrap_err();
    kms.says(&RootKeyError::throttled("slow down"));
    answer(&world, &root, SECOND).await.unwrap_err();
    kms.set(Some(Down::Hangs));
    let dropped = call(&root, "acme");
    world.settle().await;
    dropped.abort();
    world.settle().await;
    let rewrapped = root.rewrap_key(kms.id(), b"x", &context("acme")).await;
    assert!(rewrapped.unwrap().is_none());

    let stats = root.stats();
    let of = |outcome| stats.calls.of(Operation::Wrap, outcome);
    assert_eq!((of(Outcome::Done), of(Outcome::Denied), of(Outcome::Throttled), of(Outcome::Dropped)), (1, 1, 3, 1));
    assert_eq!(stats.calls.of(Operation::Rewrap, Outcome::NotSent), 1);
    assert_eq!((stats.calls.kms_calls(), root.kms_calls(), stats.retries), (6, 6, 2));
    assert_eq!(stats.budget.admitted, 7);
    assert_eq!(stats.breaker, BreakerState::Closed);
    assert!((stats.calls.estimated_cost(0.03) - 6.0 * 0.03 / 10_000.0).abs() < 1e-12);
}

#[tokio::test(start_paused = true)]
async fn past_a_breaker_that_is_open_the_next_root_key_opens_and_past_a_denial_none_does() {
    let world = World::new();
    let [near, far] = ["test:near", "test:far"].map(|name| world.kms(name, Duration::ZERO));
    // Of one quota, so that what the first does not take is there for the second.
    let budget = Arc::new(world.budget(1_000, 100));
    let guarded = [&near, &far].map(|kms| {
        let guard = world.guard("test", &budget).retry(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() });
        Arc::new(guard.around(Arc::clone(kms)))
    });
    let store = Arc::new(MemoryKekStore::new());
    let policy = Policy::builder().kek_ttl(SECOND).ttl_jitter(0.0).refresh_ahead(false).build().unwrap();
    let roots = Roots::builder().current(Arc::clone(&guarded[0])).current(Arc::clone(&guarded[1])).build().unwrap();
    let keys =
        Hierarchy::builder().roots(roots).policy(policy).clock(world.clock.clone()).store(store).build().unwrap();
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &Context::none()).await.unwrap();
    assert_eq!((near.calls().len(), far.calls().len()), (1, 1), "each wrapped the KEK");

    near.says(&down());
    let mut asked = near.calls().len();
    for round in 1..=10 {
        keys.invalidate_all();
        assert_eq!(acme.open(&sealed, &Context::none()).await.unwrap(), b"x");
        assert_eq!(far.calls().len(), 1 + round);
        assert!(near.calls().len() - asked <= 1, "one attempt, or none once its breaker is open");
        asked = near.calls().len();
    }
    assert_eq!(guarded[0].stats().breaker, BreakerState::Open);
    assert_eq!(asked, 1 + 5, "the KMS that is down was left alone");

    // Whoever revokes the first root key does not want the second to stand in for it.
    world.pass(SECOND).await;
    near.says(&RootKeyError::denied("revoked"));
    let calls = far.calls().len();
    keys.invalidate_all();
    let refused = acme.open(&sealed, &Context::none()).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Denied(_))), "{refused}");
    assert_eq!(far.calls().len(), calls);
}

//! How long a key lives.
#![allow(clippy::unchecked_time_subtraction, clippy::unwrap_used)] // constants and helpers of the tests

mod common;

use std::{sync::Arc, time::Duration};

use common::{Fixture, TTL, row};
use keystrata_hierarchy::{
    Account, Clock, Context, KeyError, SealError,
    test_util::{ManualClock, ScriptedRootKey},
};

const NANOSECOND: Duration = Duration::from_nanos(1);

#[tokio::test]
async fn a_kek_is_used_until_its_deadline_and_not_a_nanosecond_longer() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    fixture.clock.advance(TTL - NANOSECOND);
    acme.open(&sealed, &row(1)).await.unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(fixture.root.calls(), 1);
    fixture.clock.advance(NANOSECOND);
    acme.open(&sealed, &row(1)).await.unwrap();
    assert_eq!(fixture.root.calls(), 2);
}

#[tokio::test]
async fn use_never_lengthens_a_life() {
    let fixture = Fixture::new();
    let acme = fixture.process().account("acme").unwrap();
    for _ in 0..30 {
        acme.seal(b"x", &row(1)).await.unwrap();
        fixture.clock.advance(TTL / 10);
    }
    assert_eq!(fixture.root.calls(), 3);
}

#[tokio::test]
async fn the_sweeper_overwrites_at_the_deadline_though_nobody_calls() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    for n in 0..2_000 {
        keys.account(format!("account {n}")).unwrap().seal(b"x", &row(1)).await.unwrap();
        fixture.clock.advance(Duration::from_millis(10));
    }
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (2_000, 2_000));
    fixture.clock.advance(TTL - Duration::from_secs(20)); // the first was made TTL ago
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (1_999, 1_999));
    fixture.clock.advance(Duration::from_secs(10));
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (999, 999));
    fixture.clock.advance(Duration::from_secs(10));
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
}

#[tokio::test]
async fn a_jump_of_real_time_overwrites_what_it_makes_due_and_a_step_back_lengthens_nothing() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    let start = fixture.clock.now().real;
    fixture.clock.set_real(start - Duration::from_secs(3_600));
    // Younger by boot time, due sooner by real time.
    let other = keys.account("other").unwrap();
    fixture.clock.advance(Duration::from_secs(1));
    other.seal(b"x", &row(1)).await.unwrap();
    fixture.clock.set_real(start);
    // A jump wakes nobody; the sweeper looks once a second while it has something to wait for.
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(keys.cached_keks(), 1, "the clock stands an hour past the deadline of `other`, not of `acme`");
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(fixture.root.calls(), 2);
    fixture.clock.set_real(start - Duration::from_secs(3_600));
    fixture.clock.advance(TTL - Duration::from_secs(2));
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(fixture.root.calls(), 3);
}

/// Both ways to come by a KEK: making it, and loading one that another process made.
async fn new_and_old_account(fixture: &Fixture) -> [Account; 2] {
    fixture.process().account("old").unwrap().seal(b"x", &row(1)).await.unwrap();
    let keys = fixture.process();
    [keys.account("new").unwrap(), keys.account("old").unwrap()]
}

#[tokio::test]
async fn life_is_counted_from_the_request_not_from_the_answer() {
    let fixture = Fixture::new();
    for account in new_and_old_account(&fixture).await {
        let before = fixture.root.calls();
        let slow = fixture.root.hold().await;
        let first = fixture.begin_seal(&account).await;
        fixture.clock.advance(TTL - NANOSECOND);
        drop(slow);
        first.await.unwrap().unwrap();
        assert_eq!(fixture.root.calls(), before + 1);
        fixture.clock.advance(NANOSECOND);
        account.seal(b"x", &row(1)).await.unwrap();
        assert_eq!(fixture.root.calls(), before + 2, "{account:?}");
        fixture.clock.advance(TTL);
    }
}

#[tokio::test]
async fn an_answer_that_comes_after_the_deadline_is_not_used() {
    let fixture = Fixture::new();
    for account in new_and_old_account(&fixture).await {
        let slow = fixture.root.hold().await;
        let first = fixture.begin_seal(&account).await;
        fixture.clock.advance(TTL);
        drop(slow);
        let refused = first.await.unwrap().unwrap_err();
        assert!(matches!(refused, SealError::Key(KeyError::Late { ttl: TTL })), "{refused}");
    }
}

#[tokio::test]
async fn a_ttl_of_zero_asks_the_kms_every_time_and_keeps_nothing() {
    let fixture = Fixture::new();
    let keys = fixture.builder().kek_ttl(Duration::ZERO).build().unwrap();
    let acme = keys.account("acme").unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let acme = acme.clone();
        tasks.spawn(async move {
            let sealed = acme.seal(b"x", &row(n)).await.unwrap();
            acme.open(&sealed, &row(n)).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // One to make the KEK, one for each operation.
    assert_eq!(fixture.root.calls(), 1 + 100);
    assert_eq!((keys.cached_keks(), keys.memory().slots_capacity), (0, 0));
}

#[tokio::test]
async fn a_full_cache_overwrites_the_kek_with_the_nearest_deadline() {
    let fixture = Fixture::new();
    let keys = fixture.builder().capacity(2).build().unwrap();
    for name in ["a", "b", "c"] {
        keys.account(name).unwrap().seal(b"x", &row(1)).await.unwrap();
        fixture.clock.advance(Duration::from_secs(1));
    }
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (2, 2));
    for name in ["b", "c"] {
        keys.account(name).unwrap().seal(b"x", &row(1)).await.unwrap();
    }
    assert_eq!(fixture.root.calls(), 3);
    keys.account("a").unwrap().seal(b"x", &row(1)).await.unwrap();
    assert_eq!(fixture.root.calls(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_of_one_slows_a_crowd_down_and_stops_nobody() {
    let fixture = Fixture::new();
    let keys = fixture.builder().capacity(1).build().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let account = keys.account(format!("account {}", n % 20)).unwrap();
        tasks.spawn(async move {
            let sealed = account.seal(b"x", &row(n)).await.unwrap();
            assert_eq!(account.open(&sealed, &row(n)).await.unwrap(), b"x");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(keys.memory().slots_used, 1);
}

#[test]
fn the_sweeper_needs_no_runtime() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { keys.account("acme").unwrap().seal(b"x", &Context::none()).await }).unwrap();
    drop(runtime);
    assert_eq!(keys.memory().slots_used, 1);
    fixture.clock.advance(TTL);
    assert_eq!(keys.memory().slots_used, 0);
}

#[test]
fn dropping_a_hierarchy_ends_its_sweeper() {
    let clock = ManualClock::new();
    let root = Arc::new(ScriptedRootKey::new("test:root"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for _ in 0..100 {
        let keys = keystrata_hierarchy::Hierarchy::builder()
            .root_key(Arc::clone(&root))
            .store(keystrata_hierarchy::MemoryKekStore::new())
            .clock(clock.clone())
            .build()
            .unwrap();
        runtime.block_on(async { keys.account("acme").unwrap().seal(b"x", &Context::none()).await }).unwrap();
        assert_eq!(clock.sleepers(), 1);
        drop(keys);
        assert_eq!(clock.sleepers(), 0);
    }
}

#[tokio::test]
async fn dropping_the_last_handle_overwrites_all_though_a_load_is_under_way() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    let slow = fixture.root.hold().await;
    let other = keys.account("other").unwrap();
    let sealing = fixture.begin_seal(&other).await;
    sealing.abort();
    assert!(sealing.await.unwrap_err().is_cancelled());
    drop((acme, other));
    assert_eq!(fixture.clock.sleepers(), 1);
    drop(keys);
    // The load keeps the engine; the sweeper leaves when the cache is closed, and closing overwrites all.
    while fixture.clock.sleepers() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(Arc::strong_count(&fixture.root) > 1);
    drop(slow);
    while Arc::strong_count(&fixture.root) > 1 {
        tokio::task::yield_now().await;
    }
}

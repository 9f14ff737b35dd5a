//! Renewal ahead of deadlines: nobody waits, nothing lives longer, and a KMS that is down is not pestered.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use common::{
    TTL, exact, row,
    tricky::{Hold, Tricky, settle},
};
use keystrata_hierarchy::{
    Account, Hierarchy, KekRecord, KekState, KeyError, OpenError, PolicyBuilder, RootKeyError, SealError, Urgency,
};

const NANOSECOND: Duration = Duration::from_nanos(1);
/// The sweeper rests this long after a round, so what is due meanwhile is overwritten that much later, and used never.
const SWEEP: Duration = Duration::from_millis(100);

fn ahead() -> PolicyBuilder {
    exact().refresh_ahead(true)
}

/// A process with the account's KEK in memory, and an envelope sealed under it.
async fn warm(tricky: &Tricky) -> (Hierarchy, Account, Vec<u8>) {
    let keys = tricky.process(ahead());
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    (keys, acme, sealed)
}

#[tokio::test]
async fn steady_traffic_over_fifty_lives_waits_for_nothing_and_makes_one_call_in_each() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = warm(&tricky).await;
    let step = Duration::from_millis(7_300);
    let (mut since_asked, mut calls) = (Duration::ZERO, 1);
    for _ in 0..(50 * TTL).as_nanos() / step.as_nanos() {
        tricky.clock.advance(step);
        acme.try_seal(b"x", &row(1)).unwrap().expect("nobody waits");
        acme.try_open(&sealed, &row(1)).unwrap().expect("nobody waits");
        settle().await;
        since_asked += step;
        if since_asked >= TTL * 9 / 10 {
            (since_asked, calls) = (Duration::ZERO, calls + 1);
        }
        assert_eq!(tricky.root.calls(), calls);
    }
    assert!(calls >= 50);
    assert_eq!((keys.stats().refreshes, keys.cached_keks()), (calls as u64 - 1, 1));
    assert_eq!((keys.stats().misses, keys.stats().expiries), (1, 0));
}

#[tokio::test]
async fn a_kek_that_nobody_uses_is_not_renewed() {
    let tricky = Tricky::new();
    let (keys, _acme, _) = warm(&tricky).await;
    for _ in 0..TTL.as_secs() {
        tricky.clock.advance(Duration::from_secs(1));
        settle().await;
    }
    assert_eq!((tricky.root.calls(), keys.memory().slots_used), (1, 0));
}

#[tokio::test]
async fn while_the_kms_is_down_it_is_asked_once_a_second_and_the_kek_serves_until_its_deadline() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = warm(&tricky).await;
    tricky.clock.advance(TTL * 9 / 10);
    acme.seal(b"x", &row(1)).await.unwrap(); // asks the store, not the KMS
    tricky.root.fail(Some(RootKeyError::unavailable("no route")));
    for step in 0..300 {
        acme.try_seal(b"x", &row(1)).unwrap().expect("served");
        acme.try_open(&sealed, &row(1)).unwrap().expect("served");
        settle().await;
        assert_eq!(tricky.root.calls(), 1 + step / 10 + 1, "after {step} tenths of a second");
        tricky.clock.advance(Duration::from_millis(100) - if step == 299 { NANOSECOND } else { Duration::ZERO });
    }
    settle().await;
    acme.try_seal(b"x", &row(1)).unwrap().expect("served to the last nanosecond");
    acme.try_open(&sealed, &row(1)).unwrap().expect("served to the last nanosecond");
    tricky.clock.advance(NANOSECOND);
    assert!(acme.try_seal(b"x", &row(1)).unwrap().is_none() && acme.try_open(&sealed, &row(1)).unwrap().is_none());
    tricky.clock.advance(SWEEP);
    assert_eq!(keys.memory().slots_used, 0);
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::RootUnavailable(_))), "{refused}");
    tricky.root.fail(None);
    acme.seal(b"x", &row(1)).await.unwrap();
}

#[tokio::test]
async fn while_the_store_is_down_nobody_waits_for_it_before_the_deadline() {
    let tricky = Tricky::new();
    let (_keys, acme, sealed) = warm(&tricky).await;
    tricky.store.set_down(true);
    let reads = tricky.store.reads();
    for step in 1..600_u64 {
        tricky.clock.advance(Duration::from_millis(500));
        acme.try_seal(b"x", &row(1)).unwrap().unwrap_or_else(|| panic!("waits after {step} half seconds"));
        acme.try_open(&sealed, &row(1)).unwrap().expect("nobody waits");
        settle().await;
        // For the primary once a second, and for the record once a second near the deadline.
        assert!(tricky.store.reads() - reads <= 2 * (1 + step / 2), "{} reads", tricky.store.reads() - reads);
    }
    tricky.clock.advance(Duration::from_millis(500));
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::StoreUnavailable(_))), "{refused}");
    assert_eq!(tricky.root.calls(), 1);
}

#[tokio::test]
async fn a_kek_that_was_disabled_is_overwritten_when_its_record_is_read_for_the_renewal() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = warm(&tricky).await;
    tricky.store.show(|record| Some(KekRecord { state: KekState::Disabled, ..record }));
    tricky.clock.advance(TTL * 9 / 10);
    acme.try_open(&sealed, &row(1)).unwrap().expect("in its time");
    settle().await;
    assert_eq!((tricky.root.calls(), keys.stats().refreshes), (1, 1), "its record was read and no call was made");
    assert_eq!(keys.memory().slots_used, 0, "long before the deadline");
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::WrongState { state: KekState::Disabled, .. })), "{refused}");
    assert_eq!(tricky.root.calls(), 1);
}

#[tokio::test]
async fn a_renewal_that_is_denied_overwrites_at_once() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = warm(&tricky).await;
    tricky.clock.advance(TTL * 9 / 10);
    tricky.root.fail(Some(RootKeyError::denied("revoked")));
    acme.try_open(&sealed, &row(1)).unwrap().expect("before the answer");
    settle().await;
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0), "long before the deadline");
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Denied(_))), "{refused}");
    assert_eq!((tricky.root.calls(), keys.stats().denials), (2, 1));
}

#[tokio::test]
async fn at_most_sixty_four_renewals_are_under_way_and_the_others_come_a_second_later() {
    let tricky = Tricky::new();
    let keys = tricky.process(ahead());
    let mut accounts = Vec::new();
    for n in 0..100 {
        let account = keys.account(format!("account {n}")).unwrap();
        account.seal(b"x", &row(1)).await.unwrap();
        accounts.push(account);
    }
    let use_all = || {
        for account in &accounts {
            account.try_seal(b"x", &row(1)).unwrap().expect("nobody waits");
        }
    };
    // The primaries are looked for again first, which takes no place.
    for _ in 0..27 {
        tricky.clock.advance(Duration::from_secs(10));
        if tricky.clock_seconds() == 1_270 {
            tricky.root.hold(Hold::Everything);
        }
        use_all();
        settle().await;
    }
    assert_eq!(tricky.root.calls(), 100 + 64);
    tricky.clock.advance(Duration::from_millis(1_500));
    use_all();
    settle().await;
    assert_eq!(tricky.root.calls(), 100 + 64, "no place yet");
    tricky.root.hold(Hold::Nothing);
    settle().await;
    tricky.clock.advance(Duration::from_secs(1));
    use_all();
    settle().await;
    assert_eq!((tricky.root.calls(), keys.stats().refreshes), (200, 100));
    tricky.clock.advance(Duration::from_secs(10));
    use_all();
}

#[tokio::test]
async fn a_caller_who_comes_to_wait_for_a_renewal_lifts_it() {
    for opens in [true, false] {
        let tricky = Tricky::new();
        let (_keys, acme, sealed) = warm(&tricky).await;
        tricky.clock.advance(TTL - Duration::from_secs(10));
        tricky.root.hold(Hold::Everything);
        acme.try_open(&sealed, &row(1)).unwrap().unwrap();
        settle().await;
        let demand = tricky.root.last_demand();
        assert_eq!((demand.urgency(), demand.is_wanted()), (Urgency::Background, true));
        tricky.clock.advance(Duration::from_secs(10));
        let waiting = tokio::spawn(async move {
            if opens {
                acme.open(&sealed, &row(1)).await.unwrap();
            } else {
                acme.seal(b"x", &row(1)).await.unwrap();
            }
        });
        settle().await;
        assert_eq!(tricky.root.calls(), 2, "it joined");
        assert_eq!(demand.urgency(), Urgency::Foreground, "opens: {opens}");
        tricky.root.hold(Hold::Nothing);
        waiting.await.unwrap();
        assert_eq!(tricky.root.calls(), 2);
    }
}

#[tokio::test]
async fn a_load_whose_callers_have_all_left_is_unwanted_and_begun_again_by_whoever_comes() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let acme = tricky.process(ahead()).account("acme").unwrap();
    tricky.root.withdraws.store(true, Ordering::SeqCst);
    tricky.root.hold(Hold::Everything);
    let open = || {
        let (acme, sealed) = (acme.clone(), sealed.clone());
        tokio::spawn(async move { acme.open(&sealed, &row(1)).await })
    };
    let (first, second) = (open(), open());
    settle().await;
    let demand = tricky.root.last_demand();
    assert_eq!((demand.urgency(), demand.is_wanted(), tricky.root.calls()), (Urgency::Foreground, true, 2));
    first.abort();
    settle().await;
    assert!(demand.is_wanted(), "one is left");
    second.abort();
    let third = loop {
        // Comes between the last one's leave and the call's withdrawal.
        if !demand.is_wanted() {
            break open();
        }
        tokio::task::yield_now().await;
    };
    settle().await;
    assert_eq!(tricky.root.calls(), 3);
    tricky.root.hold(Hold::Nothing);
    assert_eq!(third.await.unwrap().unwrap(), b"x");
    assert_eq!(tricky.root.calls(), 3);
}

#[tokio::test]
async fn a_root_key_that_withdraws_whatever_is_asked_is_an_error_and_no_hang() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    tricky.root.fail(Some(RootKeyError::Withdrawn));
    let acme = tricky.process(ahead()).account("acme").unwrap();
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Key(error) if error.is_retryable()), "{refused}");
    assert!(tricky.root.calls() <= 5, "{}", tricky.root.calls());
}

#[tokio::test]
async fn jitter_shortens_lives_and_lengthens_none() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let mut lives = BTreeSet::new();
    for seed in 0..100 {
        let policy = exact().ttl_jitter(0.5).build().unwrap();
        let keys = tricky.builder().policy(policy).jitter_seed(seed).build().unwrap();
        let acme = keys.account("acme").unwrap();
        acme.open(&sealed, &row(1)).await.unwrap();
        tricky.clock.advance(TTL / 2 - NANOSECOND);
        acme.try_open(&sealed, &row(1)).unwrap().expect("half of the TTL at least");
        tricky.clock.advance(NANOSECOND);
        let mut life = TTL / 2;
        while acme.try_open(&sealed, &row(1)).unwrap().is_some() {
            assert!(life < TTL, "seed {seed}");
            tricky.clock.advance(Duration::from_secs(5));
            life += Duration::from_secs(5);
        }
        assert_eq!(keys.memory().slots_used, 0);
        lives.insert(life);
    }
    assert!(lives.len() >= 20, "{lives:?}");
}

#[tokio::test]
async fn a_renewal_that_takes_long_moves_no_deadline_and_its_own_counts_from_its_request() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = warm(&tricky).await;
    tricky.clock.advance(TTL - Duration::from_secs(10));
    tricky.root.hold(Hold::Everything);
    acme.try_open(&sealed, &row(1)).unwrap().unwrap();
    settle().await;
    tricky.clock.advance(Duration::from_secs(10) - NANOSECOND);
    acme.try_open(&sealed, &row(1)).unwrap().unwrap();
    tricky.clock.advance(NANOSECOND);
    assert!(acme.try_open(&sealed, &row(1)).unwrap().is_none());
    tricky.clock.advance(SWEEP);
    assert_eq!(keys.memory().slots_used, 0);
    tricky.root.hold(Hold::Nothing);
    settle().await;
    tricky.root.fail(Some(RootKeyError::unavailable("no route")));
    tricky.clock.advance(TTL - Duration::from_secs(10) - SWEEP - NANOSECOND);
    acme.try_open(&sealed, &row(1)).unwrap().expect("the renewed one");
    tricky.clock.advance(NANOSECOND);
    assert!(acme.try_open(&sealed, &row(1)).unwrap().is_none(), "a TTL after the renewal was asked for");
    tricky.clock.advance(SWEEP);
    assert_eq!(keys.memory().slots_used, 0);
}

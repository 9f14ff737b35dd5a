//! Use beyond the deadline: only where a policy allows it, and only while the KMS or the store is out of reach.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::time::Duration;

use common::{
    TTL, exact, row,
    tricky::{Tricky, settle},
};
use keystrata_hierarchy::{
    Account, Clock, Hierarchy, KekRecord, KekState, KeyError, OpenError, PolicyBuilder, RootKeyError, SealError,
};

const NANOSECOND: Duration = Duration::from_nanos(1);
const SWEEP: Duration = Duration::from_millis(100);
const STALE: Duration = Duration::from_secs(60);

fn lenient() -> PolicyBuilder {
    exact().max_stale(STALE)
}

fn out_of_reach() -> [RootKeyError; 3] {
    let overloaded = RootKeyError::Overloaded { message: "used up".into(), retry_after: Duration::from_secs(1) };
    [RootKeyError::unavailable("no route"), RootKeyError::throttled("slow down"), overloaded]
}

async fn at_the_deadline(tricky: &Tricky, policy: PolicyBuilder) -> (Hierarchy, Account, Vec<u8>) {
    let keys = tricky.process(policy);
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(TTL);
    (keys, acme, sealed)
}

#[tokio::test]
async fn by_default_nothing_is_used_beyond_its_deadline() {
    for failure in out_of_reach() {
        let tricky = Tricky::new();
        let (keys, acme, sealed) = at_the_deadline(&tricky, exact()).await;
        tricky.root.fail(Some(failure));
        assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
        let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
        assert!(matches!(&refused, OpenError::Key(error) if error.is_retryable()), "{refused}");
        let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(&refused, SealError::Key(error) if error.is_retryable()), "{refused}");
        assert_eq!((keys.health().await.max_stale, keys.stats().stale_uses), (Duration::ZERO, 0));
    }
}

#[tokio::test]
async fn a_kek_beyond_its_deadline_is_used_after_a_try_that_failed_and_not_before() {
    for failure in out_of_reach() {
        let tricky = Tricky::new();
        let (keys, acme, sealed) = at_the_deadline(&tricky, lenient()).await;
        assert!(acme.try_open(&sealed, &row(1)).unwrap().is_none(), "nobody has tried yet");
        assert!(acme.try_seal(b"x", &row(1)).unwrap().is_none(), "nobody has tried yet");
        tricky.root.fail(Some(failure));
        let calls = tricky.root.calls();
        assert_eq!(acme.open(&sealed, &row(1)).await.unwrap(), b"x");
        assert_eq!(acme.seal(b"x", &row(1)).await.unwrap()[4..20], sealed[4..20]);
        assert_eq!((tricky.root.calls(), keys.stats().stale_uses), (calls + 1, 1));
        tricky.root.fail(None);
    }
}

#[tokio::test]
async fn while_a_kek_is_stale_the_kms_is_asked_once_a_second() {
    for refresh in [false, true] {
        let tricky = Tricky::new();
        let (_keys, acme, sealed) = at_the_deadline(&tricky, lenient().refresh_ahead(refresh)).await;
        tricky.root.fail(Some(RootKeyError::unavailable("no route")));
        let calls = tricky.root.calls();
        for tenth in 0..599 {
            acme.open(&sealed, &row(1)).await.unwrap();
            acme.seal(b"x", &row(1)).await.unwrap();
            settle().await;
            assert_eq!(tricky.root.calls() - calls, 1 + tenth / 10, "after {tenth} tenths, refresh: {refresh}");
            tricky.clock.advance(Duration::from_millis(100));
        }
    }
}

#[tokio::test]
async fn a_stale_kek_is_used_until_the_end_of_its_time_and_overwritten_then() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = at_the_deadline(&tricky, lenient()).await;
    tricky.root.fail(Some(RootKeyError::unavailable("no route")));
    tricky.clock.advance(STALE - SWEEP - NANOSECOND);
    acme.open(&sealed, &row(1)).await.unwrap();
    tricky.clock.advance(SWEEP);
    acme.open(&sealed, &row(1)).await.unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(NANOSECOND);
    assert!(acme.try_open(&sealed, &row(1)).unwrap().is_none());
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::RootUnavailable(_))), "{refused}");
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::RootUnavailable(_))), "{refused}");
    tricky.clock.advance(SWEEP);
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
}

#[tokio::test]
async fn a_clock_set_back_lengthens_no_stale_time() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = at_the_deadline(&tricky, lenient()).await;
    tricky.root.fail(Some(RootKeyError::unavailable("no route")));
    acme.open(&sealed, &row(1)).await.unwrap();
    tricky.clock.set_real(tricky.clock.now().real - Duration::from_secs(3_600));
    tricky.clock.advance(STALE);
    assert!(acme.open(&sealed, &row(1)).await.is_err());
    assert_eq!(keys.memory().slots_used, 0);
}

#[tokio::test]
async fn a_store_out_of_reach_is_an_excuse_too() {
    let tricky = Tricky::new();
    let (_keys, acme, sealed) = at_the_deadline(&tricky, lenient()).await;
    tricky.store.set_down(true);
    acme.open(&sealed, &row(1)).await.unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(tricky.root.calls(), 1);
}

#[tokio::test]
async fn after_a_denial_nothing_stale_is_used() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = at_the_deadline(&tricky, lenient()).await;
    tricky.root.fail(Some(RootKeyError::throttled("slow down")));
    acme.open(&sealed, &row(1)).await.unwrap();
    tricky.clock.advance(Duration::from_secs(1));
    tricky.root.fail(Some(RootKeyError::denied("revoked")));
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Denied(_))), "{refused}");
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (0, 0));
    tricky.root.fail(Some(RootKeyError::throttled("slow down")));
    tricky.clock.advance(Duration::from_secs(30));
    assert!(acme.open(&sealed, &row(1)).await.is_err() && acme.seal(b"x", &row(1)).await.is_err());
}

#[tokio::test]
async fn a_kek_whose_record_is_gone_disabled_or_broken_is_not_excused() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = at_the_deadline(&tricky, lenient()).await;
    tricky.root.fail(Some(RootKeyError::throttled("slow down")));
    tricky.store.show(|_| None);
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::NotFound { .. })), "{refused}");
    tricky.clock.advance(Duration::from_secs(1));
    tricky.store.show(|record| Some(KekRecord { state: KekState::Disabled, ..record }));
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::WrongState { .. })), "{refused}");
    tricky.store.show_the_truth();
    tricky.root.fail(Some(RootKeyError::Rejected));
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Corrupt { .. })), "{refused}");
    assert_eq!(keys.stats().stale_uses, 0);
}

#[tokio::test]
async fn staleness_is_seen_while_it_lasts_and_ends_with_the_outage() {
    let tricky = Tricky::new();
    let (keys, acme, sealed) = at_the_deadline(&tricky, lenient()).await;
    // It is in memory and past its deadline, and nobody uses it.
    let health = keys.health().await;
    assert_eq!((health.stale_keks, health.cached_keks, health.max_stale), (0, 1, STALE));
    assert!(!health.is_degraded());
    tricky.root.fail(Some(RootKeyError::unavailable("no route")));
    acme.open(&sealed, &row(1)).await.unwrap();
    let health = keys.health().await;
    assert_eq!((health.stale_keks, health.oldest_authorisation, health.stats.stale_uses), (1, Some(TTL), 1));
    assert!(health.is_degraded() && !health.is_ready());
    tricky.root.fail(None);
    tricky.clock.advance(Duration::from_secs(1));
    acme.open(&sealed, &row(1)).await.unwrap();
    let health = keys.health().await;
    assert_eq!((health.stale_keks, health.oldest_authorisation), (0, Some(Duration::ZERO)));
    assert!(!health.is_degraded() && health.is_ready());
}

#[tokio::test]
async fn a_kek_that_awaits_the_sweeper_is_not_stale() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(Duration::from_secs(1));
    // The sweeper sees a jump of real time at its next look.
    tricky.clock.set_real(tricky.clock.now().real + 2 * TTL);
    let health = keys.health().await;
    assert_eq!((health.cached_keks, health.stale_keks, health.is_degraded()), (1, 0, false));
}

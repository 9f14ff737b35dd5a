//! What a policy holds an account's keys to, and how a new primary comes into use.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::{num::NonZeroU64, time::Duration};

use common::{
    TTL, exact, row,
    tricky::{Hold, Tricky, settle},
};
use keystrata_hierarchy::{
    Account, BuildError, KekState, KekStore, KeyError, OpenError, Policy, RootKeyError, SealError,
};

const NANOSECOND: Duration = Duration::from_nanos(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn kek_of(envelope: &[u8]) -> [u8; 16] {
    envelope[4..20].try_into().unwrap()
}

fn count(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

async fn seal(account: &Account) -> [u8; 16] {
    kek_of(&account.seal(b"0123456789", &row(1)).await.unwrap())
}

#[tokio::test]
async fn accounts_live_by_policies_of_their_own() {
    let tricky = Tricky::new();
    let policy_of = |path: &keystrata_hierarchy::KeyPath| match path.segments().next()? {
        "bank" => Some(exact().kek_ttl(Duration::from_secs(30)).build().unwrap()),
        "archive" => Some(exact().kek_ttl(HOUR).build().unwrap()),
        "vault" => Some(exact().kek_ttl(Duration::ZERO).build().unwrap()),
        _ => None,
    };
    let keys = tricky.builder().policy_by_account(policy_of).build().unwrap();
    let ttls = [("bank", 30), ("archive", 3_600), ("vault", 0), ("acme", 300)];
    for (name, ttl) in ttls {
        let account = keys.account(name).unwrap();
        let sealed = account.seal(b"x", &row(1)).await.unwrap();
        let ttl = Duration::from_secs(ttl);
        if !ttl.is_zero() {
            tricky.clock.advance(ttl - NANOSECOND);
            account.try_open(&sealed, &row(1)).unwrap().expect(name);
            tricky.clock.advance(NANOSECOND);
        }
        assert!(account.try_open(&sealed, &row(1)).unwrap().is_none(), "{name}");
    }
}

#[tokio::test]
async fn a_ttl_above_the_cap_has_to_be_meant() {
    let day = Policy::MAX_KEK_TTL;
    let refused = exact().kek_ttl(day + NANOSECOND).build().unwrap_err();
    assert!(matches!(refused, BuildError::TtlTooLong { .. }), "{refused}");
    let refused = exact().dangerous_uncapped_kek_ttl(2 * day).kek_ttl(2 * day).build().unwrap_err();
    assert!(matches!(refused, BuildError::TtlTooLong { .. }), "the last word counts: {refused}");
    let tricky = Tricky::new();
    for ttl in [7 * day, Duration::MAX] {
        let acme = tricky.process(exact().dangerous_uncapped_kek_ttl(ttl)).account("acme").unwrap();
        let sealed = acme.seal(b"x", &row(1)).await.unwrap();
        tricky.clock.advance(7 * day - NANOSECOND);
        acme.try_open(&sealed, &row(1)).unwrap().expect("still");
    }
}

/// Seals in many tasks at once while new KEKs are held up, and says how many were asked for.
async fn rush(tricky: &Tricky, account: &Account) -> u64 {
    let before = tricky.root.generates();
    tricky.root.hold(Hold::Everything);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let account = account.clone();
        tasks.spawn(async move { account.seal(b"0123456789", &row(n)).await.unwrap() });
    }
    tasks.join_all().await; // nobody waits for the new KEK
    settle().await;
    let asked = tricky.root.generates() - before;
    tricky.root.hold(Hold::Nothing);
    settle().await;
    asked
}

#[tokio::test]
async fn a_kek_that_has_sealed_enough_is_replaced_once_however_many_seal_at_once() {
    // Ten bytes each.
    let ceilings = [exact().max_wraps(count(50)), exact().max_bytes(count(500)), exact().max_bytes(count(491))];
    for policy in ceilings {
        let tricky = Tricky::new();
        let keys = tricky.process(policy);
        let acme = keys.account("acme").unwrap();
        let first = acme.seal(b"0123456789", &row(1)).await.unwrap();
        for round in 1..=3 {
            for _ in 0..48 {
                seal(&acme).await;
                settle().await;
            }
            assert_eq!((tricky.root.generates(), keys.stats().rotations), (round, round - 1), "short of the ceiling");
            let worn = seal(&acme).await;
            assert_eq!(tricky.root.generates(), round);
            assert_eq!(rush(&tricky, &acme).await, 1);
            assert_ne!(seal(&acme).await, worn);
            assert_eq!(keys.stats().rotations, round);
        }
        assert_eq!(tricky.store.versions("acme").await, 4);
        assert_eq!(acme.open(&first, &row(1)).await.unwrap(), b"0123456789");
        assert_eq!(
            tricky.process(exact()).account("acme").unwrap().open(&first, &row(1)).await.unwrap(),
            b"0123456789"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_on_many_threads_makes_no_kek_too_many() {
    let tricky = Tricky::new();
    let acme = tricky.process(exact().max_wraps(count(1_000))).account("acme").unwrap();
    seal(&acme).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let acme = acme.clone();
        tasks.spawn(async move {
            for _ in 0..1_000 {
                seal(&acme).await;
            }
        });
    }
    tasks.join_all().await;
    // Uses in the meantime go to the old KEK, so there are fewer.
    assert!(tricky.store.versions("acme").await <= 9, "{}", tricky.store.versions("acme").await);
}

#[tokio::test]
async fn a_kek_of_age_is_replaced_once_however_many_seal_at_once() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact().max_age(HOUR));
    let acme = keys.account("acme").unwrap();
    let first = acme.seal(b"x", &row(1)).await.unwrap();
    for round in 1..=3 {
        tricky.clock.advance(HOUR - Duration::from_secs(1));
        assert_eq!(tricky.store.versions("acme").await, round);
        seal(&acme).await;
        assert_eq!(tricky.store.versions("acme").await, round, "not yet");
        tricky.clock.advance(Duration::from_secs(1) + Duration::from_secs(30));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let acme = acme.clone();
            tasks.spawn(async move { seal(&acme).await });
        }
        tasks.join_all().await;
        settle().await;
        seal(&acme).await;
        assert_eq!((tricky.store.versions("acme").await, tricky.root.generates()), (round + 1, round as u64 + 1));
    }
    assert_eq!(acme.open(&first, &row(1)).await.unwrap(), b"x");
}

#[tokio::test]
async fn a_kms_that_is_down_at_a_ceiling_stops_no_seal_and_is_asked_once_a_second() {
    for failure in [RootKeyError::unavailable("no route"), RootKeyError::throttled("slow down")] {
        let tricky = Tricky::new();
        let acme = tricky.process(exact().max_wraps(count(10))).account("acme").unwrap();
        for _ in 0..9 {
            seal(&acme).await;
        }
        tricky.root.fail(Some(failure));
        for tenth in 0..100 {
            acme.seal(b"x", &row(1)).await.unwrap();
            settle().await;
            assert_eq!(tricky.root.generates(), 2 + tenth / 10, "after {tenth} tenths of a second");
            tricky.clock.advance(Duration::from_millis(100));
        }
        tricky.root.fail(None);
        let worn = seal(&acme).await;
        settle().await;
        assert_ne!(seal(&acme).await, worn);
    }
}

#[tokio::test]
async fn nobody_waits_for_the_kek_that_replaces_one_of_age_while_the_old_one_is_at_hand() {
    let tricky = Tricky::new();
    let acme = tricky.process(exact().max_age(Duration::from_secs(60))).account("acme").unwrap();
    let old = seal(&acme).await;
    tricky.root.hold(Hold::Everything);
    for second in 1..200 {
        tricky.clock.advance(Duration::from_secs(1));
        let sealed = acme.try_seal(b"x", &row(1)).unwrap().unwrap_or_else(|| panic!("waits after {second} seconds"));
        assert_eq!(kek_of(&sealed), old);
        settle().await;
    }
    // One whenever it is looked at and the last is taken for lost.
    assert!((1..=5).contains(&(tricky.root.generates() - 1)), "{}", tricky.root.generates());
    tricky.root.hold(Hold::Nothing);
    settle().await;
    assert_ne!(kek_of(&acme.try_seal(b"x", &row(1)).unwrap().unwrap()), old);
    assert_eq!(tricky.store.versions("acme").await, 2);
}

#[tokio::test]
async fn with_a_ttl_of_zero_ceilings_hold_too() {
    for policy in [exact().max_wraps(count(10)), exact().max_age(HOUR)] {
        let tricky = Tricky::new();
        let acme = tricky.process(policy.kek_ttl(Duration::ZERO)).account("acme").unwrap();
        for round in 1..=2 {
            for _ in 0..9 {
                seal(&acme).await;
                settle().await;
            }
            assert_eq!(tricky.store.versions("acme").await, round);
            tricky.clock.advance(HOUR);
            seal(&acme).await;
            settle().await;
            assert_eq!(tricky.store.versions("acme").await, round + 1);
        }
    }
}

#[tokio::test]
async fn a_rotation_is_used_here_at_once_and_elsewhere_within_half_a_minute() {
    for wait in [Duration::ZERO, Duration::from_secs(7), Duration::from_secs(14)] {
        let tricky = Tricky::new();
        let here = tricky.process(exact()).account("acme").unwrap();
        let elsewhere = tricky.process(exact()).account("acme").unwrap();
        let old = seal(&here).await;
        assert_eq!(seal(&elsewhere).await, old);
        tricky.clock.advance(wait);
        assert_eq!(here.rotate().await.unwrap().get(), 2);
        let new = seal(&here).await;
        assert_ne!(new, old);
        // Whether it seals all the time or not at all.
        let idle = tricky.process(exact()).account("acme").unwrap();
        for _ in 0..30 {
            seal(&elsewhere).await;
            settle().await;
            tricky.clock.advance(Duration::from_secs(1));
        }
        assert_eq!((seal(&elsewhere).await, seal(&idle).await), (new, new));
        assert_eq!(here.rotate().await.unwrap().get(), 3);
        let records = tricky.store.inner.records(here.path()).await.unwrap();
        let states: Vec<_> = records.iter().map(|record| (record.identity.version.get(), record.state)).collect();
        assert_eq!(states, [(1, KekState::Retired), (2, KekState::Retired), (3, KekState::Primary)]);
    }
}

#[tokio::test]
async fn whoever_loses_a_race_to_rotate_seals_under_the_winners_kek_at_once() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let accounts: Vec<_> = (0..3).map(|_| tricky.process(exact().kek_ttl(ttl)).account("acme").unwrap()).collect();
        for account in &accounts {
            seal(account).await;
        }
        tricky.store.hold_rotations(true);
        let mut racers = tokio::task::JoinSet::new();
        for account in &accounts {
            let account = account.clone();
            racers.spawn(async move {
                let version = account.rotate().await.unwrap().get();
                (version, seal(&account).await)
            });
        }
        settle().await;
        assert_eq!(tricky.store.rotating(), 3);
        tricky.store.hold_rotations(false);
        let ended = racers.join_all().await;
        assert!(ended.iter().all(|end| *end == (2, ended[0].1)), "{ended:?}");
        assert_eq!(tricky.store.versions("acme").await, 2);
    }
}

#[tokio::test]
async fn callers_at_once_share_a_rotation_and_an_account_without_a_kek_has_none() {
    let tricky = Tricky::new();
    let acme = tricky.process(exact()).account("acme").unwrap();
    let refused = acme.rotate().await.unwrap_err();
    assert!(matches!(refused, KeyError::NoAccount { .. }) && !refused.is_retryable(), "{refused}");
    assert_eq!((tricky.root.calls(), tricky.store.versions("acme").await), (0, 0));
    seal(&acme).await;
    tricky.root.hold(Hold::Everything);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let acme = acme.clone();
        tasks.spawn(async move { acme.rotate().await.unwrap().get() });
    }
    settle().await;
    tricky.root.hold(Hold::Nothing);
    assert_eq!(tasks.join_all().await, vec![2; 20]);
    assert_eq!(tricky.root.calls(), 2);
}

#[tokio::test]
async fn a_load_of_the_old_primary_that_ends_after_a_rotation_does_not_bring_it_back() {
    let tricky = Tricky::new();
    let old = kek_of(&tricky.sealed_for("acme").await);
    let acme = tricky.process(exact()).account("acme").unwrap();
    tricky.root.hold(Hold::Unwraps);
    let slow = tokio::spawn({
        let acme = acme.clone();
        async move { seal(&acme).await }
    });
    settle().await;
    acme.rotate().await.unwrap();
    let new = seal(&acme).await;
    assert_ne!(new, old);
    tricky.root.hold(Hold::Nothing);
    slow.await.unwrap();
    settle().await;
    assert_eq!(seal(&acme).await, new);
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_noticed_and_nothing_is_sealed_once_the_kek_is_due() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    let old = seal(&acme).await;
    acme.rotate().await.unwrap();
    let new = seal(&acme).await;
    tricky.store.show(move |mut record| {
        record.state = KekState::Primary;
        (*record.identity.id.as_bytes() == old).then_some(record)
    });
    for _ in 0..29 {
        tricky.clock.advance(Duration::from_secs(10));
        assert_eq!(seal(&acme).await, new, "it may be a replica that lags behind");
        settle().await;
    }
    tricky.clock.advance(Duration::from_secs(10));
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    let SealError::Key(KeyError::RolledBack { found, seen, .. }) = &refused else { panic!("{refused}") };
    assert_eq!((found.get(), seen.get()), (1, 2));
    keys.invalidate("acme").unwrap();
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::RolledBack { .. })), "{refused}");
    tricky.store.show_the_truth();
    assert_eq!(seal(&acme).await, new);
}

#[tokio::test]
async fn with_a_ttl_of_zero_a_store_that_was_rolled_back_is_noticed_at_once() {
    let tricky = Tricky::new();
    let acme = tricky.process(exact().kek_ttl(Duration::ZERO)).account("acme").unwrap();
    let old = seal(&acme).await;
    acme.rotate().await.unwrap();
    assert_ne!(seal(&acme).await, old);
    tricky.store.show(move |mut record| {
        record.state = KekState::Primary;
        (*record.identity.id.as_bytes() == old).then_some(record)
    });
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::RolledBack { .. })), "{refused}");
}

#[tokio::test]
async fn an_account_that_is_gone_from_the_store_is_not_made_anew_by_who_knew_it() {
    let tricky = Tricky::new();
    let acme = tricky.process(exact()).account("acme").unwrap();
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    tricky.store.show(|_| None);
    tricky.clock.advance(TTL);
    let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::NoPrimary { keks: 0, .. })), "{refused}");
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::NotFound { .. })), "{refused}");
    assert_eq!(tricky.root.calls(), 1, "no call for an account that is not new");
    tricky.store.show_the_truth();
    tricky.clock.advance(Duration::from_secs(1));
    assert_eq!(acme.open(&sealed, &row(1)).await.unwrap(), b"x");
}

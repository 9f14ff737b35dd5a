//! What is invalidated stays away, also when a load for it is under way; and what is closed stays closed.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::time::Duration;

use common::{
    TTL, exact, row,
    tricky::{Hold, Tricky, settle},
};
use keystrata_hierarchy::{Account, Hierarchy, KeyError, KeyPath, OpenError, RootKeyError, SealError};
use tokio::task::JoinHandle;

fn open(account: &Account, envelope: &[u8]) -> JoinHandle<Result<Vec<u8>, OpenError>> {
    let (account, envelope) = (account.clone(), envelope.to_vec());
    tokio::spawn(async move { account.open(&envelope, &row(1)).await })
}

fn seal(account: &Account) -> JoinHandle<Result<Vec<u8>, SealError>> {
    let account = account.clone();
    tokio::spawn(async move { account.seal(b"x", &row(1)).await })
}

fn kek_of(envelope: &[u8]) -> [u8; 16] {
    envelope[4..20].try_into().unwrap()
}

fn is_empty(keys: &Hierarchy) -> bool {
    (keys.cached_keks(), keys.memory().slots_used) == (0, 0)
}

/// Both ways to invalidate an account.
const WAYS: [fn(&Hierarchy) -> usize; 2] = [|keys| keys.invalidate("acme").unwrap(), Hierarchy::invalidate_all];

#[tokio::test]
async fn an_invalidation_overwrites_at_once_and_the_next_use_asks_anew() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    for (name, way) in [("acme", WAYS[0]), ("acme", WAYS[1])] {
        let acme = keys.account(name).unwrap();
        let sealed = acme.seal(b"x", &row(1)).await.unwrap();
        let calls = tricky.root.calls();
        assert_eq!(way(&keys), 1);
        assert!(is_empty(&keys));
        assert!(acme.try_seal(b"x", &row(1)).unwrap().is_none() && acme.try_open(&sealed, &row(1)).unwrap().is_none());
        acme.open(&sealed, &row(1)).await.unwrap();
        assert_eq!(tricky.root.calls(), calls + 1);
    }
    assert_eq!((keys.stats().invalidations, keys.stats().wiped), (2, 2));
    let other = keys.account("other").unwrap();
    other.seal(b"x", &row(1)).await.unwrap();
    keys.invalidate("acme").unwrap();
    assert!(other.try_seal(b"x", &row(1)).unwrap().is_some(), "another account is left alone");
    assert!(keys.invalidate("").is_err());
}

#[tokio::test]
async fn a_load_under_way_puts_nothing_back() {
    for invalidate in WAYS {
        let tricky = Tricky::new();
        let sealed = tricky.sealed_for("acme").await;
        let keys = tricky.process(exact());
        tricky.root.hold(Hold::Everything);
        let opening = open(&keys.account("acme").unwrap(), &sealed);
        settle().await;
        assert_eq!(tricky.root.calls(), 2, "it is under way");
        opening.abort();
        invalidate(&keys);
        tricky.root.hold(Hold::Nothing);
        settle().await;
        assert!(is_empty(&keys));
    }
}

#[tokio::test]
async fn whoever_waited_gets_a_key_asked_for_after_the_invalidation_and_later_callers_do_not_join_the_old_load() {
    for invalidate in WAYS {
        let tricky = Tricky::new();
        let sealed = tricky.sealed_for("acme").await;
        let keys = tricky.process(exact());
        let acme = keys.account("acme").unwrap();
        tricky.root.hold(Hold::Everything);
        let waiting = (open(&acme, &sealed), seal(&acme));
        settle().await;
        assert_eq!(tricky.root.calls(), 2);
        invalidate(&keys);
        let later = (open(&acme, &sealed), seal(&acme));
        settle().await;
        assert_eq!(tricky.root.calls(), 3, "a call of their own, and one for both");
        tricky.root.hold(Hold::Nothing);
        for opened in [waiting.0, later.0] {
            assert_eq!(opened.await.unwrap().unwrap(), b"x");
        }
        for sealed_now in [waiting.1, later.1] {
            assert_eq!(kek_of(&sealed_now.await.unwrap().unwrap()), kek_of(&sealed));
        }
        assert_eq!(tricky.root.calls(), 3, "those who waited joined the later call");
        assert_eq!((keys.cached_keks(), keys.memory().slots_used), (1, 1));
    }
}

#[tokio::test]
async fn a_creation_under_way_makes_a_kek_asked_for_after_the_invalidation() {
    for invalidate in WAYS {
        let tricky = Tricky::new();
        let keys = tricky.process(exact());
        tricky.root.hold(Hold::Everything);
        let sealing = seal(&keys.account("acme").unwrap());
        settle().await;
        assert_eq!(tricky.root.calls(), 1);
        invalidate(&keys);
        tricky.root.hold(Hold::Nothing);
        let sealed = sealing.await.unwrap().unwrap();
        assert_eq!((tricky.root.calls(), tricky.store.versions("acme").await), (2, 1));
        assert_eq!((keys.cached_keks(), keys.memory().slots_used), (1, 1));
        let elsewhere = tricky.process(exact()).account("acme").unwrap();
        assert_eq!(elsewhere.open(&sealed, &row(1)).await.unwrap(), b"x");
    }
}

#[tokio::test]
async fn a_renewal_of_a_kek_under_way_puts_nothing_back() {
    for invalidate in WAYS {
        let tricky = Tricky::new();
        let keys = tricky.process(exact().refresh_ahead(true));
        let acme = keys.account("acme").unwrap();
        let sealed = acme.seal(b"x", &row(1)).await.unwrap();
        tricky.clock.advance(TTL * 9 / 10);
        tricky.root.hold(Hold::Everything);
        acme.try_open(&sealed, &row(1)).unwrap().unwrap();
        settle().await;
        assert_eq!(tricky.root.calls(), 2);
        assert_eq!(invalidate(&keys), 1);
        tricky.root.hold(Hold::Nothing);
        settle().await;
        assert!(is_empty(&keys));
        assert!(acme.try_open(&sealed, &row(1)).unwrap().is_none());
    }
}

#[tokio::test]
async fn a_look_for_the_primary_under_way_brings_none_back() {
    for invalidate in WAYS {
        let tricky = Tricky::new();
        let keys = tricky.process(exact());
        let acme = keys.account("acme").unwrap();
        acme.seal(b"x", &row(1)).await.unwrap();
        tricky.clock.advance(Duration::from_secs(16));
        tricky.store.hold(true);
        let reads = tricky.store.reads();
        acme.try_seal(b"x", &row(1)).unwrap().unwrap();
        settle().await;
        assert_eq!(tricky.store.reads(), reads + 1);
        invalidate(&keys);
        tricky.store.hold(false);
        settle().await;
        assert!(is_empty(&keys));
        assert!(acme.try_seal(b"x", &row(1)).unwrap().is_none());
    }
}

#[tokio::test]
async fn a_rotation_under_way_stores_a_kek_asked_for_after_the_invalidation() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    let acme = keys.account("acme").unwrap();
    acme.seal(b"x", &row(1)).await.unwrap();
    tricky.root.hold(Hold::Everything);
    let rotating = tokio::spawn({
        let acme = acme.clone();
        async move { acme.rotate().await }
    });
    settle().await;
    keys.invalidate_all();
    tricky.root.hold(Hold::Nothing);
    assert_eq!(rotating.await.unwrap().unwrap().get(), 2);
    assert_eq!((tricky.root.calls(), tricky.store.versions("acme").await), (3, 2));
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (1, 1));
}

#[tokio::test]
async fn a_denial_reaches_the_loads_of_the_accounts_other_keks() {
    let tricky = Tricky::new();
    let old = tricky.sealed_for("acme").await;
    tricky.process(exact()).account("acme").unwrap().rotate().await.unwrap();
    let new = tricky.sealed_for("acme").await;
    let keys = tricky.process(exact());
    let (acme, other) = (keys.account("acme").unwrap(), keys.account("other").unwrap());
    other.seal(b"x", &row(1)).await.unwrap();
    tricky.root.hold(Hold::Kek(kek_of(&old)));
    let waiting = open(&acme, &old);
    settle().await;
    tricky.root.fail_next(RootKeyError::denied("revoked"));
    let denied = acme.open(&new, &row(1)).await.unwrap_err();
    assert!(matches!(denied, OpenError::Key(KeyError::Denied(_))), "{denied}");
    let calls = tricky.root.calls();
    tricky.root.hold(Hold::Nothing);
    let denied = waiting.await.unwrap().unwrap_err();
    assert!(matches!(denied, OpenError::Key(KeyError::Denied(_))), "{denied}");
    assert_eq!((tricky.root.calls(), keys.cached_keks(), keys.memory().slots_used), (calls, 1, 1));
    assert!(other.try_seal(b"x", &row(1)).unwrap().is_some(), "another account is left alone");
}

#[tokio::test]
async fn what_the_kms_answers_to_a_call_sent_before_an_invalidation_counts_for_nobody() {
    // A refusal too: an operator who grants the key again and then invalidates must not meet the old refusal.
    for failure in
        [RootKeyError::denied("not yet granted"), RootKeyError::unavailable("no route"), RootKeyError::Rejected]
    {
        let tricky = Tricky::new();
        tricky.sealed_for("acme").await;
        for account in ["acme", "new"] {
            let keys = tricky.process(exact());
            let account = keys.account(account).unwrap();
            tricky.root.hold(Hold::Everything);
            let waiting = seal(&account);
            settle().await;
            let calls = tricky.root.calls();
            keys.invalidate_all();
            tricky.root.fail_next(failure.clone());
            tricky.root.hold(Hold::Nothing);
            waiting.await.unwrap().unwrap();
            assert_eq!((tricky.root.calls(), keys.stats().remembered), (calls + 1, 0));
        }
    }
}

#[tokio::test]
async fn with_a_ttl_of_zero_a_key_asked_for_before_an_invalidation_is_not_used_after_it() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let keys = tricky.process(exact().kek_ttl(Duration::ZERO));
    let acme = keys.account("acme").unwrap();
    tricky.root.hold(Hold::Everything);
    let waiting = open(&acme, &sealed);
    settle().await;
    let calls = tricky.root.calls();
    keys.invalidate("acme").unwrap();
    tricky.root.hold(Hold::Nothing);
    assert_eq!(waiting.await.unwrap().unwrap(), b"x");
    assert_eq!(tricky.root.calls(), calls + 1);
}

#[tokio::test]
async fn a_storm_of_invalidations_is_an_error_and_no_hang() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    for ttl in [TTL, Duration::ZERO] {
        let keys = tricky.process(exact().kek_ttl(ttl));
        let storm = keys.clone();
        tricky.root.at_each_call(Some(Box::new(move || {
            storm.invalidate_all();
        })));
        let acme = keys.account("acme").unwrap();
        let calls = tricky.root.calls();
        let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
        assert!(matches!(&refused, OpenError::Key(error) if error.is_retryable()), "{refused}");
        let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(&refused, SealError::Key(error) if error.is_retryable()), "{refused}");
        assert!(tricky.root.calls() - calls <= 8, "{}", tricky.root.calls() - calls);
        assert!(is_empty(&keys));
        tricky.root.at_each_call(None);
        acme.open(&sealed, &row(1)).await.unwrap();
    }
}

async fn is_closed(keys: &Hierarchy, account: &Account, envelope: &[u8]) {
    let is_closed = |error: &KeyError| matches!(error, KeyError::Closed) && !error.is_retryable();
    assert!(account.try_seal(b"x", &row(1)).unwrap().is_none());
    assert!(account.try_open(envelope, &row(1)).unwrap().is_none());
    let refused = account.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(&refused, SealError::Key(error) if is_closed(error)), "{refused}");
    let refused = account.open(envelope, &row(1)).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Key(error) if is_closed(error)), "{refused}");
    let refused = account.sealer(Vec::new(), &row(1)).await.unwrap_err();
    assert!(matches!(&refused, SealError::Key(error) if is_closed(error)), "{refused}");
    let refused = account.opener(envelope, &row(1)).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Key(error) if is_closed(error)), "{refused}");
    assert!(is_closed(&account.rotate().await.unwrap_err()));
    assert!(is_closed(&keys.warm([KeyPath::account("acme").unwrap()]).await.unwrap_err()));
    let health = keys.health().await;
    assert!(health.is_closed && !health.is_ready());
    assert!(is_closed(&health.root_key.unwrap_err()));
}

#[tokio::test]
async fn a_closed_hierarchy_refuses_everything_to_every_handle() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let keys = tricky.process(exact().kek_ttl(ttl));
        let before = keys.account("acme").unwrap();
        let sealed = before.seal(b"x", &row(1)).await.unwrap();
        assert_eq!(tricky.clock.sleepers(), usize::from(!ttl.is_zero()));
        let calls = tricky.root.calls();
        keys.close();
        assert!(is_empty(&keys));
        while tricky.clock.sleepers() > 0 {
            tokio::task::yield_now().await;
        }
        is_closed(&keys, &before, &sealed).await;
        is_closed(&keys.clone(), &keys.account("acme").unwrap(), &sealed).await;
        keys.close();
        assert_eq!((tricky.root.calls(), tricky.clock.sleepers()), (calls, 0));
    }
}

#[tokio::test]
async fn loads_under_way_bring_nothing_to_a_closed_hierarchy() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let sealed = tricky.sealed_for("acme").await;
        let keys = tricky.process(exact().kek_ttl(ttl));
        let (acme, new) = (keys.account("acme").unwrap(), keys.account("new").unwrap());
        tricky.root.hold(Hold::Everything);
        let (opening, creating) = (open(&acme, &sealed), seal(&new));
        settle().await;
        assert_eq!(tricky.root.calls(), 3);
        keys.close();
        tricky.root.hold(Hold::Nothing);
        let refused = opening.await.unwrap().unwrap_err();
        assert!(matches!(refused, OpenError::Key(KeyError::Closed)), "{refused}");
        let refused = creating.await.unwrap().unwrap_err();
        assert!(matches!(refused, SealError::Key(KeyError::Closed)), "{refused}");
        assert!(is_empty(&keys));
        while tricky.clock.sleepers() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

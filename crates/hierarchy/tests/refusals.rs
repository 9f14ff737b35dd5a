//! What is refused is remembered for a while: by account, by record, for as long as it says, and never for another.
#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction)] // test code outside a #[test], constants

mod common;

use std::time::Duration;

use common::{
    TTL, exact, row,
    tricky::{Tricky, settle},
};
use keystrata_hierarchy::{Account, Hierarchy, KekRecord, KeyError, OpenError, RootKeyError, SealError};
use keystrata_primitives::KekCheck;

const NANOSECOND: Duration = Duration::from_nanos(1);
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

async fn is_denied(account: &Account, envelope: &[u8]) {
    let refused = account.open(envelope, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Denied(_))), "{refused}");
    let refused = account.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::Denied(_))), "{refused}");
    let refused = account.rotate().await.unwrap_err();
    assert!(matches!(refused, KeyError::Denied(_)), "{refused}");
}

#[tokio::test]
async fn a_denial_is_remembered_for_thirty_seconds_whatever_the_ttl() {
    for is_kept in [true, false] {
        for ttl in [TTL, Duration::ZERO] {
            let tricky = Tricky::new();
            let sealed = tricky.sealed_for("acme").await;
            let keys = tricky.process(exact().kek_ttl(ttl));
            let kept = is_kept.then(|| keys.account("acme").unwrap());
            // Else one for every request.
            let handle = || kept.clone().unwrap_or_else(|| keys.account("acme").unwrap());
            tricky.root.fail_next(RootKeyError::denied("revoked"));
            is_denied(&handle(), &sealed).await;
            let (calls, generates) = (tricky.root.calls(), tricky.root.generates());
            assert_eq!((calls, generates), (2, 1), "one by the process that made it, one that was denied");
            tricky.clock.advance(HALF_A_MINUTE - NANOSECOND);
            is_denied(&handle(), &sealed).await;
            assert_eq!(tricky.root.calls(), calls);
            assert!(keys.stats().remembered >= 5);
            tricky.clock.advance(NANOSECOND);
            handle().open(&sealed, &row(1)).await.unwrap();
            handle().seal(b"x", &row(1)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_new_account_that_is_denied_makes_one_call_and_no_kek() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let keys = tricky.process(exact().kek_ttl(ttl));
        tricky.root.fail(Some(RootKeyError::denied("revoked")));
        for _ in 0..10 {
            let refused = keys.account("acme").unwrap().seal(b"x", &row(1)).await.unwrap_err();
            assert!(matches!(refused, SealError::Key(KeyError::Denied(_))), "{refused}");
        }
        assert_eq!((tricky.root.calls(), tricky.store.versions("acme").await), (1, 0), "{ttl:?}");
    }
}

#[tokio::test]
async fn a_denial_is_of_one_account() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact());
    let (acme, inner, other) =
        (keys.account("acme").unwrap(), keys.account(["acme", "billing"]).unwrap(), keys.account("other").unwrap());
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    let of_inner = inner.seal(b"x", &row(1)).await.unwrap();
    let of_other = other.seal(b"x", &row(1)).await.unwrap();
    acme.rotate().await.unwrap();
    let newer = acme.seal(b"x", &row(1)).await.unwrap();
    assert_eq!(keys.cached_keks(), 4);
    tricky.clock.advance(TTL / 2);
    tricky.root.fail_next(RootKeyError::denied("revoked"));
    let denied = acme.rotate().await.unwrap_err();
    assert!(matches!(denied, KeyError::Denied(_)), "{denied}");
    assert_eq!((keys.cached_keks(), keys.memory().slots_used), (2, 2), "both versions of the account are overwritten");
    is_denied(&acme, &sealed).await;
    is_denied(&acme, &newer).await;
    inner.try_open(&of_inner, &row(1)).unwrap().unwrap();
    other.try_open(&of_other, &row(1)).unwrap().unwrap();
}

/// The record with another check, which no secret fits.
fn broken(record: KekRecord, salt: u8) -> KekRecord {
    let mut check = *record.check.as_bytes();
    check[31] ^= salt;
    KekRecord { check: KekCheck::from_bytes(check), ..record }
}

#[tokio::test]
async fn a_corrupt_record_is_remembered_by_its_bytes_for_thirty_seconds_and_a_repaired_one_is_tried_at_once() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let of_other = tricky.sealed_for("other").await;
    let keys = tricky.process(exact());
    let is_corrupt = async || {
        let acme = keys.account("acme").unwrap();
        let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
        assert!(matches!(refused, OpenError::Key(KeyError::Corrupt { .. })), "{refused}");
        let refused = acme.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(refused, SealError::Key(KeyError::Corrupt { .. })), "{refused}");
    };
    tricky.store.show(|record| {
        Some(if record.identity.path.as_bytes().ends_with(b"acme") { broken(record, 1) } else { record })
    });
    let calls = tricky.root.calls();
    is_corrupt().await;
    assert_eq!(tricky.root.calls(), calls + 1);
    tricky.clock.advance(HALF_A_MINUTE - NANOSECOND);
    is_corrupt().await;
    assert_eq!(tricky.root.calls(), calls + 1);
    keys.account("other").unwrap().open(&of_other, &row(1)).await.unwrap();
    assert_eq!(tricky.root.calls(), calls + 2, "another account is not affected");
    tricky.clock.advance(NANOSECOND);
    is_corrupt().await;
    assert_eq!(tricky.root.calls(), calls + 3, "tried again after half a minute");
    tricky.store.show(|record| Some(broken(record, 2)));
    is_corrupt().await;
    assert_eq!(tricky.root.calls(), calls + 4, "other bytes are another record");
    tricky.store.show_the_truth();
    keys.account("acme").unwrap().open(&sealed, &row(1)).await.unwrap();
    assert_eq!(tricky.root.calls(), calls + 5);
}

#[tokio::test]
async fn a_kek_that_is_not_there_is_not_looked_for_again_for_a_second() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let sealed = tricky.sealed_for("acme").await;
        let of_other = tricky.sealed_for("other").await;
        let keys = tricky.process(exact().kek_ttl(ttl));
        let is_not_found = async || {
            let refused = keys.account("acme").unwrap().open(&sealed, &row(1)).await.unwrap_err();
            assert!(matches!(refused, OpenError::Key(KeyError::NotFound { .. })), "{refused}");
            tricky.store.reads()
        };
        tricky.store.show(|record| (!record.identity.path.as_bytes().ends_with(b"acme")).then_some(record));
        let reads = is_not_found().await;
        tricky.clock.advance(Duration::from_secs(1) - NANOSECOND);
        assert_eq!(is_not_found().await, reads);
        keys.account("other").unwrap().open(&of_other, &row(1)).await.unwrap();
        // The same id under another path is another question.
        let refused = keys.account("other").unwrap().open(&sealed, &row(1)).await.unwrap_err();
        assert!(matches!(refused, OpenError::Key(KeyError::NotFound { .. })), "{refused}");
        let reads = tricky.store.reads();
        tricky.clock.advance(NANOSECOND);
        assert_eq!(is_not_found().await, reads + 1);
        tricky.store.show_the_truth();
        tricky.clock.advance(Duration::from_secs(1));
        keys.account("acme").unwrap().open(&sealed, &row(1)).await.unwrap();
    }
}

#[tokio::test]
async fn an_invalidation_forgets_what_was_refused() {
    let ways: [fn(&Hierarchy); 2] = [
        |keys| {
            keys.invalidate("acme").unwrap();
        },
        |keys| {
            keys.invalidate_all();
        },
    ];
    for forget in ways {
        let tricky = Tricky::new();
        let sealed = tricky.sealed_for("acme").await;
        let keys = tricky.process(exact());
        let open = async || keys.account("acme").unwrap().open(&sealed, &row(1)).await;
        for failure in [RootKeyError::denied("revoked"), RootKeyError::Rejected] {
            tricky.root.fail_next(failure);
            open().await.unwrap_err();
            open().await.unwrap_err();
            forget(&keys);
            open().await.unwrap();
            forget(&keys);
        }
        tricky.store.show(|_| None);
        open().await.unwrap_err();
        tricky.store.show_the_truth();
        open().await.unwrap_err();
        forget(&keys);
        open().await.unwrap();
    }
}

/// An envelope that names a KEK which nobody has.
fn naming(n: u32, envelope: &[u8]) -> Vec<u8> {
    let mut envelope = envelope.to_vec();
    envelope[4..8].copy_from_slice(&n.to_be_bytes());
    envelope
}

#[tokio::test]
async fn refusals_are_bounded_and_the_oldest_are_forgotten_first() {
    let tricky = Tricky::new();
    let sealed = tricky.sealed_for("acme").await;
    let acme = tricky.process(exact()).account("acme").unwrap();
    let reads_for = async |n| {
        let before = tricky.store.reads();
        acme.open(&naming(n, &sealed), &row(1)).await.unwrap_err();
        tricky.store.reads() - before
    };
    for n in 0..20_000 {
        assert_eq!(reads_for(n).await, 1);
    }
    assert_eq!(reads_for(19_999).await, 0, "the newest is remembered");
    assert_eq!(reads_for(0).await, 1, "the oldest is forgotten");
    // What has long been forgotten takes no place from what is refused now.
    tricky.clock.advance(Duration::from_secs(3_600));
    for n in 30_000..30_100 {
        assert_eq!((reads_for(n).await, reads_for(n).await), (1, 0));
    }
}

#[tokio::test]
async fn lost_credentials_deny_nothing_and_are_not_remembered() {
    let tricky = Tricky::new();
    let keys = tricky.process(exact().refresh_ahead(true));
    let (acme, other) = (keys.account("acme").unwrap(), keys.account("other").unwrap());
    let sealed = acme.seal(b"x", &row(1)).await.unwrap();
    tricky.clock.advance(TTL * 9 / 10);
    tricky.root.fail(Some(RootKeyError::unavailable("the credentials have expired")));
    acme.try_open(&sealed, &row(1)).unwrap().unwrap();
    settle().await;
    assert_eq!((tricky.root.calls(), keys.memory().slots_used), (2, 1), "nothing is overwritten");
    for n in 1..=3 {
        let refused = other.seal(b"x", &row(1)).await.unwrap_err();
        assert!(matches!(&refused, SealError::Key(error @ KeyError::RootUnavailable(_)) if error.is_retryable()));
        assert_eq!(tricky.root.calls(), 2 + n, "asked each time");
    }
    assert_eq!((keys.stats().denials, keys.stats().remembered), (0, 0));
}

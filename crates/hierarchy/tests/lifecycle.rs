//! Sealing and opening through accounts, and what is refused.

mod common;

use std::sync::Arc;

use common::{Fixture, row};
use keystrata_hierarchy::{
    BuildError, Context, ContextError, EnvelopeError, Hierarchy, KekStore, KeyError, KeyPath, MemoryKekStore,
    OnUnprotected, OpenError, PathError, Policy, RootKeyError, SealError, Suite, test_util::ScriptedRootKey,
};

#[tokio::test]
async fn one_call_serves_an_account_for_sealing_and_opening() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let acme = keys.account("acme").unwrap();
    for n in 0..100 {
        let sealed = acme.seal(&[7; 100], &row(n)).await.unwrap();
        // A handle made anew knows what the others know.
        assert_eq!(keys.account("acme").unwrap().open(&sealed, &row(n)).await.unwrap(), [7; 100]);
    }
    assert_eq!(fixture.root.calls(), 1);
    assert_eq!(keys.cached_keks(), 1);
}

/// A service keeps one for each request under way, and every hit makes one: it has no room for a load, which is kilobytes.
#[test]
fn the_future_of_a_seal_or_an_open_is_small() {
    let keys = Fixture::new().process();
    let (acme, context) = (keys.account("acme").unwrap(), Context::none());
    let sizes = [size_of_val(&acme.seal(b"x", &context)), size_of_val(&acme.open(b"x", &context))];
    assert!(sizes.iter().all(|size| *size <= 256), "{sizes:?} bytes");
}

#[tokio::test]
async fn another_process_opens_with_one_call_and_seals_under_the_same_kek() {
    let fixture = Fixture::new();
    let sealed = fixture.process().account("acme").unwrap().seal(b"", &Context::none()).await.unwrap();
    let acme = fixture.process().account("acme").unwrap();
    assert_eq!(acme.open(&sealed, &Context::none()).await.unwrap(), b"");
    let again = acme.seal(b"x", &Context::none()).await.unwrap();
    assert_eq!(again[4..20], sealed[4..20], "the KEK id");
    assert_eq!(fixture.root.calls(), 2);
}

#[tokio::test]
async fn accounts_keep_the_suite_that_their_kek_was_made_with() {
    let fixture = Fixture::new();
    let aes = fixture.builder().suite(Suite::Aes256Gcm).build().unwrap();
    let old = fixture.process().account("old").unwrap().seal(b"x", &row(1)).await.unwrap();
    let new = aes.account("new").unwrap().seal(b"x", &row(1)).await.unwrap();
    let old_again = aes.account("old").unwrap().seal(b"x", &row(1)).await.unwrap();
    assert_eq!([old[3], new[3], old_again[3]], [1, 2, 1]);
    for (account, sealed) in [("old", &old), ("new", &new), ("old", &old_again)] {
        for keys in [&aes, &fixture.process()] {
            assert_eq!(keys.account(account).unwrap().open(sealed, &row(1)).await.unwrap(), b"x");
        }
    }
    // The suite byte of one on the other.
    let mut altered = old;
    altered[3] = 2;
    let refused = aes.account("old").unwrap().open(&altered, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::SuiteMismatch { .. }), "{refused}");
}

#[tokio::test]
async fn an_envelope_opens_in_its_own_place_only() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    let acme = keys.account("acme").unwrap();
    let sealed = acme.seal(b"secret", &row(1)).await.unwrap();
    assert!(matches!(acme.open(&sealed, &row(2)).await, Err(OpenError::Rejected)));
    assert!(matches!(acme.open(&sealed, &Context::none()).await, Err(OpenError::Rejected)));
    assert!(matches!(acme.open(&sealed, &row(1).with("more", "")).await, Err(OpenError::Rejected)));

    let other = keys.account("umbrella").unwrap();
    other.seal(b"", &Context::none()).await.unwrap();
    for stranger in [other, keys.account(["acme", "acme"]).unwrap(), keys.account("nobody").unwrap()] {
        let refused = stranger.open(&sealed, &row(1)).await.unwrap_err();
        assert!(matches!(refused, OpenError::Key(KeyError::NotFound { .. })), "{refused}");
    }
    assert!(fixture.store.records(&KeyPath::account("nobody").unwrap()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_record_copied_to_another_account_is_refused() {
    let fixture = Fixture::new();
    let sealed = fixture.process().account("acme").unwrap().seal(b"secret", &row(1)).await.unwrap();
    let mut record = fixture.store.primary(&KeyPath::account("acme").unwrap()).await.unwrap().unwrap();
    record.identity.path = KeyPath::account("thief").unwrap();
    fixture.store.create(&record).await.unwrap();
    let thief = fixture.process().account("thief").unwrap();
    let refused = thief.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Corrupt { .. })), "{refused}");
    let refused = thief.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(refused, SealError::Key(KeyError::Corrupt { .. })), "{refused}");
}

#[tokio::test]
async fn a_changed_check_is_refused() {
    let fixture = Fixture::new();
    let sealed = fixture.process().account("acme").unwrap().seal(b"secret", &row(1)).await.unwrap();
    let record = fixture.store.primary(&KeyPath::account("acme").unwrap()).await.unwrap().unwrap();
    let mut check = *record.check.as_bytes();
    check[31] ^= 1;
    let altered =
        keystrata_primitives::KekRecord { check: keystrata_primitives::KekCheck::from_bytes(check), ..record };
    let store = MemoryKekStore::new();
    store.create(&altered).await.unwrap();
    let keys = Hierarchy::builder().root_key(Arc::clone(&fixture.root)).store(store).build().unwrap();
    let refused = keys.account("acme").unwrap().open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Corrupt { .. })), "{refused}");
}

#[tokio::test]
async fn a_record_of_another_root_key_is_refused_without_a_call() {
    let fixture = Fixture::new();
    let sealed = fixture.process().account("acme").unwrap().seal(b"secret", &row(1)).await.unwrap();
    let other = Arc::new(ScriptedRootKey::new("test:other"));
    let keys = Hierarchy::builder().root_key(Arc::clone(&other)).store(Arc::clone(&fixture.store)).build().unwrap();
    let acme = keys.account("acme").unwrap();
    let refused = acme.open(&sealed, &row(1)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::WrongRoot { .. })));
    let text = refused.to_string();
    assert!(text.contains("test:root") && text.contains("test:other"), "{text}");
    assert!(matches!(acme.seal(b"x", &row(1)).await, Err(SealError::Key(KeyError::WrongRoot { .. }))));
    assert_eq!(other.calls(), 0);
}

#[tokio::test]
async fn every_cut_of_an_envelope_is_a_typed_refusal_that_looks_nothing_up() {
    let fixture = Fixture::new();
    let sealed = fixture.process().account("acme").unwrap().seal(b"secret", &row(1)).await.unwrap();
    let calls = fixture.root.calls();
    let acme = fixture.process().account("acme").unwrap();
    for len in 0..sealed.len() {
        let refused = acme.open(&sealed[..len], &row(1)).await.unwrap_err();
        let is_cut_short =
            matches!(refused, OpenError::Envelope(EnvelopeError::Empty | EnvelopeError::Truncated { .. }));
        // Cut inside its data an envelope is one of a shorter plaintext, as far as its length can tell.
        assert!(is_cut_short || len >= 140 && matches!(refused, OpenError::Rejected), "{len}: {refused}");
        assert_eq!(fixture.root.calls(), calls + u64::from(len >= 140), "{len}");
    }
    let empty = acme.open(b"", &row(1)).await.unwrap_err();
    assert!(matches!(empty, OpenError::Envelope(EnvelopeError::Empty)));
    let stranger = acme.open(b"PK\x03\x04 a zip file, not an envelope", &row(1)).await.unwrap_err();
    assert!(matches!(stranger, OpenError::Envelope(EnvelopeError::NotAnEnvelope)));
}

#[tokio::test]
async fn every_flipped_bit_of_an_envelope_is_a_typed_refusal() {
    let fixture = Fixture::new();
    let acme = fixture.process().account("acme").unwrap();
    let sealed = acme.seal(b"secret", &row(1)).await.unwrap();
    for bit in 0..8 * sealed.len() {
        let mut altered = sealed.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let refused = acme.open(&altered, &row(1)).await.unwrap_err();
        let is_right = match bit / 8 {
            0..2 => matches!(refused, OpenError::Envelope(EnvelopeError::NotAnEnvelope)),
            2 => matches!(refused, OpenError::Envelope(EnvelopeError::UnknownVersion(_))),
            3 => {
                matches!(refused, OpenError::Envelope(EnvelopeError::UnknownSuite(_)) | OpenError::SuiteMismatch { .. })
            }
            4..20 => matches!(refused, OpenError::Key(KeyError::NotFound { .. })),
            _ => matches!(refused, OpenError::Rejected),
        };
        assert!(is_right, "bit {bit}: {refused}");
    }
    assert_eq!(fixture.root.calls(), 1);
}

#[tokio::test]
async fn bad_names_and_contexts_are_refused_before_anything_is_made() {
    let fixture = Fixture::new();
    let keys = fixture.process();
    assert_eq!(keys.account("").unwrap_err(), PathError::EmptySegment { index: 1 });
    assert_eq!(keys.account("x".repeat(129)).unwrap_err(), PathError::SegmentTooLong { index: 1, len: 129 });
    let twice = Context::new().with("row", "1").with("row", "2");
    let refused = keys.account("acme").unwrap().seal(b"x", &twice).await.unwrap_err();
    assert!(matches!(refused, SealError::Context(ContextError::DuplicateName { .. })));
    assert_eq!(fixture.root.calls(), 0);
    assert!(fixture.store.primaries(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_kms_reaches_the_caller_by_its_class() {
    let fixture = Fixture::new();
    let acme = fixture.process().account("acme").unwrap();
    fixture.root.fail_next(RootKeyError::denied("revoked"));
    fixture.root.fail_next(RootKeyError::throttled("slow down"));
    fixture.root.fail_next(RootKeyError::unavailable("no route"));
    let denied = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(&denied, SealError::Key(error @ KeyError::Denied(_)) if !error.is_retryable()), "{denied}");
    fixture.clock.advance(std::time::Duration::from_secs(30)); // a denial is remembered
    let throttled = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(&throttled, SealError::Key(error @ KeyError::Throttled(_)) if error.is_retryable()));
    let unavailable = acme.seal(b"x", &row(1)).await.unwrap_err();
    assert!(matches!(&unavailable, SealError::Key(error @ KeyError::RootUnavailable(_)) if error.is_retryable()));
    assert!(fixture.store.primaries(None, 10).await.unwrap().is_empty(), "nothing was made meanwhile");
    acme.seal(b"x", &row(1)).await.unwrap();
}

#[test]
fn a_hierarchy_is_not_built_from_settings_that_make_no_sense() {
    let fixture = Fixture::new();
    let only_store = Hierarchy::builder().store(MemoryKekStore::new());
    assert_eq!(only_store.build().unwrap_err(), BuildError::NoRootKey);
    let only_root = Hierarchy::builder().root_key(Arc::clone(&fixture.root));
    assert_eq!(only_root.build().unwrap_err(), BuildError::NoStore);
    let day = Policy::MAX_KEK_TTL;
    assert!(fixture.builder().kek_ttl(day).build().is_ok());
    let over = fixture.builder().kek_ttl(day + std::time::Duration::from_nanos(1)).build();
    assert!(matches!(over.unwrap_err(), BuildError::TtlTooLong { .. }));
    assert_eq!(fixture.builder().capacity(0).build().unwrap_err(), BuildError::NoCapacity);
}

#[test]
fn without_a_runtime_the_refusal_says_so() {
    let fixture = Fixture::new();
    let acme = fixture.process().account("acme").unwrap();
    let context = Context::none();
    let mut future = std::pin::pin!(acme.seal(b"x", &context));
    let polled = future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let std::task::Poll::Ready(Err(refused)) = polled else { panic!("neither done nor refused") };
    assert!(matches!(&refused, SealError::Key(error @ KeyError::NoRuntime) if !error.is_retryable()), "{refused}");
}

#[cfg(unix)]
#[test]
fn where_no_memory_may_hold_a_key_no_call_is_paid_for_one() {
    use keystrata_memory::test_util::{forbid_locking, in_forked_child};
    assert!(in_forked_child(|| {
        assert!(forbid_locking());
        let fixture = Fixture::new();
        let keys = fixture.builder().on_unprotected_memory(OnUnprotected::Refuse).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let refused = runtime.block_on(keys.account("acme").unwrap().seal(b"x", &row(1))).unwrap_err();
        matches!(refused, SealError::Key(KeyError::Memory(_))) && fixture.root.calls() == 0
    }));
}

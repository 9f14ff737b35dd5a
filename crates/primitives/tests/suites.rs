//! Both suites through the public API: what holds for one holds for the other, and neither opens the other's bytes.

use keystrata_primitives::{
    Context, KekId, KekIdentity, KekRecord, KekState, KekVersion, KeyPath, RootKeyId, SecretKey, Suite, WrappedSecret,
    Wrapper,
    envelope::{self, CHUNK_LEN, OpenError},
};

fn identity(suite: Suite) -> KekIdentity {
    let path = KeyPath::account("acme").expect("a valid name");
    KekIdentity { suite, version: KekVersion::FIRST, id: KekId::from_bytes([7; 16]), path }
}

fn secret() -> SecretKey {
    SecretKey::from_slice(&[5; 32]).expect("32 bytes")
}

#[test]
fn envelopes_open_at_every_length_around_a_chunk_in_both_suites() {
    let context = Context::new().with("row", "42");
    for suite in Suite::ALL {
        let identity = identity(suite);
        let derived = identity.derive(&secret());
        for len in [0, 1, 64, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN, 3 * CHUNK_LEN + 5] {
            let plaintext: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
            let sealed = envelope::seal(&derived.kek(&identity), &context, &plaintext).unwrap();
            assert_eq!(sealed.len(), envelope::sealed_len(len).unwrap());
            assert_eq!(sealed[3], suite.to_byte());
            assert_eq!(envelope::open(&derived.kek(&identity), &context, &sealed), Ok(plaintext), "{suite}, {len}");
            let other = envelope::open(&derived.kek(&identity), &Context::none(), &sealed);
            assert_eq!(other, Err(OpenError::Rejected));
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_in_both_suites() {
    for suite in Suite::ALL {
        let identity = identity(suite);
        let derived = identity.derive(&secret());
        let sealed = envelope::seal(&derived.kek(&identity), &Context::none(), b"4111 1111").unwrap();
        for bit in 0..8 * sealed.len() {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(envelope::open(&derived.kek(&identity), &Context::none(), &flipped).is_err(), "{suite}, bit {bit}");
        }
    }
}

#[test]
fn an_envelope_of_one_suite_is_refused_under_a_kek_of_the_other() {
    for (ours, theirs) in [(Suite::ALL[0], Suite::ALL[1]), (Suite::ALL[1], Suite::ALL[0])] {
        let (our_identity, their_identity) = (identity(ours), identity(theirs));
        let (our_kek, their_kek) = (our_identity.derive(&secret()), their_identity.derive(&secret()));
        let mut sealed = envelope::seal(&our_kek.kek(&our_identity), &Context::none(), b"data").unwrap();
        assert_eq!(
            envelope::open(&their_kek.kek(&their_identity), &Context::none(), &sealed),
            Err(OpenError::SuiteMismatch { envelope: ours, kek: theirs })
        );
        // With the suite's byte changed to match, the cipher refuses.
        sealed[3] = theirs.to_byte();
        assert_eq!(
            envelope::open(&their_kek.kek(&their_identity), &Context::none(), &sealed),
            Err(OpenError::Rejected)
        );
    }
}

#[test]
fn records_keep_their_suite_and_a_changed_one_changes_the_check() {
    for suite in Suite::ALL {
        let identity = identity(suite);
        let wrapper = Wrapper::Root(RootKeyId::new("local:test").unwrap());
        let record = KekRecord {
            state: KekState::Primary,
            check: identity.derive(&secret()).check,
            identity,
            created_at: 1,
            retired_at: 0,
            wraps: vec![WrappedSecret { wrapper, ciphertext: vec![1; 72] }],
        };
        let mut bytes = record.encode().unwrap();
        let parsed = KekRecord::parse(&bytes).unwrap();
        assert_eq!(parsed.identity.suite, suite);
        assert_eq!(parsed.identity.derive(&secret()).check, parsed.check);
        bytes[3] = 3 - suite.to_byte();
        let changed = KekRecord::parse(&bytes).unwrap();
        assert_ne!(changed.identity.derive(&secret()).check, changed.check);
    }
}

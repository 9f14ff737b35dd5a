//! Rewrap: a header for another KEK, and every reason not to make one.

mod common;

use common::{Account, Broken, CHUNK, Counting, HEADER, context, plaintext};
use keystrata_primitives::{
    KekIdentity, KeyPath, Suite,
    envelope::{self, EnvelopeError, RewrapError},
    hazmat,
};
use proptest::{prelude::*, sample::Index};

fn header(envelope: &[u8]) -> &[u8; HEADER] {
    envelope.first_chunk().expect("an envelope begins with its header")
}

#[test]
fn the_object_opens_under_the_new_kek_with_the_same_chunks() {
    for suite in Suite::ALL {
        let (old, new) = (Account::new(suite, 1), Account::new(suite, 2));
        let mut sealed = old.seal(&plaintext(CHUNK + 5));
        let rewrapped = envelope::rewrap(&old.kek(), &new.kek(), header(&sealed)).unwrap();
        assert_eq!(rewrapped[..4], sealed[..4], "magic, version and suite");
        assert_eq!(rewrapped[4..20], [2; 16]);
        assert_ne!(rewrapped[20..44], sealed[20..44], "a new nonce");
        assert_eq!(rewrapped[92..], sealed[92..HEADER], "the commitment");
        sealed[..HEADER].copy_from_slice(&rewrapped);
        assert!(envelope::open(&new.kek(), &context(), &sealed).unwrap() == plaintext(CHUNK + 5));
        assert!(envelope::open(&old.kek(), &context(), &sealed).is_err());

        let back = envelope::rewrap(&new.kek(), &old.kek(), &rewrapped).unwrap();
        let again = envelope::rewrap(&old.kek(), &old.kek(), &back).unwrap();
        assert_ne!(again, back, "under the same KEK it has another nonce");
        sealed[..HEADER].copy_from_slice(&again);
        assert!(envelope::open(&old.kek(), &context(), &sealed).is_ok());
    }
}

#[test]
fn the_bytes_are_those_of_the_nonce() {
    let (old, new) = (Account::any(), Account::new(Suite::default(), 2));
    let sealed = old.seal(b"plaintext");
    let once = hazmat::rewrap_with_rng(&mut Counting(3), &old.kek(), &new.kek(), header(&sealed)).unwrap();
    let twice = hazmat::rewrap_with_rng(&mut Counting(3), &old.kek(), &new.kek(), header(&sealed)).unwrap();
    assert_eq!(once, twice);
    let mut nonce = [0; 24];
    rand::TryRng::try_fill_bytes(&mut Counting(3), &mut nonce).unwrap();
    assert_eq!(once[20..44], nonce);
}

#[test]
fn every_refusal_has_its_reason() {
    let (old, new) = (Account::any(), Account::new(Suite::default(), 2));
    let sealed = old.seal(b"plaintext");
    let header = header(&sealed);

    let path = KeyPath::new(["acme", "billing"]).unwrap();
    let elsewhere = Account { key: [2; 32], identity: KekIdentity { path, ..new.identity.clone() } };
    let refused = envelope::rewrap(&old.kek(), &elsewhere.kek(), header).unwrap_err();
    assert!(matches!(&refused, RewrapError::OtherAccount { old, new } if *old != *new));
    assert!(refused.to_string().contains("acme/billing"), "{refused}");

    let gcm = Account::new(Suite::Aes256Gcm, 2);
    let refused = envelope::rewrap(&old.kek(), &gcm.kek(), header);
    assert!(matches!(refused, Err(RewrapError::NewSuite { new: Suite::Aes256Gcm, .. })));
    let refused = envelope::rewrap(&gcm.kek(), &gcm.kek(), header);
    assert!(matches!(refused, Err(RewrapError::SuiteMismatch { kek: Suite::Aes256Gcm, .. })));

    let wrong_key = Account { key: [9; 32], ..Account::any() };
    for wrong in [&wrong_key, &new] {
        assert!(matches!(envelope::rewrap(&wrong.kek(), &new.kek(), header), Err(RewrapError::Rejected)));
    }
    let refused = hazmat::rewrap_with_rng(&mut Broken, &old.kek(), &new.kek(), header);
    assert!(matches!(refused, Err(RewrapError::Randomness(_))));
    let refused = envelope::rewrap(&old.kek(), &new.kek(), &[0; HEADER]);
    assert!(matches!(refused, Err(RewrapError::Envelope(EnvelopeError::NotAnEnvelope))));
}

proptest! {
    #[test]
    fn a_header_with_any_key_bit_flipped_is_refused(bit: Index, suite in prop::sample::select(&Suite::ALL)) {
        let account = Account::new(suite, 1);
        let mut header = *header(&account.seal(b"plaintext"));
        let bit = bit.index(8 * 92);
        header[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(envelope::rewrap(&account.kek(), &account.kek(), &header).is_err());
    }
}

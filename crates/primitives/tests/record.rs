//! KEK records through the public API: one encoding each, and no bytes that make the parser panic.

use keystrata_primitives::{
    KekCheck, KekId, KekIdentity, KekRecord, KekState, KekVersion, KeyPath, RecordError, RootKeyId, Suite,
    WrappedSecret, Wrapper,
};
use proptest::{collection::vec, prelude::*, sample::Index};

fn record() -> KekRecord {
    let id = RootKeyId::new("local:test").expect("a valid id");
    KekRecord {
        identity: KekIdentity {
            suite: Suite::XChaCha20Poly1305,
            version: KekVersion::FIRST,
            id: KekId::from_bytes([1; 16]),
            path: KeyPath::account("acme").expect("a valid path"),
        },
        state: KekState::Primary,
        check: KekCheck::from_bytes([2; 32]),
        created_at: 1_700_000_000,
        retired_at: 0,
        wraps: vec![WrappedSecret { wrapper: Wrapper::Root(id), ciphertext: vec![3; 72] }],
    }
}

fn wrapped_by_parent() -> WrappedSecret {
    let path = KeyPath::account("group").expect("a valid path");
    WrappedSecret { wrapper: Wrapper::Parent { path, kek_id: KekId::from_bytes([4; 16]) }, ciphertext: vec![5; 72] }
}

#[test]
fn every_truncation_is_refused_and_bytes_at_the_end_too() {
    let record = KekRecord { wraps: vec![record().wraps.remove(0), wrapped_by_parent()], ..record() };
    let bytes = record.encode().unwrap();
    for len in 0..bytes.len() {
        let refused = KekRecord::parse(&bytes[..len]).unwrap_err();
        let is_expected =
            if len < 2 { refused == RecordError::NotARecord } else { matches!(refused, RecordError::Malformed(_)) };
        assert!(is_expected, "cut at {len}: {refused:?}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(KekRecord::parse(&longer), Err(RecordError::Malformed("bytes follow its end")));
}

#[test]
fn every_flipped_bit_gives_another_record_or_a_refusal() {
    let original = record();
    let bytes = original.encode().unwrap();
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match KekRecord::parse(&flipped) {
            Ok(other) => {
                assert_ne!(other, original, "bit {bit} means nothing");
                assert_eq!(other.encode().unwrap(), flipped, "bit {bit}");
            }
            Err(refused) => assert!(!refused.to_string().contains('\n'), "{refused}"),
        }
    }
}

#[test]
fn record_that_breaks_a_limit_is_not_written() {
    let malformed = |record: KekRecord| matches!(record.encode(), Err(RecordError::Malformed(_)));
    let wrap = |len| WrappedSecret { ciphertext: vec![0; len], ..wrapped_by_parent() };
    assert!(malformed(KekRecord { wraps: vec![], ..record() }));
    assert!(malformed(KekRecord { wraps: vec![wrap(1); 9], ..record() }));
    assert!(malformed(KekRecord { wraps: vec![wrap(0)], ..record() }));
    assert!(malformed(KekRecord { wraps: vec![wrap(8193)], ..record() }));
    assert!(malformed(KekRecord { state: KekState::Destroyed, ..record() }));
    assert!(!malformed(KekRecord { wraps: vec![wrap(8192); 8], ..record() }));
    assert!(!malformed(KekRecord { state: KekState::Destroyed, wraps: vec![], ..record() }));
}

#[test]
fn longest_record_there_can_be_is_read_back() {
    let path = KeyPath::new(vec!["s".repeat(128); 8]).unwrap();
    let root = WrappedSecret {
        wrapper: Wrapper::Root(RootKeyId::new(&"r".repeat(RootKeyId::MAX_BYTES)).unwrap()),
        ciphertext: vec![0; KekRecord::MAX_CIPHERTEXT_BYTES],
    };
    let identity = KekIdentity { path, ..record().identity };
    let longest = KekRecord { identity, wraps: vec![root; KekRecord::MAX_WRAPS], ..record() };
    let bytes = longest.encode().unwrap();
    assert!(bytes.len() <= KekRecord::MAX_BYTES);
    assert_eq!(KekRecord::parse(&bytes), Ok(longest));
}

#[test]
fn bytes_beyond_the_longest_record_are_refused_unread() {
    let mut bytes = record().encode().unwrap();
    bytes.resize(KekRecord::MAX_BYTES + 1, 0);
    assert_eq!(KekRecord::parse(&bytes), Err(RecordError::Malformed("it is over 128 KiB long")));
    bytes.pop();
    assert_eq!(KekRecord::parse(&bytes), Err(RecordError::Malformed("bytes follow its end")));
}

#[test]
fn root_key_ids_are_short_visible_text() {
    assert!(RootKeyId::new("aws-kms:arn:aws:kms:eu-west-1:111122223333:key/größe").is_ok());
    assert!(RootKeyId::new(&"r".repeat(2048)).is_ok());
    for bad in ["", "a\nb", "a\u{0}", "\u{85}", &"r".repeat(2049)] {
        assert!(RootKeyId::new(bad).is_err(), "{bad:?}");
    }
}

fn paths() -> impl Strategy<Value = KeyPath> {
    vec("\\PC{1,20}", 1..=8).prop_map(|segments| KeyPath::new(segments).expect("within the limits"))
}

fn wraps() -> impl Strategy<Value = WrappedSecret> {
    let root = "[!-~]{1,60}".prop_map(|id| Wrapper::Root(RootKeyId::new(&id).expect("within the limits")));
    let parent =
        (paths(), any::<[u8; 16]>()).prop_map(|(path, id)| Wrapper::Parent { path, kek_id: KekId::from_bytes(id) });
    (prop_oneof![root, parent], vec(any::<u8>(), 1..100))
        .prop_map(|(wrapper, ciphertext)| WrappedSecret { wrapper, ciphertext })
}

fn records() -> impl Strategy<Value = KekRecord> {
    let states = prop_oneof![
        Just(KekState::Primary),
        Just(KekState::Retired),
        Just(KekState::Disabled),
        Just(KekState::Destroyed)
    ];
    let identity = (1..=u32::MAX, any::<[u8; 16]>(), paths());
    let rest = (any::<[u8; 32]>(), any::<u64>(), any::<u64>(), vec(wraps(), 1..=8));
    (states, identity, rest).prop_map(|(state, (version, id, path), (check, created_at, retired_at, wraps))| {
        KekRecord {
            identity: KekIdentity {
                suite: Suite::XChaCha20Poly1305,
                version: KekVersion::new(version).expect("from 1"),
                id: KekId::from_bytes(id),
                path,
            },
            state,
            check: KekCheck::from_bytes(check),
            created_at,
            retired_at,
            wraps: if state == KekState::Destroyed { vec![] } else { wraps },
        }
    })
}

proptest! {
    #[test]
    fn what_is_encoded_parses_to_the_same(record in records()) {
        prop_assert_eq!(KekRecord::parse(&record.encode().unwrap()), Ok(record));
    }

    #[test]
    fn what_parses_has_no_second_encoding(record in records(), edits in vec((any::<Index>(), any::<u8>()), 0..4)) {
        let mut bytes = record.encode().unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(parsed) = KekRecord::parse(&bytes) {
            prop_assert_eq!(parsed.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn any_truncation_is_refused(record in records(), cut: Index) {
        let bytes = record.encode().unwrap();
        prop_assert!(KekRecord::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_parse_or_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..400), start in 0..=5_usize) {
        let with_start = [&b"KR\x01\x01\x01"[..start], &bytes].concat();
        if let Ok(parsed) = KekRecord::parse(&with_start) {
            prop_assert_eq!(parsed.encode().unwrap(), with_start);
        }
    }

    #[test]
    fn path_bytes_parse_or_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..60), count in 0..10_u32) {
        let with_count = [&count.to_le_bytes()[..], &bytes].concat();
        for bytes in [bytes, with_count] {
            if let Ok(path) = KeyPath::from_bytes(&bytes) {
                prop_assert_eq!(path.as_bytes(), bytes);
                prop_assert_eq!(KeyPath::new(path.segments()), Ok(path.clone()));
            }
        }
    }
}

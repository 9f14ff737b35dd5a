//! Envelopes through the public API: what opens, and that nothing else does.

use std::{fmt, sync::LazyLock};

use keystrata_primitives::{
    Context, ContextError, Kek, KekId, KekIdentity, KekVersion, KeyPath, RandomnessError, Suite, UnknownSuite,
    envelope::{self, CHUNK_LEN, EnvelopeError, HEADER_LEN, Header, MIN_LEN, OpenError, SealError},
    hazmat,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use rand::{TryCryptoRng, TryRng};

const KEY: [u8; 32] = [0x6b; 32];

static IDENTITY: LazyLock<KekIdentity> = LazyLock::new(|| identity(0x1d, &["acme"]));

fn identity(id: u8, path: &[&str]) -> KekIdentity {
    KekIdentity {
        suite: Suite::XChaCha20Poly1305,
        version: KekVersion::FIRST,
        id: KekId::from_bytes([id; 16]),
        path: KeyPath::new(path).expect("a valid path"),
    }
}

fn kek() -> Kek<'static> {
    Kek::new(&KEY, &IDENTITY)
}

fn row(value: &str) -> Context {
    Context::new().with("row", value)
}

fn seal(plaintext: &[u8]) -> Vec<u8> {
    envelope::seal(&kek(), &row("42"), plaintext).expect("a small object")
}

fn open(sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    envelope::open(&kek(), &row("42"), sealed)
}

fn assert_one_line(error: &impl fmt::Display) {
    let message = error.to_string();
    assert!(message.len() > 15 && !message.contains(['\n', '\r']), "{message:?}");
}

#[test]
fn every_truncation_of_a_small_envelope_is_refused() {
    let sealed = seal(b"five!");
    for len in 0..sealed.len() {
        let refused = open(&sealed[..len]).unwrap_err();
        let expected = match len {
            0 => OpenError::Envelope(EnvelopeError::Empty),
            _ if len < MIN_LEN => OpenError::Envelope(EnvelopeError::Truncated { len }),
            _ => OpenError::Rejected, // an envelope can have this length
        };
        assert_eq!(refused, expected, "cut at {len}");
        assert_one_line(&refused);
    }
}

#[test]
fn every_flipped_bit_of_a_small_envelope_is_refused() {
    let sealed = seal(b"five!");
    for bit in 0..8 * sealed.len() {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = open(&flipped).unwrap_err();
        let expected = match bit / 8 {
            0 | 1 => OpenError::Envelope(EnvelopeError::NotAnEnvelope),
            2 => OpenError::Envelope(EnvelopeError::UnknownVersion(flipped[2])),
            3 => OpenError::Envelope(EnvelopeError::UnknownSuite(UnknownSuite(flipped[3]))),
            _ => OpenError::Rejected,
        };
        assert_eq!(refused, expected, "bit {bit}");
        assert_one_line(&refused);
    }
}

#[test]
fn every_length_around_a_chunk_comes_back_and_is_as_long_as_promised() {
    for len in [0, 1, 15, 16, 17, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN, 3 * CHUNK_LEN + 7] {
        let plaintext: Vec<u8> = (0..=250).cycle().take(len).collect();
        let sealed = seal(&plaintext);
        assert_eq!(Some(sealed.len()), envelope::sealed_len(len));
        assert_eq!(Some(len), envelope::plaintext_len(sealed.len()));
        assert!(open(&sealed).unwrap() == plaintext, "{len} bytes");
    }
}

#[test]
fn every_cut_near_the_end_of_a_chunk_is_refused() {
    for len in [CHUNK_LEN, 2 * CHUNK_LEN, 2 * CHUNK_LEN + 3] {
        let sealed = seal(&vec![7; len]);
        let ends: Vec<_> = (HEADER_LEN..=sealed.len()).step_by(CHUNK_LEN + 16).collect();
        for cut in ends.iter().flat_map(|end| end - 20..end + 20).filter(|cut| *cut < sealed.len()) {
            let refused = open(&sealed[..cut]).unwrap_err();
            // 0 to 15 bytes behind a chunk's end cannot be a chunk.
            let is_no_length = cut < MIN_LEN || (cut - HEADER_LEN) % (CHUNK_LEN + 16) < 16;
            let expected =
                if is_no_length { EnvelopeError::Truncated { len: cut }.into() } else { OpenError::Rejected };
            assert_eq!(refused, expected, "{len} bytes cut at {cut}");
        }
    }
}

#[test]
fn flipped_bit_in_any_chunk_releases_nothing() {
    let sealed = seal(&vec![7; 2 * CHUNK_LEN + 3]);
    for offset in [HEADER_LEN, HEADER_LEN + CHUNK_LEN + 15, HEADER_LEN + CHUNK_LEN + 16, sealed.len() - 1] {
        let mut flipped = sealed.clone();
        flipped[offset] ^= 0x80;
        assert_eq!(open(&flipped), Err(OpenError::Rejected), "byte {offset}");
    }
}

#[test]
fn envelope_opens_under_its_own_key_account_id_and_context_only() {
    let sealed = seal(b"five!");
    let rejected = |key: &[u8; 32], identity: &KekIdentity, context: &Context| {
        envelope::open(&Kek::new(key, identity), context, &sealed) == Err(OpenError::Rejected)
    };
    assert!(rejected(&[0; 32], &IDENTITY, &row("42")));
    assert!(rejected(&KEY, &identity(0x1d, &["acne"]), &row("42")));
    assert!(rejected(&KEY, &identity(0x1e, &["acme"]), &row("42")));
    assert!(rejected(&KEY, &IDENTITY, &row("43")));
    assert!(rejected(&KEY, &IDENTITY, &Context::none()));
    assert!(!rejected(&KEY, &IDENTITY, &row("42")));
}

#[test]
fn kek_version_number_is_not_what_an_envelope_names() {
    // The KEK id is: a version's number may be read from a record that was altered.
    let sealed = seal(b"five!");
    let renumbered = KekIdentity { version: KekVersion::new(9).unwrap(), ..IDENTITY.clone() };
    assert_eq!(envelope::open(&Kek::new(&KEY, &renumbered), &row("42"), &sealed).unwrap(), b"five!");
}

#[test]
fn context_that_breaks_a_rule_neither_seals_nor_opens() {
    let twice = row("1").with("row", "2");
    let refused = ContextError::DuplicateName { name: "row".into() };
    assert!(matches!(envelope::seal(&kek(), &twice, b""), Err(SealError::Context(error)) if error == refused));
    assert_eq!(envelope::open(&kek(), &twice, &seal(b"")), Err(OpenError::Context(refused)));
}

#[test]
fn header_says_without_a_key_what_it_is() {
    let sealed = seal(b"five!");
    let header = Header::parse(&sealed).unwrap();
    assert_eq!((header.version(), header.suite(), header.kek_id()), (1, IDENTITY.suite, IDENTITY.id));
    assert!(Header::parse_start(&sealed[..HEADER_LEN]).is_ok(), "the chunks may be elsewhere");
    let cut = Header::parse_start(&sealed[..HEADER_LEN - 1]).unwrap_err();
    assert_eq!(cut, EnvelopeError::Truncated { len: HEADER_LEN - 1 });
    assert_eq!(Header::parse(&sealed[..HEADER_LEN]).unwrap_err(), EnvelopeError::Truncated { len: HEADER_LEN });
}

#[test]
fn two_seals_of_one_plaintext_share_no_random_field() {
    let (a, b) = (seal(b"five!"), seal(b"five!"));
    for field in [20..44, 44..92, 92..124, 124..145] {
        assert_ne!(a[field.clone()], b[field]);
    }
}

/// A source of randomness that has none.
struct Broken;

#[derive(Debug, thiserror::Error)]
#[error("no entropy today")]
struct NoEntropy;

impl TryRng for Broken {
    type Error = NoEntropy;

    fn try_next_u32(&mut self) -> Result<u32, NoEntropy> {
        Err(NoEntropy)
    }

    fn try_next_u64(&mut self) -> Result<u64, NoEntropy> {
        Err(NoEntropy)
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), NoEntropy> {
        Err(NoEntropy)
    }
}

impl TryCryptoRng for Broken {}

#[test]
fn nothing_is_sealed_or_generated_without_random_bytes() {
    let sealed = hazmat::seal_envelope_with_rng(&mut Broken, &kek(), &row("42"), b"five!");
    assert!(matches!(&sealed, Err(SealError::Randomness(error)) if error.to_string().contains("no entropy today")));
    let error: RandomnessError = hazmat::generate_key_with_rng(&mut Broken).unwrap_err();
    assert_one_line(&error);
}

fn contexts() -> impl Strategy<Value = Context> {
    proptest::collection::btree_map(vec(any::<u8>(), 1..20), vec(any::<u8>(), 0..40), 0..8)
        .prop_map(|pairs| pairs.into_iter().collect())
}

fn paths() -> impl Strategy<Value = KeyPath> {
    vec("\\PC{1,20}", 1..=8).prop_map(|segments| KeyPath::new(segments).expect("within the limits"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_sealed_opens(
        key: [u8; 32], id: [u8; 16], path in paths(), context in contexts(), plaintext in vec(any::<u8>(), 0..40_000),
    ) {
        let identity = KekIdentity { id: KekId::from_bytes(id), path, ..IDENTITY.clone() };
        let kek = Kek::new(&key, &identity);
        let sealed = envelope::seal(&kek, &context, &plaintext).unwrap();
        prop_assert_eq!(Some(sealed.len()), envelope::sealed_len(plaintext.len()));
        prop_assert_eq!(Header::parse(&sealed).unwrap().kek_id(), identity.id);
        prop_assert!(envelope::open(&kek, &context, &sealed).unwrap() == plaintext);
    }

    #[test]
    fn no_other_context_or_path_opens(context in contexts(), other in contexts(), path in paths()) {
        let sealed = envelope::seal(&kek(), &context, b"five!").unwrap();
        if other != context {
            prop_assert_eq!(envelope::open(&kek(), &other, &sealed), Err(OpenError::Rejected));
        }
        if path != IDENTITY.path {
            let elsewhere = KekIdentity { path, ..IDENTITY.clone() };
            prop_assert_eq!(envelope::open(&Kek::new(&KEY, &elsewhere), &context, &sealed), Err(OpenError::Rejected));
        }
    }

    #[test]
    fn any_truncation_and_any_flipped_bit_is_refused(
        plaintext in vec(any::<u8>(), 0..20_000), cut: Index, at: Index, bit in 0..8_u32,
    ) {
        let sealed = seal(&plaintext);
        prop_assert!(open(&sealed[..cut.index(sealed.len())]).is_err());
        let mut flipped = sealed.clone();
        flipped[at.index(sealed.len())] ^= 1_u8 << bit;
        prop_assert!(open(&flipped).is_err());
    }

    #[test]
    fn any_splice_of_two_envelopes_is_refused(
        a in vec(any::<u8>(), 0..300), b in vec(any::<u8>(), 0..300), from: Index, to: Index,
    ) {
        let (a, b) = (seal(&a), seal(&b));
        // Past the header's first fields, which both have alike, some random field of each takes part or none.
        let shorter = a.len().min(b.len());
        let (from, to) = (from.index(shorter + 1), to.index(shorter + 1));
        let (from, to) = (from.min(to), from.max(to));
        let spliced = [&a[..from], &b[from..to], &a[to..]].concat();
        prop_assert!(spliced == a || spliced == b || open(&spliced).is_err());
        let joined = [&a[..from], &b[from..]].concat();
        prop_assert!(joined == a || joined == b || open(&joined).is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..400), start in 0..=4_usize) {
        let with_start = [&b"KS\x01\x01"[..start], &bytes].concat();
        let refused = open(&with_start).unwrap_err();
        assert_one_line(&refused);
    }

    #[test]
    fn lengths_agree_both_ways(len in 0..=(1_usize << 40)) {
        prop_assert_eq!(envelope::plaintext_len(envelope::sealed_len(len).unwrap()), Some(len));
        if let Some(plaintext) = envelope::plaintext_len(len) {
            prop_assert_eq!(envelope::sealed_len(plaintext), Some(len), "one length each");
        }
    }
}

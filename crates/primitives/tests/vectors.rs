//! The vectors of `docs/vectors` and the worked example of `docs/format.md`, against the library.
//!
//! `cargo test -p keystrata-primitives --test vectors -- --ignored` writes them anew.

#![allow(clippy::unwrap_used)] // clippy sees tests only where they are marked as such

#[path = "vectors/envelopes.rs"]
mod envelopes;
#[path = "vectors/example.rs"]
mod example;
#[path = "vectors/keys.rs"]
mod keys;
#[path = "vectors/make.rs"]
mod make;
#[path = "vectors/records.rs"]
mod records;
#[path = "vectors/schema.rs"]
mod schema;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
};

use keystrata_primitives::{
    Context, ContextError, Kek, KekCheck, KekRecord, KeyPath, RecordError, SecretKey, Suite,
    envelope::{self, EnvelopeError, HEADER_LEN, OpenError},
    simple, wrap,
};
use secrecy::ExposeSecret;
use serde::{Serialize, de::DeserializeOwned};

use self::{
    example::Example,
    make::identity,
    schema::{
        DeriveKek, Derived, EnvelopeBytes, File, Hex, OpenEnvelope, OpenPlain, Opened, ParseRecord, ParsedRecord,
        Refusal, UnwrapChild, Unwrapped,
    },
};

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// What is written to a file, byte for byte.
fn text(file: &impl Serialize) -> String {
    serde_json::to_string_pretty(file).unwrap() + "\n"
}

fn made() -> [(&'static str, String); 5] {
    [
        ("envelope_open.json", text(&envelopes::file())),
        ("kek_record_parse.json", text(&records::file())),
        ("kek_derive.json", text(&keys::derive_file())),
        ("child_unwrap.json", text(&keys::child_file())),
        ("plain_open.json", text(&keys::plain_file())),
    ]
}

fn read<V: DeserializeOwned>(name: &str) -> Vec<V> {
    let text = fs::read_to_string(docs().join("vectors").join(name)).unwrap();
    serde_json::from_str::<File<V>>(&text).unwrap_or_else(|error| panic!("{name}: {error}")).vectors
}

fn str_refs(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

fn context_refusal(error: &ContextError) -> Refusal {
    match error {
        ContextError::TooManyPairs(_) => Refusal::ContextTooManyPairs,
        ContextError::TooLong(_) => Refusal::ContextTooLong,
        ContextError::EmptyName => Refusal::ContextEmptyName,
        ContextError::DuplicateName { .. } => Refusal::ContextDuplicateName,
        other => panic!("a refusal without a name: {other:?}"),
    }
}

fn open_refusal(error: &OpenError) -> Refusal {
    match error {
        OpenError::Envelope(error) => match error {
            EnvelopeError::Empty => Refusal::Empty,
            EnvelopeError::NotAnEnvelope => Refusal::NotAnEnvelope,
            EnvelopeError::UnknownVersion(_) => Refusal::UnknownVersion,
            EnvelopeError::UnknownSuite(_) => Refusal::UnknownSuite,
            EnvelopeError::Truncated { .. } => Refusal::Truncated,
            EnvelopeError::TooLong { .. } => Refusal::TooLong,
            other => panic!("a refusal without a name: {other:?}"),
        },
        OpenError::Context(error) => context_refusal(error),
        OpenError::SuiteMismatch { .. } => Refusal::SuiteMismatch,
        OpenError::Rejected => Refusal::Rejected,
        other => panic!("a refusal without a name: {other:?}"),
    }
}

fn record_refusal(error: &RecordError) -> Refusal {
    match error {
        RecordError::NotARecord => Refusal::NotARecord,
        RecordError::UnknownVersion(_) => Refusal::UnknownVersion,
        RecordError::UnknownSuite(_) => Refusal::UnknownSuite,
        RecordError::UnknownState(_) => Refusal::UnknownState,
        RecordError::UnknownWrapper(_) => Refusal::UnknownWrapper,
        RecordError::Malformed(_) => Refusal::Malformed,
        other => panic!("a refusal without a name: {other:?}"),
    }
}

fn assert_outcome(name: &str, outcome: Result<Vec<u8>, Refusal>, expected: &Opened) {
    match expected {
        Opened::Plaintext(plaintext) => assert_eq!(outcome.as_deref(), Ok(plaintext.0.as_slice()), "{name}"),
        Opened::PlaintextRepeat { pattern, len, blake3 } => {
            let opened = outcome.unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
            assert_eq!(blake3::hash(&opened).as_bytes(), &blake3.array(), "{name}");
            assert!(opened.iter().eq(pattern.0.iter().cycle().take(*len)), "{name}");
        }
        Opened::Error(refusal) => assert_eq!(outcome, Err(*refusal), "{name}"),
    }
}

#[test]
fn envelopes_open_or_are_refused_as_their_vectors_say() {
    let mut earlier: HashMap<String, Vec<u8>> = HashMap::new();
    for vector in read::<OpenEnvelope>("envelope_open.json") {
        let bytes = match vector.envelope {
            EnvelopeBytes::Hex(hex) => hex.0,
            EnvelopeBytes::Base64(base64) => base64.0,
            EnvelopeBytes::Slices(slices) => {
                slices.iter().flat_map(|slice| &earlier[&slice.vector][slice.start..slice.end]).copied().collect()
            }
        };
        assert_eq!(vector.suite, Suite::XChaCha20Poly1305.to_byte());
        let identity = identity(1, &vector.kek_id.array(), &str_refs(&vector.path));
        let kek = vector.kek.array();
        let context: Context = vector.context.iter().map(|(name, value)| (&name.0, &value.0)).collect();
        let outcome = envelope::open(&Kek::new(&kek, &identity), &context, &bytes);
        assert_outcome(&vector.name, outcome.map_err(|error| open_refusal(&error)), &vector.expected);
        earlier.insert(vector.name, bytes);
    }
}

#[test]
fn records_parse_or_are_refused_as_their_vectors_say() {
    for vector in read::<ParseRecord>("kek_record_parse.json") {
        let outcome = KekRecord::parse(&vector.record.0);
        if let Ok(record) = &outcome {
            assert_eq!(record.encode().unwrap(), vector.record.0, "{}", vector.name);
        }
        let outcome = match outcome {
            Ok(record) => ParsedRecord::Record(records::described(&record)),
            Err(error) => ParsedRecord::Error(record_refusal(&error)),
        };
        assert_eq!(outcome, vector.expected, "{}", vector.name);
    }
}

#[test]
fn keks_derive_and_their_checks_tell_as_their_vectors_say() {
    for vector in read::<DeriveKek>("kek_derive.json") {
        assert_eq!(vector.suite, Suite::XChaCha20Poly1305.to_byte());
        let identity = identity(vector.version, &vector.kek_id.array(), &str_refs(&vector.path));
        let derived = identity.derive(&SecretKey::from_slice(&vector.secret.0).unwrap());
        let outcome = if derived.check == KekCheck::from_bytes(vector.check.array()) {
            Derived::Kek(Hex::of(derived.expose_secret()))
        } else {
            Derived::Error(Refusal::CheckMismatch)
        };
        assert_eq!(outcome, vector.expected, "{}", vector.name);
    }
}

#[test]
fn children_unwrap_or_are_refused_as_their_vectors_say() {
    for vector in read::<UnwrapChild>("child_unwrap.json") {
        assert_eq!(vector.parent_suite, Suite::XChaCha20Poly1305.to_byte());
        let parent = identity(1, &vector.parent_kek_id.array(), &str_refs(&vector.parent_path));
        let child = identity(vector.child_version, &vector.child_kek_id.array(), &str_refs(&vector.child_path));
        let kek = vector.parent_kek.array();
        let outcome = match wrap::unwrap_child(&Kek::new(&kek, &parent), &child, &vector.wrapped.0) {
            Ok(secret) => Unwrapped::Secret(Hex::of(secret.expose_secret())),
            Err(wrap::WrapRejected) => Unwrapped::Error(Refusal::Rejected),
        };
        assert_eq!(outcome, vector.expected, "{}", vector.name);
    }
}

#[test]
fn plain_forms_open_or_are_refused_as_their_vectors_say() {
    for vector in read::<OpenPlain>("plain_open.json") {
        let key = SecretKey::from_slice(&vector.key.0).unwrap();
        let outcome = simple::open(&key, &vector.sealed.0).map_err(|simple::SimpleRejected| Refusal::Rejected);
        assert_outcome(&vector.name, outcome, &vector.expected);
    }
}

#[test]
fn vectors_are_many_mostly_refusals_and_leave_no_refusal_out() {
    let mut outcomes: Vec<Option<Refusal>> = Vec::new();
    let mut names: HashSet<(&str, String)> = HashSet::new();
    let mut note = |file, name, refusal| {
        assert!(names.insert((file, name)), "a name stands twice in {file}");
        outcomes.push(refusal);
    };
    let plaintext = |expected: &Opened| match expected {
        Opened::Error(refusal) => Some(*refusal),
        _ => None,
    };
    for vector in read::<OpenEnvelope>("envelope_open.json") {
        note("envelope", vector.name, plaintext(&vector.expected));
    }
    for vector in read::<OpenPlain>("plain_open.json") {
        note("plain", vector.name, plaintext(&vector.expected));
    }
    for vector in read::<ParseRecord>("kek_record_parse.json") {
        let refusal = if let ParsedRecord::Error(refusal) = vector.expected { Some(refusal) } else { None };
        note("record", vector.name, refusal);
    }
    for vector in read::<DeriveKek>("kek_derive.json") {
        let refusal = if let Derived::Error(refusal) = vector.expected { Some(refusal) } else { None };
        note("derive", vector.name, refusal);
    }
    for vector in read::<UnwrapChild>("child_unwrap.json") {
        let refusal = if let Unwrapped::Error(refusal) = vector.expected { Some(refusal) } else { None };
        note("child", vector.name, refusal);
    }
    let refusals: HashSet<_> = outcomes.iter().flatten().copied().collect();
    assert!(outcomes.len() >= 100, "{}", outcomes.len());
    assert!(2 * outcomes.iter().flatten().count() > outcomes.len());
    // Of 17, all but `too-long` (64 TiB) and `suite-mismatch` (there is one suite).
    assert_eq!(refusals.len(), 15, "{refusals:?}");
}

#[test]
fn making_the_vectors_again_gives_the_same_bytes() {
    let mut total = 0;
    for (name, text) in made() {
        let on_disk = fs::read_to_string(docs().join("vectors").join(name)).unwrap();
        assert!(
            on_disk == text,
            "{name} is not what this test makes: run it with --ignored and look at the difference"
        );
        total += text.len();
    }
    assert!(total < 400_000, "{total} bytes of vectors");
}

#[test]
fn worked_example_of_the_page_is_what_the_library_makes() {
    let page = fs::read_to_string(docs().join("format.md")).unwrap();
    let (_, rest) = page.split_once(example::BEGIN).unwrap();
    let (block, _) = rest.split_once(example::END).unwrap();
    assert_eq!(block, Example::new().block());
}

#[test]
fn worked_example_holds_together_without_the_library() {
    use chacha20poly1305::{
        ChaCha20Poly1305, KeyInit, XChaCha20Poly1305,
        aead::{Aead, Payload},
    };

    let example = Example::new();
    let mut kek_and_check = [0; 64];
    blake3::Hasher::new_keyed(&example.secret).update(&example.kek_message()).finalize_xof().fill(&mut kek_and_check);
    assert_eq!(kek_and_check[..32], *example.derived.expose_secret());
    assert_eq!(kek_and_check[32..], *example.derived.check.as_bytes());

    let kek = XChaCha20Poly1305::new_from_slice(&kek_and_check[..32]).unwrap();
    let open = |nonce: &[u8; 24], sealed: &[u8], aad: &[u8]| {
        kek.decrypt(nonce.into(), Payload { msg: sealed, aad }).map_err(|_| "rejected")
    };
    let header = &example.envelope[..HEADER_LEN];
    assert_eq!(header[20..44], example.wrap_nonce);
    assert_eq!(open(&example.wrap_nonce, &header[44..92], &example.dek_wrap_aad()).unwrap(), example.dek);
    let wrapped = &example.wrapped_child[24..];
    assert_eq!(open(&example.child_nonce, wrapped, &example.child_wrap_aad()).unwrap(), example.child_secret);

    let payload = example.payload();
    assert_eq!(header[92..], payload[44..]);
    let chunks = ChaCha20Poly1305::new_from_slice(&payload[..32]).unwrap();
    let nonce: [u8; 12] = payload[32..44].try_into().unwrap();
    assert_eq!(chunks.decrypt((&nonce).into(), &example.envelope[HEADER_LEN..]).unwrap(), example.plaintext);
    assert_eq!(KeyPath::from_bytes(b"\x01\0\0\0\x04\0\0\0acme").unwrap(), example.identity.path);
}

#[test]
#[ignore = "regenerates docs/vectors and the example of docs/format.md"]
fn regenerate() {
    for (name, text) in made() {
        fs::write(docs().join("vectors").join(name), text).unwrap();
    }
    let path = docs().join("format.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(example::BEGIN).unwrap();
    let (_, after) = rest.split_once(example::END).unwrap();
    let block = Example::new().block();
    fs::write(path, format!("{before}{}{block}{}{after}", example::BEGIN, example::END)).unwrap();
}

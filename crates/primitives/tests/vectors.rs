//! The vectors of `docs/vectors` and the worked example of `docs/format.md`, against the library.
//!
//! `cargo test -p keystrata-primitives --test vectors -- --ignored` writes them anew.

#![allow(clippy::unwrap_used)] // clippy sees tests only where they are marked as such

#[path = "vectors/envelopes.rs"]
mod envelopes;
#[path = "vectors/example.rs"]
mod example;
#[path = "vectors/independent.rs"]
mod independent;
#[path = "vectors/keys.rs"]
mod keys;
#[path = "vectors/make.rs"]
mod make;
#[path = "vectors/records.rs"]
mod records;
#[path = "vectors/refusals.rs"]
mod refusals;
#[path = "vectors/rewraps.rs"]
mod rewraps;
#[path = "vectors/schema.rs"]
mod schema;
#[path = "vectors/text.rs"]
mod text;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
};

use keystrata_primitives::{
    Context, Kek, KekCheck, KekRecord, KeyPath, SecretKey, Suite,
    envelope::{self, HEADER_LEN},
    hazmat, simple, wrap,
};
use secrecy::ExposeSecret;
use serde::{Serialize, de::DeserializeOwned};

use self::{
    example::Example,
    make::{Fixed, identity},
    refusals::{open_refusal, record_refusal, rewrap_refusal, text_refusal},
    schema::{
        DeriveKek, Derived, EnvelopeBytes, File, Hex, OpenEnvelope, OpenPlain, Opened, ParseRecord, ParsedRecord,
        PlainCipher, ReadText, Refusal, RewrapHeader, RewrapKek, Rewrapped, TextRead, UnwrapChild, Unwrapped,
    },
};

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// What is written to a file, byte for byte.
fn json(file: &impl Serialize) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    file.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).unwrap();
    String::from_utf8(out).unwrap() + "\n"
}

fn made() -> [(&'static str, String); 7] {
    [
        ("envelope_open.json", json(&envelopes::file())),
        ("kek_record_parse.json", json(&records::file())),
        ("kek_derive.json", json(&keys::derive_file())),
        ("child_unwrap.json", json(&keys::child_file())),
        ("plain_open.json", json(&keys::plain_file())),
        ("rewrap.json", json(&rewraps::file())),
        ("text.json", json(&text::file())),
    ]
}

fn read<V: DeserializeOwned>(name: &str) -> Vec<V> {
    let text = fs::read_to_string(docs().join("vectors").join(name)).unwrap();
    serde_json::from_str::<File<V>>(&text).unwrap_or_else(|error| panic!("{name}: {error}")).vectors
}

fn str_refs(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

fn suite(byte: u8) -> Suite {
    Suite::try_from(byte).unwrap()
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
        let identity = identity(suite(vector.suite), 1, &vector.kek_id.array(), &str_refs(&vector.path));
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
        let identity = identity(suite(vector.suite), vector.version, &vector.kek_id.array(), &str_refs(&vector.path));
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
        let suite = suite(vector.parent_suite);
        let parent = identity(suite, 1, &vector.parent_kek_id.array(), &str_refs(&vector.parent_path));
        let child = identity(suite, vector.child_version, &vector.child_kek_id.array(), &str_refs(&vector.child_path));
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
    open_plain("plain_open.json");
}

#[test]
fn plain_forms_that_go_sealed_open() {
    open_plain("plain_go.json");
}

fn open_plain(file: &str) {
    for vector in read::<OpenPlain>(file) {
        let key = SecretKey::from_slice(&vector.key.0).unwrap();
        let outcome = match vector.cipher {
            PlainCipher::XChaCha20Poly1305 => simple::open(&key, &vector.sealed.0),
            PlainCipher::Aes256Gcm => simple::aes256_gcm::open(&key, &vector.sealed.0),
        };
        let outcome = outcome.map_err(|simple::SimpleRejected| Refusal::Rejected);
        assert_outcome(&vector.name, outcome, &vector.expected);
    }
}

#[test]
fn headers_are_rewrapped_or_refused_as_their_vectors_say() {
    let described = |kek: &RewrapKek| {
        let identity = identity(suite(kek.suite), 1, &kek.kek_id.array(), &str_refs(&kek.path));
        (kek.kek.array::<32>(), identity)
    };
    for vector in read::<RewrapHeader>("rewrap.json") {
        let ((old_key, old), (new_key, new)) = (described(&vector.old), described(&vector.new));
        let (old, new) = (Kek::new(&old_key, &old), Kek::new(&new_key, &new));
        let mut rng = Fixed::new(&[&vector.nonce.0]);
        let outcome = match hazmat::rewrap_with_rng(&mut rng, &old, &new, &vector.header.array()) {
            Ok(header) => Rewrapped::Header(Hex::of(header)),
            Err(error) => Rewrapped::Error(rewrap_refusal(&error)),
        };
        assert_eq!(outcome, vector.expected, "{}", vector.name);
    }
}

#[test]
fn texts_are_read_or_refused_as_their_vectors_say() {
    for vector in read::<ReadText>("text.json") {
        let outcome = match envelope::from_text(&vector.text) {
            Ok(bytes) => {
                assert_eq!(envelope::to_text(&bytes), vector.text, "{}", vector.name);
                TextRead::Bytes(Hex(bytes))
            }
            Err(error) => TextRead::Error(text_refusal(&error)),
        };
        assert_eq!(outcome, vector.expected, "{}", vector.name);
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
    for (file, least) in [("plain_open.json", 30), ("plain_go.json", 20)] {
        let vectors = read::<OpenPlain>(file);
        assert!(vectors.len() >= least, "{file}");
        for vector in vectors {
            note(file, vector.name, plaintext(&vector.expected));
        }
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
    for vector in read::<RewrapHeader>("rewrap.json") {
        let refusal = if let Rewrapped::Error(refusal) = vector.expected { Some(refusal) } else { None };
        note("rewrap", vector.name, refusal);
    }
    for vector in read::<ReadText>("text.json") {
        let refusal = if let TextRead::Error(refusal) = vector.expected { Some(refusal) } else { None };
        note("text", vector.name, refusal);
    }
    let refusals: HashSet<_> = outcomes.iter().flatten().copied().collect();
    assert!(outcomes.len() >= 400, "{}", outcomes.len());
    assert!(2 * outcomes.iter().flatten().count() > outcomes.len());
    // Of 24, all but `too-long` (64 TiB).
    assert_eq!(refusals.len(), 23, "{refusals:?}");
}

#[test]
fn making_the_vectors_again_gives_the_same_bytes() {
    for (name, text) in made() {
        let on_disk = fs::read_to_string(docs().join("vectors").join(name)).unwrap();
        assert!(
            on_disk == text,
            "{name} is not what this test makes: run it with --ignored and look at the difference"
        );
    }
    let files = fs::read_dir(docs().join("vectors")).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    let total: u64 = files.filter(fs::Metadata::is_file).map(|file| file.len()).sum();
    assert!(total < 600_000, "{total} bytes of vectors");
}

#[test]
fn worked_example_of_the_page_is_what_the_library_makes() {
    let page = fs::read_to_string(docs().join("format.md")).unwrap();
    let (_, rest) = page.split_once(example::BEGIN).unwrap();
    let (block, _) = rest.split_once(example::END).unwrap();
    assert_eq!(block, Example::blocks());
}

#[test]
fn worked_example_of_suite_1_holds_together_without_the_library() {
    use chacha20poly1305::{
        ChaCha20Poly1305, KeyInit, XChaCha20Poly1305,
        aead::{Aead, Payload},
    };

    let example = Example::new(Suite::XChaCha20Poly1305);
    example_holds_together(
        &example,
        |key, nonce, sealed, aad| {
            let kek = XChaCha20Poly1305::new_from_slice(key).unwrap();
            kek.decrypt(nonce.into(), Payload { msg: sealed, aad }).expect("the wrap opens")
        },
        |key, nonce, sealed| {
            let chunks = ChaCha20Poly1305::new_from_slice(key).unwrap();
            chunks.decrypt(nonce.into(), sealed).expect("the chunk opens")
        },
    );
}

#[test]
fn worked_example_of_suite_2_holds_together_without_the_library() {
    use aes_gcm::{
        Aes256Gcm, KeyInit,
        aead::{Aead, Payload},
    };

    let open = |key: &[u8; 32], nonce: &[u8; 12], sealed: &[u8], aad: &[u8]| {
        let cipher = Aes256Gcm::new_from_slice(key).unwrap();
        cipher.decrypt(nonce.into(), Payload { msg: sealed, aad }).expect("it opens")
    };
    let example = Example::new(Suite::Aes256Gcm);
    example_holds_together(
        &example,
        |key, nonce, sealed, aad| open(&independent::xaes_subkey(key, nonce), nonce.last_chunk().unwrap(), sealed, aad),
        |key, nonce, sealed| open(key, nonce, sealed, b""),
    );
}

fn example_holds_together(
    example: &Example,
    unwrap: impl Fn(&[u8; 32], &[u8; 24], &[u8], &[u8]) -> Vec<u8>,
    open: impl Fn(&[u8; 32], &[u8; 12], &[u8]) -> Vec<u8>,
) {
    let suite = example.identity.suite;
    let kek_and_check: [u8; 64] = independent::kdf(suite, &example.secret, &example.kek_message());
    let (kek, check) = kek_and_check.split_first_chunk().unwrap();
    assert_eq!(kek, example.derived.expose_secret());
    assert_eq!(check, example.derived.check.as_bytes());

    let header = &example.envelope[..HEADER_LEN];
    assert_eq!(header[20..44], example.wrap_nonce);
    assert_eq!(unwrap(kek, &example.wrap_nonce, &header[44..92], &example.dek_wrap_aad()), example.dek);
    let wrapped = &example.wrapped_child[24..];
    assert_eq!(unwrap(kek, &example.child_nonce, wrapped, &example.child_wrap_aad()), example.child_secret);

    let payload = example.payload();
    assert_eq!(header[92..], payload[32..]);
    assert_eq!(open(payload.first_chunk().unwrap(), &[0; 12], &example.envelope[HEADER_LEN..]), example.plaintext);
    assert_eq!(KeyPath::from_bytes(b"\x01\0\0\0\x04\0\0\0acme").unwrap(), example.identity.path);

    let new = &example.rewrapped;
    assert_eq!(new[..4], header[..4]);
    assert_eq!(new[4..20], example.new_kek_id);
    assert_eq!(new[20..44], example.new_nonce);
    let mut aad = example.dek_wrap_aad();
    aad[26..42].copy_from_slice(&example.new_kek_id);
    assert_eq!(unwrap(&example.new_kek, &example.new_nonce, &new[44..92], &aad), example.dek);
    assert_eq!(new[92..], header[92..]);
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
    let block = Example::blocks();
    fs::write(path, format!("{before}{}{block}{}{after}", example::BEGIN, example::END)).unwrap();
}

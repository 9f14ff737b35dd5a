//! What was sealed once opens for ever: the files of `docs/vectors/frozen`.
//!
//! The vectors beside them are made anew with the library and change with it; these are not, and there is nothing here
//! that could make them.

#![allow(clippy::unwrap_used)] // clippy sees tests only where they are marked as such

#[path = "vectors/schema.rs"]
#[allow(dead_code, reason = "only its ways to write bytes are used here")]
mod schema;

use std::{
    fs,
    io::{Cursor, Read},
    path::PathBuf,
};

use keystrata_primitives::{
    Context, DerivedKek, KekRecord, SecretKey, Wrapper,
    envelope::{self, Opener},
    simple, wrap,
};
use serde::Deserialize;

use self::schema::{Base64, Hex, PlainCipher};

/// Every file, and the BLAKE3 hash of its bytes. Lines are added, and from the first release on none is changed.
const FILES: [(&str, &str); 16] = [
    ("child-suite-1.json", "569c85527e9969fd6997db55501ec2e1e5d1d1f3f5f6ca4448ecb8af63f30ded"),
    ("child-suite-2.json", "1af69455e482716fc92b1bcfd3446a2bdfe3cf8a59d80a274a1a84af49e2e1b9"),
    ("envelope-suite-1-empty.json", "d2444740da470e4a98428518796a9c7b68827b96dfafb3b34c1d5c9c9731045b"),
    ("envelope-suite-1-rewrapped.json", "3fa4a4dede72982f37cf42fd11070bc5ebfb73f6fd3e93b99fd543524c7fe4e3"),
    ("envelope-suite-1-short.json", "76517f37fb88f08e0c20917978b86537ae1806936e853abdb0943f804bf08f4b"),
    ("envelope-suite-1-three-chunks.json", "d2b4f3f77a184a7821a37e205ebb9cb2fdff534bd06163456437da4bc913cbf9"),
    ("envelope-suite-1-whole-chunk.json", "b785cbec63b82f35f3c7505ab212f5abf0b803cbc4d2b7f74d356ce6b9c73c38"),
    ("envelope-suite-2-empty.json", "c1bbb1e4c207a5a35a07e9f4005396a7ae02f00504c98878f5f80baf66d6e984"),
    ("envelope-suite-2-rewrapped.json", "85f88fb5d63276c0cb7ef06e5b94170e109e8e956da1d0a71af710d7e6e7ea9e"),
    ("envelope-suite-2-short.json", "309e258464057cd52f65cfe768e80b37c24bd8bd9981f37d4c7efefaccee7ace"),
    ("envelope-suite-2-three-chunks.json", "e9299cef7c8fc9541c7a53481df9bd491274e5766e383813b9b97c1a0ae7d83c"),
    ("envelope-suite-2-whole-chunk.json", "e9cca1f2c778d538ca93094c15972ceefe74a8e8d1bf56393d84052ab1bb60ad"),
    ("plain-aes-256-gcm.json", "eff82e9fe0824dbe209ed3871cebdfe1a78e08f340efd7a953e74141694e3ba5"),
    ("plain-xchacha20-poly1305.json", "3730278095d0ac1b6fdf06bf986f041c1d8de79d406f25faa70dd570125be6b5"),
    ("text-suite-1.json", "d9408360fb36d683b8a012764de99ff93ce609f1b7b79bb1c6b4ccb28e63a690"),
    ("text-suite-2.json", "99e22da33b8f9e5390d1e3a89432c9ab2a52874194179e441139250c1b166618"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Frozen {
    #[expect(dead_code, reason = "for readers")]
    comment: String,
    case: Case,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Case {
    Envelope { kek: RecordedKek, context: Vec<(String, String)>, envelope: Base64, plaintext: Repeated },
    Text { kek: RecordedKek, context: Vec<(String, String)>, text: String, plaintext: Repeated },
    Child { parent: RecordedKek, child: RecordedKek },
    Plain { cipher: PlainCipher, key: Hex, sealed: Base64, plaintext: Repeated },
}

/// A KEK's record, and the secret that its first wrap holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedKek {
    secret: Hex,
    record: Base64,
}

impl RecordedKek {
    fn derive(&self) -> (KekRecord, DerivedKek) {
        let record = KekRecord::parse(&self.record.0).unwrap();
        assert_eq!(record.encode().unwrap(), self.record.0);
        let derived = record.identity.derive(&SecretKey::from_slice(&self.secret.0).unwrap());
        assert_eq!(derived.check, record.check);
        (record, derived)
    }
}

/// `bytes`, so many times.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeated {
    bytes: Hex,
    times: usize,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/frozen")
}

#[test]
fn no_file_is_missing_new_or_changed() {
    let mut found: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .map(|name| {
            let hash = blake3::hash(&fs::read(folder().join(&name)).unwrap()).to_hex();
            (name, hash.to_string())
        })
        .collect();
    found.sort();
    let listed = FILES.map(|(name, hash)| (name.to_owned(), hash.to_owned()));
    assert_eq!(found, listed);
}

#[test]
fn every_frozen_file_opens() {
    for (name, _) in FILES {
        let text = fs::read_to_string(folder().join(name)).unwrap();
        let frozen: Frozen = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        check(name, &frozen.case);
    }
}

fn check(name: &str, case: &Case) {
    match case {
        Case::Envelope { kek, context, envelope, plaintext } => {
            assert_opens(name, kek, context, &envelope.0, plaintext);
        }
        Case::Text { kek, context, text, plaintext } => {
            let envelope = envelope::from_text(text).unwrap();
            assert_eq!(&envelope::to_text(&envelope), text, "{name}");
            assert_opens(name, kek, context, &envelope, plaintext);
        }
        Case::Child { parent, child } => {
            let (parent_record, parent) = parent.derive();
            let (child_record, _) = child.derive();
            let [wrapped, ..] = &child_record.wraps[..] else { panic!("{name}: no wrap") };
            let Wrapper::Parent { path, kek_id } = &wrapped.wrapper else { panic!("{name}: not a parent's") };
            assert_eq!((path, *kek_id), (&parent_record.identity.path, parent_record.identity.id), "{name}");
            let parent = parent.kek(&parent_record.identity);
            let secret = wrap::unwrap_child(&parent, &child_record.identity, &wrapped.ciphertext).unwrap();
            assert_eq!(child_record.identity.derive(&secret).check, child_record.check, "{name}");
        }
        Case::Plain { cipher, key, sealed, plaintext } => {
            let key = SecretKey::from_slice(&key.0).unwrap();
            let opened = match cipher {
                PlainCipher::XChaCha20Poly1305 => simple::open(&key, &sealed.0),
                PlainCipher::Aes256Gcm => simple::aes256_gcm::open(&key, &sealed.0),
            };
            assert_eq!(opened.unwrap(), plaintext.bytes.0.repeat(plaintext.times), "{name}");
        }
    }
}

/// In every way that opens.
fn assert_opens(name: &str, kek: &RecordedKek, context: &[(String, String)], envelope: &[u8], plaintext: &Repeated) {
    let (record, derived) = kek.derive();
    let kek = derived.kek(&record.identity);
    let context: Context = context.iter().map(|(name, value)| (name, value)).collect();
    let plaintext = plaintext.bytes.0.repeat(plaintext.times);
    assert!(envelope::open(&kek, &context, envelope).unwrap() == plaintext, "{name}");
    let mut buffer = envelope.to_vec();
    assert!(envelope::open_in_place(&kek, &context, &mut buffer).unwrap() == plaintext, "{name}, in place");
    let mut streamed = Vec::new();
    Opener::new(&kek, &context, Cursor::new(envelope)).unwrap().read_to_end(&mut streamed).unwrap();
    assert!(streamed == plaintext, "{name}, as a stream");
    let middle = plaintext.len() / 2;
    let part = envelope::open_range(&kek, &context, envelope, middle as u64..u64::MAX).unwrap();
    assert!(part == plaintext[middle..], "{name}, in part");
}

//! The files of `docs/vectors`, field by field. An unknown field, outcome or refusal does not parse.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Bytes, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl Hex {
    pub(crate) fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(bytes.as_ref().to_vec())
    }

    pub(crate) fn array<const N: usize>(&self) -> [u8; N] {
        self.0.as_slice().try_into().expect("a field of fixed length")
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes any text");
        text
    })
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |b: u8| b"0123456789abcdef".iter().position(|digit| *digit == b).and_then(|d| u8::try_from(d).ok());
        let (pairs, rest) = text.as_bytes().as_chunks();
        let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect::<Option<_>>();
        bytes.filter(|_| rest.is_empty()).map(Self).ok_or_else(|| D::Error::custom("not lower-case hexadecimal"))
    }
}

/// Bytes, in padded base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

/// The names of the format's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Refusal {
    Empty,
    NotAnEnvelope,
    UnknownVersion,
    UnknownSuite,
    Truncated,
    TooLong,
    ContextTooManyPairs,
    ContextTooLong,
    ContextEmptyName,
    ContextDuplicateName,
    SuiteMismatch,
    Rejected,
    NotARecord,
    UnknownState,
    UnknownWrapper,
    Malformed,
    CheckMismatch,
    TextEmpty,
    TextNoPrefix,
    TextBadCharacter,
    TextBadLength,
    TextStrayBits,
    RewrapNewSuite,
    RewrapOtherAccount,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File<V> {
    pub(crate) operation: String,
    pub(crate) vectors: Vec<V>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenEnvelope {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) kek: Hex,
    pub(crate) suite: u8,
    pub(crate) kek_id: Hex,
    pub(crate) path: Vec<String>,
    pub(crate) context: Vec<(Hex, Hex)>,
    pub(crate) envelope: EnvelopeBytes,
    pub(crate) expected: Opened,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EnvelopeBytes {
    Hex(Hex),
    Base64(Base64),
    Slices(Vec<Slice>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slice {
    pub(crate) vector: String,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Opened {
    Plaintext(Hex),
    PlaintextRepeat { pattern: Hex, len: usize, blake3: Hex },
    Error(Refusal),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParseRecord {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) record: Hex,
    pub(crate) expected: ParsedRecord,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ParsedRecord {
    Record(Record),
    Error(Refusal),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) suite: u8,
    pub(crate) state: String,
    pub(crate) version: u32,
    pub(crate) kek_id: Hex,
    pub(crate) check: Hex,
    pub(crate) created_at: u64,
    pub(crate) retired_at: u64,
    pub(crate) path: Vec<String>,
    pub(crate) wraps: Vec<Wrap>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Wrap {
    Root { id: String, wrapped: Hex },
    Parent { path: Vec<String>, kek_id: Hex, wrapped: Hex },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeriveKek {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) secret: Hex,
    pub(crate) suite: u8,
    pub(crate) version: u32,
    pub(crate) kek_id: Hex,
    pub(crate) path: Vec<String>,
    pub(crate) check: Hex,
    pub(crate) expected: Derived,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Derived {
    Kek(Hex),
    Error(Refusal),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnwrapChild {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) parent_kek: Hex,
    pub(crate) parent_suite: u8,
    pub(crate) parent_kek_id: Hex,
    pub(crate) parent_path: Vec<String>,
    pub(crate) child_version: u32,
    pub(crate) child_kek_id: Hex,
    pub(crate) child_path: Vec<String>,
    pub(crate) wrapped: Hex,
    pub(crate) expected: Unwrapped,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unwrapped {
    Secret(Hex),
    Error(Refusal),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenPlain {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) cipher: PlainCipher,
    pub(crate) key: Hex,
    pub(crate) sealed: Hex,
    pub(crate) expected: Opened,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PlainCipher {
    #[serde(rename = "XChaCha20-Poly1305")]
    XChaCha20Poly1305,
    #[serde(rename = "AES-256-GCM")]
    Aes256Gcm,
}

impl PlainCipher {
    pub(crate) fn nonce_len(self) -> usize {
        match self {
            Self::XChaCha20Poly1305 => 24,
            Self::Aes256Gcm => 12,
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadText {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) text: String,
    pub(crate) expected: TextRead,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TextRead {
    Bytes(Hex),
    Error(Refusal),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RewrapHeader {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) old: RewrapKek,
    pub(crate) new: RewrapKek,
    pub(crate) nonce: Hex,
    pub(crate) header: Hex,
    pub(crate) expected: Rewrapped,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RewrapKek {
    pub(crate) kek: Hex,
    pub(crate) suite: u8,
    pub(crate) kek_id: Hex,
    pub(crate) path: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rewrapped {
    Header(Hex),
    Error(Refusal),
}

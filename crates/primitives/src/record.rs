//! KEK records, version 1: one wrapped KEK as a store keeps it.
//!
//! ```text
//! offset size
//! 0      3    magic "KR\x01"
//! 3      1    suite
//! 4      1    state: 1 primary, 2 retired, 3 disabled, 4 destroyed
//! 5      4    KEK version, u32le, from 1
//! 9      16   KEK id
//! 25     32   check
//! 57     8    created at, u64le, seconds since the Unix epoch
//! 65     8    retired at, the same; 0: never
//! 73     …    path
//! …      4    n, u32le: wraps that follow, 1 to 8 (0 in a destroyed record)
//! …      …    n × { 1 ‖ str(root key id) ‖ str(wrapped secret)
//!                 | 2 ‖ parent path ‖ parent KEK id(16) ‖ str(wrapped secret) }
//! ```
//!
//! A record is public bytes. Suite, version, id and path are authenticated by the check once the secret is unwrapped;
//! state and times are not, so whoever writes the store can change them (see the threat model).

use std::{fmt, sync::Arc};

use crate::{
    kek::{KekCheck, KekId, KekIdentity, KekVersion},
    path::KeyPath,
    suite::{Suite, UnknownSuite},
    wire::{self, Reader},
};

const MAGIC: [u8; 2] = *b"KR";
const VERSION: u8 = 1;

/// What a KEK version may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum KekState {
    /// New objects are sealed under it.
    Primary = 1,
    /// Opens, seals nothing new.
    Retired = 2,
    /// Neither seals nor opens until enabled again.
    Disabled = 3,
    /// Gone: the record stays to say so, without a wrapped secret.
    Destroyed = 4,
}

impl fmt::Display for KekState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Retired => "retired",
            Self::Disabled => "disabled",
            Self::Destroyed => "destroyed",
        })
    }
}

/// The name of a root key: a URI such as `local:…` or `aws-kms:arn:…`, 1 to 2,048 bytes. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootKeyId(Arc<str>);

/// A root key id that is empty, over 2,048 bytes, or holds a control character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a root key id has 1 to 2,048 bytes and no control characters")]
pub struct RootKeyIdError;

impl RootKeyId {
    /// Most bytes of an id.
    pub const MAX_BYTES: usize = 2048;

    /// The id of this text.
    ///
    /// # Errors
    /// [`RootKeyIdError`] if it is empty, over 2,048 bytes, or holds a control character.
    pub fn new(text: &str) -> Result<Self, RootKeyIdError> {
        if text.is_empty() || text.len() > Self::MAX_BYTES || text.chars().any(char::is_control) {
            return Err(RootKeyIdError);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a secret is wrapped by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wrapper {
    /// A root key in a KMS.
    Root(RootKeyId),
    /// Another KEK.
    Parent {
        /// Whose KEK it is.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
    },
}

/// One wrapped copy of a KEK's secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WrappedSecret {
    /// What wraps it.
    pub wrapper: Wrapper,
    /// The wrapped bytes, in whatever form the wrapper gives: 1 to 8,192.
    pub ciphertext: Vec<u8>,
}

/// One version of one account's KEK, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekRecord {
    /// Suite, version, id and path.
    pub identity: KekIdentity,
    /// What the version may do.
    pub state: KekState,
    /// Commits to the KEK; compared before the key is used.
    pub check: KekCheck,
    /// When it was made, in seconds since the Unix epoch. Not authenticated.
    pub created_at: u64,
    /// When it stopped being primary; 0 if it never did. Not authenticated.
    pub retired_at: u64,
    /// The wrapped copies of its secret, in order of preference.
    pub wraps: Vec<WrappedSecret>,
}

/// Why bytes are not a KEK record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The first bytes are not the magic.
    #[error("not a KEK record")]
    NotARecord,
    /// A record of another version of the format.
    #[error("KEK record version {0} is unknown; a newer release of keystrata may know it")]
    UnknownVersion(u8),
    /// A record of another suite.
    #[error("KEK record of {0}")]
    UnknownSuite(UnknownSuite),
    /// A state this release does not know.
    #[error("KEK record in unknown state {0}")]
    UnknownState(u8),
    /// A wrapper this release does not know.
    #[error("KEK record with a wrapper of unknown kind {0}")]
    UnknownWrapper(u8),
    /// Fields that run past the end, break a limit, or leave bytes over.
    #[error("malformed KEK record: {0}")]
    Malformed(&'static str),
}

impl KekRecord {
    /// Most wrapped copies of one secret.
    pub const MAX_WRAPS: usize = 8;
    /// Most bytes of one wrapped copy.
    pub const MAX_CIPHERTEXT_BYTES: usize = 8 * 1024;
    /// Most bytes of a record: longer ones are refused before they are read.
    pub const MAX_BYTES: usize = 128 * 1024;

    /// The record's bytes.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] if a field breaks its limit or the wraps do not fit the state.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        check_wraps(self.state, self.wraps.len())?;
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(self.identity.suite.to_byte());
        out.push(self.state as u8);
        out.extend_from_slice(&self.identity.version.get().to_le_bytes());
        out.extend_from_slice(self.identity.id.as_bytes());
        out.extend_from_slice(self.check.as_bytes());
        out.extend_from_slice(&self.created_at.to_le_bytes());
        out.extend_from_slice(&self.retired_at.to_le_bytes());
        out.extend_from_slice(self.identity.path.as_bytes());
        wire::put_len(&mut out, self.wraps.len());
        for wrap in &self.wraps {
            match &wrap.wrapper {
                Wrapper::Root(id) => {
                    out.push(1);
                    wire::put_str(&mut out, id.as_str().as_bytes());
                }
                Wrapper::Parent { path, kek_id } => {
                    out.push(2);
                    out.extend_from_slice(path.as_bytes());
                    out.extend_from_slice(kek_id.as_bytes());
                }
            }
            check_ciphertext(wrap.ciphertext.len())?;
            wire::put_str(&mut out, &wrap.ciphertext);
        }
        Ok(out)
    }

    /// Parses a record from a store, which is not trusted: every length is capped before it is believed.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(RecordError::Malformed("it is over 128 KiB long"));
        }
        let mut r = Reader::new(bytes);
        if r.array() != Some(MAGIC) {
            return Err(RecordError::NotARecord);
        }
        let cut = RecordError::Malformed("it is cut short");
        match r.byte() {
            Some(VERSION) => {}
            Some(other) => return Err(RecordError::UnknownVersion(other)),
            None => return Err(cut),
        }
        let suite = Suite::try_from(r.byte().ok_or(cut.clone())?).map_err(RecordError::UnknownSuite)?;
        let state = match r.byte().ok_or(cut.clone())? {
            1 => KekState::Primary,
            2 => KekState::Retired,
            3 => KekState::Disabled,
            4 => KekState::Destroyed,
            other => return Err(RecordError::UnknownState(other)),
        };
        let version = r.u32().ok_or(cut.clone())?;
        let version = KekVersion::new(version).ok_or(RecordError::Malformed("its KEK version is 0"))?;
        let id = KekId::from_bytes(r.array().ok_or(cut.clone())?);
        let check = KekCheck::from_bytes(r.array().ok_or(cut.clone())?);
        let created_at = r.u64().ok_or(cut.clone())?;
        let retired_at = r.u64().ok_or(cut.clone())?;
        let bad_path = RecordError::Malformed("its path is cut short or breaks a limit");
        let path = KeyPath::read(&mut r).ok_or(bad_path)?;
        let count = usize::try_from(r.u32().ok_or(cut)?).unwrap_or(usize::MAX);
        check_wraps(state, count)?;
        let wraps = (0..count).map(|_| read_wrap(&mut r)).collect::<Result<_, _>>()?;
        if !r.rest().is_empty() {
            return Err(RecordError::Malformed("bytes follow its end"));
        }
        Ok(Self { identity: KekIdentity { suite, version, id, path }, state, check, created_at, retired_at, wraps })
    }
}

fn read_wrap(r: &mut Reader<'_>) -> Result<WrappedSecret, RecordError> {
    const CUT: RecordError = RecordError::Malformed("a wrap is cut short or breaks a limit");
    let wrapper = match r.byte().ok_or(CUT)? {
        1 => {
            let id = std::str::from_utf8(r.str(RootKeyId::MAX_BYTES).ok_or(CUT)?)
                .map_err(|_| RecordError::Malformed("a root key id is not UTF-8"))?;
            Wrapper::Root(RootKeyId::new(id).map_err(|_| RecordError::Malformed("a root key id breaks its rules"))?)
        }
        2 => Wrapper::Parent { path: KeyPath::read(r).ok_or(CUT)?, kek_id: KekId::from_bytes(r.array().ok_or(CUT)?) },
        other => return Err(RecordError::UnknownWrapper(other)),
    };
    let ciphertext = r.str(KekRecord::MAX_CIPHERTEXT_BYTES).ok_or(CUT)?;
    check_ciphertext(ciphertext.len())?;
    Ok(WrappedSecret { wrapper, ciphertext: ciphertext.to_vec() })
}

fn check_wraps(state: KekState, count: usize) -> Result<(), RecordError> {
    match (state, count) {
        (KekState::Destroyed, 0) => Ok(()),
        (KekState::Destroyed, _) => Err(RecordError::Malformed("it is destroyed and still holds a wrapped secret")),
        (_, 0) => Err(RecordError::Malformed("it holds no wrapped secret")),
        (_, 1..=KekRecord::MAX_WRAPS) => Ok(()),
        _ => Err(RecordError::Malformed("it holds more than 8 wrapped secrets")),
    }
}

fn check_ciphertext(len: usize) -> Result<(), RecordError> {
    match len {
        1..=KekRecord::MAX_CIPHERTEXT_BYTES => Ok(()),
        _ => Err(RecordError::Malformed("a wrapped secret has no bytes or over 8,192")),
    }
}

//! Sealed envelopes, version 1: a 124-byte header and chunks.
//!
//! ```text
//! offset size
//! 0      3    magic "KS\x01"
//! 3      1    suite
//! 4      16   KEK id
//! 20     24   wrap nonce, random
//! 44     48   wrapped DEK: 32 bytes and a 16-byte tag
//! 92     32   commitment
//! 124    …    chunks
//! ```
//!
//! Every object has a DEK of its own, 32 fresh random bytes, wrapped by the account's KEK. From the DEK, the path and
//! the context come a payload key, a base nonce and a commitment. The commitment is compared before a byte of data is
//! touched, so an envelope opens under one key, one account and one context only.
//!
//! Chunks are the raw mode of C2SP chunked-encryption (<https://c2sp.org/chunked-encryption>): 16 KiB of plaintext and
//! a tag each, nonce = base nonce XOR chunk number, and a last chunk that is always shorter than 16 KiB, possibly
//! empty, so a cut at a chunk's end does not look like an end. `docs/format.md` has every byte.

use std::fmt;

use rand::TryCryptoRng;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    aead::{CHUNK_NONCE_LEN, ChunkCipher, TAG_LEN, WRAP_NONCE_LEN},
    context::{Context, ContextError},
    kdf,
    key::{Kek, KekId, KekIdentity, SecretKey},
    random::{self, RandomnessError},
    suite::{Suite, UnknownSuite},
    wire,
    wrap::{self, WRAPPED_LEN},
};

/// Bytes of a header.
pub const HEADER_LEN: usize = 124;
/// Bytes of plaintext in every chunk but the last, which has fewer.
pub const CHUNK_LEN: usize = 16 * 1024;
/// Most chunks of an envelope, which bounds its plaintext just below 64 TiB.
pub const MAX_CHUNKS: u64 = 1 << 32;
/// Fewest bytes of an envelope: the header and the tag of one empty chunk.
pub const MIN_LEN: usize = HEADER_LEN + TAG_LEN;

const SEALED_CHUNK_LEN: usize = CHUNK_LEN + TAG_LEN;
const MAGIC: [u8; 2] = *b"KS";
const VERSION: u8 = 1;
const COMMITMENT_LEN: usize = 32;
const PAYLOAD_LABEL: &[u8] = b"keystrata v1 payload";
const WRAP_LABEL: &[u8] = b"keystrata v1 dek wrap";

/// Why bytes are not an envelope this release can open. Found without any key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// No bytes at all.
    #[error("the input is empty; expected a Keystrata envelope")]
    Empty,
    /// The first bytes are not the magic.
    #[error("not a Keystrata envelope: it does not begin with \"KS\"")]
    NotAnEnvelope,
    /// An envelope of another version of the format.
    #[error("envelope version {0} is unknown; a newer release of keystrata may know it")]
    UnknownVersion(u8),
    /// An envelope of another suite.
    #[error("envelope of {0}")]
    UnknownSuite(UnknownSuite),
    /// Bytes are missing at the end.
    #[error("the envelope is cut short at {len} bytes; fetch the whole object again")]
    Truncated {
        /// How many bytes there are.
        len: usize,
    },
    /// More chunks than the format allows.
    #[error("the envelope has {len} bytes, more than the format's 2^32 chunks")]
    TooLong {
        /// How many bytes there are.
        len: usize,
    },
}

/// Why sealing failed. Nothing was sealed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The context breaks a rule of its own.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The plaintext needs more than 2³² chunks, or more memory than can be addressed.
    #[error("{len} bytes are too long for one envelope; split the object")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

/// Why an envelope did not open. Nothing of its plaintext is released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes are not an envelope that can be opened at all.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The context breaks a rule of its own.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The envelope is of another suite than the KEK.
    #[error("the envelope is of suite {envelope}, its KEK of suite {kek}")]
    SuiteMismatch {
        /// The envelope's suite.
        envelope: Suite,
        /// The KEK's suite.
        kek: Suite,
    },
    /// Wrong key, account or context, or altered bytes: deliberately one outcome.
    #[error("envelope rejected: wrong account, wrong context or altered bytes")]
    Rejected,
}

/// The header of an envelope, parsed and not authenticated: where to look for its KEK, and how long its data is.
#[derive(Clone, Copy)]
pub struct Header<'a> {
    bytes: &'a [u8; HEADER_LEN],
    suite: Suite,
}

impl<'a> Header<'a> {
    /// Parses the header of a whole envelope, and checks that an envelope can have its length.
    ///
    /// # Errors
    /// [`EnvelopeError`]. No key is needed, and none is looked up before this passes.
    pub fn parse(envelope: &'a [u8]) -> Result<Self, EnvelopeError> {
        let header = Self::parse_start(envelope)?;
        body_layout(envelope.len() - HEADER_LEN).map_err(|bad| match bad {
            BadBody::Truncated => EnvelopeError::Truncated { len: envelope.len() },
            BadBody::TooLong => EnvelopeError::TooLong { len: envelope.len() },
        })?;
        Ok(header)
    }

    /// Parses the first [`HEADER_LEN`] bytes of an envelope of which the rest need not be at hand.
    ///
    /// # Errors
    /// [`EnvelopeError`] if they are no header.
    pub fn parse_start(start: &'a [u8]) -> Result<Self, EnvelopeError> {
        if start.is_empty() {
            return Err(EnvelopeError::Empty);
        }
        // A prefix of the magic is a cut envelope, anything else was never one.
        let seen = start.len().min(MAGIC.len());
        if start[..seen] != MAGIC[..seen] {
            return Err(EnvelopeError::NotAnEnvelope);
        }
        let truncated = EnvelopeError::Truncated { len: start.len() };
        match start.get(2) {
            None => return Err(truncated),
            Some(&VERSION) => {}
            Some(&other) => return Err(EnvelopeError::UnknownVersion(other)),
        }
        let suite = *start.get(3).ok_or(truncated.clone())?;
        let suite = Suite::try_from(suite).map_err(EnvelopeError::UnknownSuite)?;
        let bytes = start.first_chunk().ok_or(truncated)?;
        Ok(Self { bytes, suite })
    }

    /// The format's version.
    pub fn version(&self) -> u8 {
        self.bytes[2]
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Which KEK wraps the DEK.
    pub fn kek_id(&self) -> KekId {
        KekId::from_bytes(self.field(4))
    }

    fn wrapped_dek(&self) -> [u8; WRAPPED_LEN] {
        self.field(20)
    }

    fn commitment(&self) -> [u8; COMMITMENT_LEN] {
        self.field(92)
    }

    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[offset..offset + N]);
        out
    }
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header").field("suite", &self.suite).field("kek_id", &self.kek_id()).finish_non_exhaustive()
    }
}

/// The length of the envelope of `plaintext_len` bytes; `None` if there cannot be one.
pub fn sealed_len(plaintext_len: usize) -> Option<usize> {
    let chunks = plaintext_len / CHUNK_LEN + 1;
    if chunks as u64 > MAX_CHUNKS {
        return None;
    }
    chunks.checked_mul(TAG_LEN)?.checked_add(plaintext_len)?.checked_add(HEADER_LEN)
}

/// The length of the plaintext in an envelope of `envelope_len` bytes; `None` if no envelope has that length.
pub fn plaintext_len(envelope_len: usize) -> Option<usize> {
    body_layout(envelope_len.checked_sub(HEADER_LEN)?).ok()
}

enum BadBody {
    Truncated,
    TooLong,
}

/// The plaintext bytes in `body` bytes of chunks.
fn body_layout(body: usize) -> Result<usize, BadBody> {
    let full = body / SEALED_CHUNK_LEN;
    // The last chunk is shorter than a full one, and never absent: what is over holds at least its tag.
    let last = (body % SEALED_CHUNK_LEN).checked_sub(TAG_LEN).ok_or(BadBody::Truncated)?;
    if full as u64 >= MAX_CHUNKS {
        return Err(BadBody::TooLong);
    }
    Ok(full * CHUNK_LEN + last)
}

/// Seals `plaintext` for the KEK's account, bound to `context`.
///
/// The result has [`sealed_len`] bytes, in one allocation.
///
/// # Errors
/// [`SealError`] for a context that breaks a rule, more than 2³² chunks, or no random bytes.
pub fn seal(kek: &Kek<'_>, context: &Context, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    seal_with(&mut rand::rngs::SysRng, kek, context, plaintext)
}

pub(crate) fn seal_with<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    let context = context.encode()?;
    let len = sealed_len(plaintext.len()).ok_or(SealError::TooLong { len: plaintext.len() })?;
    let identity = kek.identity;

    // One request to the kernel: the DEK and the nonce of its wrap.
    let mut random = Zeroizing::new([0; SecretKey::LEN + WRAP_NONCE_LEN]);
    random::fill_with(rng, &mut *random)?;
    let (dek, nonce) = random.split_first_chunk().expect("56 bytes begin with 32");
    let nonce = nonce.first_chunk().expect("and end with 24");

    let payload = Payload::derive(dek, identity, &context);
    let mut out = vec![0; len];
    let (header, body) = out.split_at_mut(HEADER_LEN);
    header[..2].copy_from_slice(&MAGIC);
    header[2] = VERSION;
    header[3] = identity.suite.to_byte();
    header[4..20].copy_from_slice(identity.id.as_bytes());
    header[20..92].copy_from_slice(&wrap::seal(kek.key, nonce, &wrap_aad(identity), dek));
    header[92..].copy_from_slice(payload.commitment());
    payload.seal_chunks(plaintext, body);
    Ok(out)
}

/// Opens `envelope` and returns its plaintext.
///
/// `context` must hold the pairs it was sealed with. On any failure nothing is returned, and what was already
/// decrypted has been overwritten.
///
/// # Errors
/// - [`OpenError::Envelope`]: not an envelope, of an unknown version or suite, or cut short.
/// - [`OpenError::SuiteMismatch`]: the KEK is of another suite; no cipher ran.
/// - [`OpenError::Rejected`]: wrong KEK, account or context, or altered bytes.
pub fn open(kek: &Kek<'_>, context: &Context, envelope: &[u8]) -> Result<Vec<u8>, OpenError> {
    let header = Header::parse(envelope)?;
    let context = context.encode()?;
    let identity = kek.identity;
    if header.suite != identity.suite {
        return Err(OpenError::SuiteMismatch { envelope: header.suite, kek: identity.suite });
    }
    if header.kek_id() != identity.id {
        return Err(OpenError::Rejected);
    }
    let dek = wrap::open(kek.key, &wrap_aad(identity), &header.wrapped_dek()).map_err(|_| OpenError::Rejected)?;
    let payload = Payload::derive(dek.expose_secret(), identity, &context);
    if !bool::from(payload.commitment().ct_eq(&header.commitment())) {
        return Err(OpenError::Rejected);
    }
    let body = &envelope[HEADER_LEN..];
    let len = body_layout(body.len()).map_err(|_| OpenError::Rejected)?;
    let mut plaintext = vec![0; len];
    if payload.open_chunks(body, &mut plaintext) {
        Ok(plaintext)
    } else {
        plaintext.zeroize();
        Err(OpenError::Rejected)
    }
}

/// `str("keystrata v1 dek wrap") ‖ suite ‖ KEK id ‖ path`
fn wrap_aad(identity: &KekIdentity) -> Vec<u8> {
    let path = identity.path.as_bytes();
    let mut aad = Vec::with_capacity(4 + WRAP_LABEL.len() + 1 + KekId::LEN + path.len());
    wire::put_str(&mut aad, WRAP_LABEL);
    aad.push(identity.suite.to_byte());
    aad.extend_from_slice(identity.id.as_bytes());
    aad.extend_from_slice(path);
    aad
}

/// What one object's chunks are sealed with: `key(32) ‖ base nonce(12) ‖ commitment(32)`.
struct Payload(Zeroizing<[u8; Payload::LEN]>);

impl Payload {
    const LEN: usize = SecretKey::LEN + CHUNK_NONCE_LEN + COMMITMENT_LEN;

    /// `KDF(DEK, str("keystrata v1 payload") ‖ suite ‖ path ‖ context)`
    fn derive(dek: &[u8; 32], identity: &KekIdentity, context: &[u8]) -> Self {
        let mut label = Vec::with_capacity(4 + PAYLOAD_LABEL.len() + 1);
        wire::put_str(&mut label, PAYLOAD_LABEL);
        label.push(identity.suite.to_byte());
        Self(kdf::derive(identity.suite, dek, &[&label, identity.path.as_bytes(), context]))
    }

    fn cipher(&self) -> ChunkCipher {
        ChunkCipher::new(self.0.first_chunk().expect("76 bytes begin with 32"))
    }

    fn commitment(&self) -> &[u8; COMMITMENT_LEN] {
        self.0.last_chunk().expect("76 bytes end with 32")
    }

    /// Base nonce XOR the chunk's number as a 12-byte big-endian integer.
    fn nonce(&self, chunk: u64) -> [u8; CHUNK_NONCE_LEN] {
        let mut nonce = [0; CHUNK_NONCE_LEN];
        nonce.copy_from_slice(&self.0[SecretKey::LEN..SecretKey::LEN + CHUNK_NONCE_LEN]);
        for (byte, number) in nonce[4..].iter_mut().zip(chunk.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    fn seal_chunks(&self, plaintext: &[u8], body: &mut [u8]) {
        let cipher = self.cipher();
        // `chunks` yields no empty last chunk; the format wants one where the length is a multiple of 16 KiB.
        let empty_last = plaintext.len().is_multiple_of(CHUNK_LEN).then_some(&[][..]);
        let chunks = plaintext.chunks(CHUNK_LEN).chain(empty_last);
        for (number, (chunk, out)) in (0..).zip(chunks.zip(body.chunks_mut(SEALED_CHUNK_LEN))) {
            cipher.seal(&self.nonce(number), chunk, out);
        }
    }

    /// Whether every chunk was authentic. `body` and `plaintext` have matching lengths.
    fn open_chunks(&self, body: &[u8], plaintext: &mut [u8]) -> bool {
        let cipher = self.cipher();
        let mut rest = plaintext;
        for (number, chunk) in (0..).zip(body.chunks(SEALED_CHUNK_LEN)) {
            let (out, tail) = rest.split_at_mut(chunk.len() - TAG_LEN);
            rest = tail;
            if cipher.open(&self.nonce(number), chunk, out).is_err() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_agree_both_ways() {
        for len in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 5 * CHUNK_LEN, 5 * CHUNK_LEN + 7] {
            assert_eq!(plaintext_len(sealed_len(len).unwrap()), Some(len));
        }
        assert_eq!(sealed_len(64), Some(204));
        assert_eq!(plaintext_len(HEADER_LEN + TAG_LEN - 1), None);
        assert_eq!(plaintext_len(HEADER_LEN + SEALED_CHUNK_LEN), None, "a full chunk is never the last");
        assert_eq!(plaintext_len(HEADER_LEN + SEALED_CHUNK_LEN + 15), None);
        assert_eq!(sealed_len(usize::MAX), None);
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_chunk_limit_is_exact() {
        let most = (1 << 32) * CHUNK_LEN - 1;
        let sealed = sealed_len(most).unwrap();
        assert_eq!(plaintext_len(sealed), Some(most));
        assert_eq!(sealed_len(most + 1), None);
        assert_eq!(plaintext_len(sealed + 1 + TAG_LEN), None);
    }
}

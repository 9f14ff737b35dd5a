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

mod header;
mod payload;

use rand::TryCryptoRng;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

pub use self::header::{CHUNK_LEN, EnvelopeError, HEADER_LEN, Header, MAX_CHUNKS, MIN_LEN, plaintext_len, sealed_len};
use self::{
    header::{MAGIC, VERSION},
    payload::Payload,
};
use crate::{
    aead::WRAP_NONCE_LEN,
    context::{Context, ContextError},
    kek::{Kek, KekId, KekIdentity},
    key::SecretKey,
    random::{self, RandomnessError},
    suite::Suite,
    wire, wrap,
};

const WRAP_LABEL: &[u8] = b"keystrata v1 dek wrap";

/// Why sealing failed. Nothing was sealed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The context breaks a rule of its own.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The plaintext is longer than the form it is sealed to allows, or than the result could be in memory.
    #[error("{len} bytes are too long to be sealed as one object; split it")]
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
    #[error(
        "the envelope is of suite {envelope}, its KEK of suite {kek}: the KEK's record is not the one it was sealed under"
    )]
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

    let mut payload = Payload::zeroed();
    payload.derive(dek, identity, &context);
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
    if header.suite() != identity.suite {
        return Err(OpenError::SuiteMismatch { envelope: header.suite(), kek: identity.suite });
    }
    if header.kek_id() != identity.id {
        return Err(OpenError::Rejected);
    }
    let dek = wrap::open(kek.key, &wrap_aad(identity), &header.wrapped_dek()).map_err(|_| OpenError::Rejected)?;
    let mut payload = Payload::zeroed();
    payload.derive(dek.expose_secret(), identity, &context);
    if !bool::from(payload.commitment().ct_eq(&header.commitment())) {
        return Err(OpenError::Rejected);
    }
    let mut plaintext = vec![0; plaintext_len(envelope.len()).ok_or(OpenError::Rejected)?];
    if payload.open_chunks(&envelope[HEADER_LEN..], &mut plaintext) {
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

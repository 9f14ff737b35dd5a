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
//! the context come a payload key and a commitment. The commitment is compared before a byte of data is touched, so an
//! envelope opens under one key, one account and one context only.
//!
//! Chunks are the raw mode of C2SP chunked-encryption (<https://c2sp.org/chunked-encryption>): 16 KiB of plaintext and
//! a tag each, the chunk's number as the nonce, and a last chunk that is always shorter than 16 KiB, possibly
//! empty, so a cut at a chunk's end does not look like an end. `docs/format.md` has every byte.
//!
//! # Ways in
//!
//! One format, whichever of these wrote it:
//!
//! - [`seal`] and [`open`] return bytes, in one allocation;
//! - [`seal_into`], [`seal_in_place`] and [`open_in_place`] work on the caller's buffers and allocate nothing;
//! - [`Sealer`] is a [`Write`](std::io::Write), [`Opener`] a [`Read`](std::io::Read) and [`Seek`](std::io::Seek), both in
//!   constant memory; with the feature `tokio` there are `AsyncSealer` and `AsyncOpener`;
//! - [`open_range`] and [`open_range_from`] open a part, and touch only its chunks;
//! - [`rewrap`](rewrap()) and [`rewrap_file`](rewrap_file()) put an object under another KEK without its data;
//! - [`to_text`] and [`from_text`] are for places that hold only text.
//!
//! (What allocates nothing may still cost an allocation in AWS-LC's own heap, where it keeps a cipher's key schedule.)
//!
//! ```
//! # use keystrata_primitives::{Context, KekId, KekIdentity, KekVersion, KeyPath, SecretKey, Suite};
//! use std::io::{Cursor, Read, Seek, SeekFrom, Write};
//! use keystrata_primitives::envelope::{Opener, Sealer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let secret = SecretKey::generate()?;
//! # let identity = KekIdentity {
//! #     suite: Suite::default(), version: KekVersion::FIRST, id: KekId::generate()?, path: KeyPath::account("acme")?,
//! # };
//! # let derived = identity.derive(&secret);
//! # let kek = derived.kek(&identity);
//! let context = Context::new().with("backup", "2026-05-01");
//! let mut sealer = Sealer::new(&kek, &context, Vec::new())?;
//! sealer.write_all(b"line 1\nline 2\n")?;
//! let envelope = sealer.finish()?; // without it, what was written does not open
//!
//! let mut opener = Opener::new(&kek, &context, Cursor::new(envelope))?;
//! opener.seek(SeekFrom::End(-7))?;
//! let mut tail = String::new();
//! opener.read_to_string(&mut tail)?;
//! assert_eq!(tail, "line 2\n");
//! # Ok(())
//! # }
//! ```

mod header;
mod object_key;
mod payload;
mod rewrap;
mod rewrap_file;
mod start;
mod stream;
mod text;

use rand::TryCryptoRng;
use zeroize::Zeroize;

pub use self::header::{CHUNK_LEN, EnvelopeError, HEADER_LEN, Header, MAX_CHUNKS, MIN_LEN, plaintext_len, sealed_len};
pub(crate) use self::rewrap::rewrap_with;
#[cfg(feature = "tokio")]
pub use self::stream::{AsyncOpener, AsyncSealer, read_header_async};
pub use self::{
    object_key::ObjectKey,
    rewrap::{RewrapError, rewrap},
    rewrap_file::{EnvelopeFile, FileRecovery, FileRewrap, RewrapFileError, recover_file, rewrap_file},
    stream::{Opener, Sealer, StreamError, open_range, open_range_from, read_header},
    text::{TEXT_PREFIX, TextError, from_text, to_text},
};
use crate::{
    context::{Context, ContextError},
    kek::Kek,
    random::{KernelRng, RandomnessError},
    suite::Suite,
};

/// Why sealing failed. Nothing was sealed.
///
/// Not `non_exhaustive`: what seals on behalf of others passes each case on, and is to notice a new one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SealError {
    /// The context breaks a rule of its own.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The plaintext has more than 2³² chunks, or the result could not be in memory.
    #[error("{len} bytes are too long to be sealed as one object; split it")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

/// Why sealing into a buffer of the caller's failed. Nothing was sealed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealIntoError {
    /// It would have failed with any buffer.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The output is not as long as the envelope.
    #[error("the output has {len} bytes and the envelope {needed}; make it as long as `sealed_len` says")]
    OutputLength {
        /// How many bytes the output has.
        len: usize,
        /// How many it needs.
        needed: usize,
    },
    /// A buffer to be sealed in place that has the length of no envelope.
    #[error("no envelope has the {len} bytes of this buffer; make it as long as `sealed_len` says")]
    BufferLength {
        /// How many bytes the buffer has.
        len: usize,
    },
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
    /// A range that ends before it begins.
    #[error("the range {start}..{end} ends before it begins")]
    InvertedRange {
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
    },
    /// Wrong key, account or context, or altered bytes: deliberately one outcome.
    #[error("envelope rejected: wrong account, wrong context or altered bytes")]
    Rejected,
}

/// Seals `plaintext` for the KEK's account, bound to `context`.
///
/// The result has [`sealed_len`] bytes, and is the only allocation.
///
/// # Errors
/// [`SealError`] for a context that breaks a rule, more than 2³² chunks, or no random bytes.
pub fn seal(kek: &Kek<'_>, context: &Context, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    seal_with(&mut KernelRng, kek, context, plaintext)
}

pub(crate) fn seal_with<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    let context = context.as_bytes()?;
    let mut out = vec![0; needed_len(plaintext)?];
    seal_whole(rng, kek, context, plaintext, &mut out)?;
    Ok(out)
}

/// Seals `plaintext` into `out`, which must have exactly [`sealed_len`] bytes. Allocates nothing.
///
/// # Errors
/// [`SealIntoError::Seal`] as [`seal`], and [`SealIntoError::OutputLength`] for an output of another length. On any
/// failure `out` is zero throughout.
pub fn seal_into(kek: &Kek<'_>, context: &Context, plaintext: &[u8], out: &mut [u8]) -> Result<(), SealIntoError> {
    seal_into_with(&mut KernelRng, kek, context, plaintext, out)
}

pub(crate) fn seal_into_with<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    plaintext: &[u8],
    out: &mut [u8],
) -> Result<(), SealIntoError> {
    let sealed = try_seal_into(rng, kek, context, plaintext, out);
    if sealed.is_err() {
        out.fill(0);
    }
    sealed
}

fn try_seal_into<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    plaintext: &[u8],
    out: &mut [u8],
) -> Result<(), SealIntoError> {
    let context = context.as_bytes().map_err(SealError::Context)?;
    let needed = needed_len(plaintext)?;
    if out.len() != needed {
        return Err(SealIntoError::OutputLength { len: out.len(), needed });
    }
    Ok(seal_whole(rng, kek, context, plaintext, out).map_err(SealError::Randomness)?)
}

/// `out` has the length of the envelope.
fn seal_whole<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) -> Result<(), RandomnessError> {
    let (header, body) = out.split_first_chunk_mut().expect("an envelope begins with its header");
    start::begin(rng, kek, context, header)?.seal_all(plaintext, body);
    Ok(())
}

fn needed_len(plaintext: &[u8]) -> Result<usize, SealError> {
    sealed_len(plaintext.len()).ok_or(SealError::TooLong { len: plaintext.len() })
}

/// Seals the plaintext that is in `buffer`, where it is. Allocates nothing.
///
/// `buffer` has [`sealed_len`] bytes, of which those from [`HEADER_LEN`] on are the plaintext: where
/// [`open_in_place`] leaves it. Afterwards all of `buffer` is the envelope.
///
/// # Errors
/// [`SealIntoError::Seal`] as [`seal`], and [`SealIntoError::BufferLength`] if no envelope has the length of `buffer`. On
/// any failure `buffer` is as it was.
pub fn seal_in_place(kek: &Kek<'_>, context: &Context, buffer: &mut [u8]) -> Result<(), SealIntoError> {
    seal_in_place_with(&mut KernelRng, kek, context, buffer)
}

pub(crate) fn seal_in_place_with<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    buffer: &mut [u8],
) -> Result<(), SealIntoError> {
    let context = context.as_bytes().map_err(SealError::Context)?;
    let len = plaintext_len(buffer.len()).ok_or(SealIntoError::BufferLength { len: buffer.len() })?;
    let (header, body) = buffer.split_first_chunk_mut().expect("an envelope begins with its header");
    start::begin(rng, kek, context, header).map_err(SealError::Randomness)?.seal_all_in_place(len, body);
    Ok(())
}

/// Opens `envelope` and returns its plaintext, which is the only allocation.
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
    let chunks = start::resume(kek, context.as_bytes()?, &header)?;
    let mut plaintext = vec![0; plaintext_len(envelope.len()).ok_or(OpenError::Rejected)?];
    chunks.open_all(&envelope[HEADER_LEN..], &mut plaintext).map_err(|_| {
        plaintext.zeroize();
        OpenError::Rejected
    })?;
    Ok(plaintext)
}

/// Opens the envelope in `buffer` where it is, and returns the part of `buffer` that is now its plaintext: what begins
/// at [`HEADER_LEN`]. Allocates nothing.
///
/// # Errors
/// As [`open`]. On any failure, even one found without a key, `buffer` is zero throughout; look at a header first with
/// [`Header::parse`] if the envelope would still be needed.
pub fn open_in_place<'a>(kek: &Kek<'_>, context: &Context, buffer: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
    match try_open_in_place(kek, context, buffer) {
        Ok(len) => Ok(&mut buffer[HEADER_LEN..HEADER_LEN + len]),
        Err(error) => {
            buffer.zeroize();
            Err(error)
        }
    }
}

fn try_open_in_place(kek: &Kek<'_>, context: &Context, buffer: &mut [u8]) -> Result<usize, OpenError> {
    let header = Header::parse(buffer)?;
    let chunks = start::resume(kek, context.as_bytes()?, &header)?;
    let len = plaintext_len(buffer.len()).ok_or(OpenError::Rejected)?;
    chunks.open_all_in_place(&mut buffer[HEADER_LEN..]).map_err(|_| OpenError::Rejected)?;
    Ok(len)
}

//! The header of an envelope, and the lengths an envelope can have: all that is known without a key.

use std::fmt;

use crate::{
    aead::TAG_LEN,
    kek::KekId,
    suite::{Suite, UnknownSuite},
    wrap::WRAPPED_LEN,
};

/// Bytes of a header.
pub const HEADER_LEN: usize = 124;
/// Bytes of plaintext in every chunk but the last, which has fewer.
pub const CHUNK_LEN: usize = 16 * 1024;
/// Most chunks of an envelope, which bounds its plaintext just below 64 TiB.
pub const MAX_CHUNKS: u64 = 1 << 32;
/// Fewest bytes of an envelope: the header and the tag of one empty chunk.
pub const MIN_LEN: usize = HEADER_LEN + TAG_LEN;

pub(super) const SEALED_CHUNK_LEN: usize = CHUNK_LEN + TAG_LEN;
pub(super) const MAGIC: [u8; 2] = *b"KS";
pub(super) const VERSION: u8 = 1;
pub(super) const COMMITMENT_LEN: usize = 32;

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

    pub(super) fn wrapped_dek(&self) -> [u8; WRAPPED_LEN] {
        self.field(20)
    }

    pub(super) fn commitment(&self) -> [u8; COMMITMENT_LEN] {
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

/// The length of the envelope of `plaintext_len` bytes; `None` if there cannot be one, in the format or in memory.
pub fn sealed_len(plaintext_len: usize) -> Option<usize> {
    let chunks = plaintext_len / CHUNK_LEN + 1;
    if chunks as u64 > MAX_CHUNKS {
        return None;
    }
    let len = chunks.checked_mul(TAG_LEN)?.checked_add(plaintext_len)?.checked_add(HEADER_LEN)?;
    // No allocation is longer: asking a `Vec` for more panics.
    isize::try_from(len).is_ok().then_some(len)
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

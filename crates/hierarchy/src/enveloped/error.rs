//! What can go wrong with the two-level form.

use keystrata_primitives::{RandomnessError, simple::SimpleSealError};

use crate::{
    error::{OpenError, SealError},
    root::RootKeyError,
};

/// Why the two-level form did not seal, open, rewrap or rekey.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopedError {
    /// A root key did not do its part. [`RootKeyError::Rejected`] if none of them wrapped this data key.
    #[error(transparent)]
    Root(#[from] RootKeyError),
    /// The text is not two parts of base64 with a full stop between.
    #[error("not a sealed text: expected base64(wrapped key).base64(data)")]
    Malformed,
    /// Wrong key or altered bytes, deliberately not told apart.
    #[error("sealed text rejected: wrong key or altered bytes")]
    Rejected,
    /// The plaintext is longer than the cipher can seal in one piece, or than the text could be in memory.
    #[error("{len} bytes are too long to be sealed as one text; split the data")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

impl EnvelopedError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Root(error) if error.is_retryable())
    }
}

impl From<SimpleSealError> for EnvelopedError {
    fn from(error: SimpleSealError) -> Self {
        match error {
            SimpleSealError::TooLong { len } => Self::TooLong { len },
            SimpleSealError::Randomness(error) => Self::Randomness(error),
        }
    }
}

/// Why an object was not moved between the two-level form and envelopes. What it was moved from still holds.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The text did not open, or none could be made.
    #[error(transparent)]
    Text(#[from] EnvelopedError),
    /// The envelope did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No envelope could be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// What was made opens to something else than what it was made from, so it is not handed out.
    #[error("what was sealed anew opens to other bytes, so it was dropped; this machine's memory may be faulty")]
    NotVerified,
}

//! Rewrap: the same DEK under another KEK, in 124 new header bytes.

use rand::TryCryptoRng;
use subtle::ConstantTimeEq;

use super::{
    OpenError,
    header::{EnvelopeError, HEADER_LEN, Header},
    start,
};
use crate::{
    aead::WRAP_NONCE_LEN,
    kek::Kek,
    path::KeyPath,
    random::{self, KernelRng, RandomnessError},
    suite::Suite,
    wipe::Wiped,
};

/// Why a header was not rewrapped. The old one still holds.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewrapError {
    /// The bytes are not the header of an envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The header is of another suite than the old KEK.
    #[error("the header is of suite {header}, the old KEK of suite {kek}: look the KEK up by the header's KEK id")]
    SuiteMismatch {
        /// The header's suite.
        header: Suite,
        /// The old KEK's suite.
        kek: Suite,
    },
    /// The new KEK is of another suite, which would change how the chunks are read.
    #[error("a rewrap keeps suite {old} and the new KEK is of suite {new}; seal the data again to change its suite")]
    NewSuite {
        /// The old KEK's suite.
        old: Suite,
        /// The new KEK's suite.
        new: Suite,
    },
    /// The new KEK is another account's, under whose path the object would never open.
    #[error("the old KEK belongs to {old} and the new one to {new}; to move an object between accounts, seal it again")]
    OtherAccount {
        /// Whose key the old KEK is.
        old: KeyPath,
        /// Whose key the new KEK is.
        new: KeyPath,
    },
    /// The header does not open under the old KEK: wrong key or altered bytes, deliberately not told apart.
    #[error("header rejected: it does not open under the old KEK")]
    Rejected,
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// The new header did not open to the same DEK, so it is not handed out.
    #[error("the new header does not open again, so the old one was kept; this machine's memory may be faulty")]
    NotVerified,
}

/// Wraps the DEK in `header` under `new` instead of `old`, and returns the new header.
///
/// It has a new KEK id, wrap nonce and wrapped DEK, and was opened again before it is returned. Suite and commitment
/// stay, and chunks are not needed: they stay as they are. No context is needed either, so a rewrap cannot tell whether
/// the chunks still open. `old` and `new` may be the same KEK.
///
/// # Storing the result
/// Only if the stored header is still `header`: an SQL `WHERE` on the old bytes, an object store's `ETag`. Overwriting
/// unconditionally can lose the object for ever:
///
/// - a *lost update*: between the read and the write somebody else stores another object in this place. Its chunks then
///   stand behind a header that wraps the DEK of the one before;
/// - a *torn write*: the machine stops when some of the 124 bytes are new and some are old. The DEK is then wrapped by
///   neither, and no other copy of it exists.
///
/// For files, [`rewrap_file`](super::rewrap_file()) keeps a journal against both. Rewrapping protects data only once the
/// old KEK version is destroyed, since the old header still opens under it wherever it was copied to; after a leaked
/// KEK the data needs a new DEK.
///
/// # Errors
/// [`RewrapError`]; nothing has changed then.
pub fn rewrap(old: &Kek<'_>, new: &Kek<'_>, header: &[u8; HEADER_LEN]) -> Result<[u8; HEADER_LEN], RewrapError> {
    rewrap_with(&mut KernelRng, old, new, header)
}

pub(crate) fn rewrap_with<R: TryCryptoRng>(
    rng: &mut R,
    old: &Kek<'_>,
    new: &Kek<'_>,
    header: &[u8; HEADER_LEN],
) -> Result<[u8; HEADER_LEN], RewrapError> {
    let parsed = Header::parse_start(header)?;
    let (from, to) = (old.identity, new.identity);
    if to.suite != from.suite {
        return Err(RewrapError::NewSuite { old: from.suite, new: to.suite });
    }
    if to.path != from.path {
        return Err(RewrapError::OtherAccount { old: from.path.clone(), new: to.path.clone() });
    }
    let mut dek = Wiped::zeroed();
    start::unwrap_dek(old, &parsed, &mut dek).map_err(|error| match error {
        OpenError::SuiteMismatch { envelope, kek } => RewrapError::SuiteMismatch { header: envelope, kek },
        _ => RewrapError::Rejected,
    })?;

    let mut nonce = [0; WRAP_NONCE_LEN];
    random::fill_with(rng, &mut nonce)?;
    let mut rewrapped = *header;
    rewrapped[4..20].copy_from_slice(to.id.as_bytes());
    rewrapped[20..92].copy_from_slice(&start::wrap_dek(new, &nonce, &dek));

    let mut again = Wiped::zeroed();
    let opened = Header::parse_start(&rewrapped).map_err(OpenError::Envelope);
    let opened = opened.and_then(|parsed| start::unwrap_dek(new, &parsed, &mut again));
    if opened.is_ok() && bool::from(again.ct_eq(&*dek)) { Ok(rewrapped) } else { Err(RewrapError::NotVerified) }
}

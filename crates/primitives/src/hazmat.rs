//! Sealing with random bytes that the caller chooses: for test vectors and for nothing else.
//!
//! A DEK or nonce used twice gives the plaintext away. Nothing in production may call into this module.

use std::io::Write;

use rand::TryCryptoRng;

use crate::{
    context::Context,
    envelope::{self, HEADER_LEN, RewrapError, SealError, SealIntoError, Sealer},
    kek::{Kek, KekIdentity},
    key::SecretKey,
    random::RandomnessError,
    simple::{self, SimpleSealError},
    wrap::{self, WRAPPED_LEN},
};

/// [`envelope::seal`] with the DEK and the wrap nonce taken from `rng` (32 and 24 bytes, in one request).
///
/// # Errors
/// As [`envelope::seal`].
pub fn seal_envelope_with_rng<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    envelope::seal_with(rng, kek, context, plaintext)
}

/// [`envelope::seal_into`] with the DEK and the wrap nonce taken from `rng`.
///
/// # Errors
/// As [`envelope::seal_into`].
pub fn seal_envelope_into_with_rng<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    plaintext: &[u8],
    out: &mut [u8],
) -> Result<(), SealIntoError> {
    envelope::seal_into_with(rng, kek, context, plaintext, out)
}

/// [`envelope::seal_in_place`] with the DEK and the wrap nonce taken from `rng`.
///
/// # Errors
/// As [`envelope::seal_in_place`].
pub fn seal_envelope_in_place_with_rng<R: TryCryptoRng>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    buffer: &mut [u8],
) -> Result<(), SealIntoError> {
    envelope::seal_in_place_with(rng, kek, context, buffer)
}

/// [`Sealer::new`] with the DEK and the wrap nonce taken from `rng`.
///
/// # Errors
/// As [`Sealer::new`].
pub fn sealer_with_rng<R: TryCryptoRng, W: Write>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    inner: W,
) -> Result<Sealer<W>, SealError> {
    Sealer::with_rng(rng, kek, context, inner)
}

/// [`AsyncSealer::new`](envelope::AsyncSealer::new) with the DEK and the wrap nonce taken from `rng`.
///
/// # Errors
/// As [`AsyncSealer::new`](envelope::AsyncSealer::new).
#[cfg(feature = "tokio")]
pub fn async_sealer_with_rng<R: TryCryptoRng, W: tokio::io::AsyncWrite + Unpin>(
    rng: &mut R,
    kek: &Kek<'_>,
    context: &Context,
    inner: W,
) -> Result<envelope::AsyncSealer<W>, SealError> {
    envelope::AsyncSealer::with_rng(rng, kek, context, inner)
}

/// [`envelope::rewrap`] with the wrap nonce (24 bytes) taken from `rng`.
///
/// # Errors
/// As [`envelope::rewrap`].
pub fn rewrap_with_rng<R: TryCryptoRng>(
    rng: &mut R,
    old: &Kek<'_>,
    new: &Kek<'_>,
    header: &[u8; HEADER_LEN],
) -> Result<[u8; HEADER_LEN], RewrapError> {
    envelope::rewrap_with(rng, old, new, header)
}

/// [`wrap::wrap_child`] with the nonce taken from `rng`.
///
/// # Errors
/// As [`wrap::wrap_child`].
pub fn wrap_child_with_rng<R: TryCryptoRng>(
    rng: &mut R,
    parent: &Kek<'_>,
    child: &KekIdentity,
    secret: &SecretKey,
) -> Result<[u8; WRAPPED_LEN], RandomnessError> {
    wrap::wrap_child_with(rng, parent, child, secret)
}

/// [`simple::seal`] with a given nonce.
///
/// # Errors
/// As [`simple::seal`].
pub fn seal_simple_with_nonce(key: &SecretKey, nonce: &[u8; 24], plaintext: &[u8]) -> Result<Vec<u8>, SimpleSealError> {
    simple::seal_with_nonce(key, nonce, plaintext)
}

/// [`simple::aes256_gcm::seal`] with a given nonce.
///
/// # Errors
/// As [`simple::aes256_gcm::seal`].
pub fn seal_simple_aes256_gcm_with_nonce(
    key: &SecretKey,
    nonce: &[u8; 12],
    plaintext: &[u8],
) -> Result<Vec<u8>, SimpleSealError> {
    simple::aes256_gcm::seal_with_nonce(key, nonce, plaintext)
}

/// A key taken from `rng`.
///
/// # Errors
/// [`RandomnessError`] if `rng` fails.
pub fn generate_key_with_rng<R: TryCryptoRng>(rng: &mut R) -> Result<SecretKey, RandomnessError> {
    SecretKey::generate_with(rng)
}

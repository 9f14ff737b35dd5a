//! Sealing with random bytes that the caller chooses: for test vectors and for nothing else.
//!
//! A DEK or nonce used twice gives the plaintext away. Nothing in production may call into this module.

use rand::TryCryptoRng;

use crate::{
    context::Context,
    envelope::{self, SealError},
    key::{Kek, SecretKey},
    random::RandomnessError,
    simple,
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

/// [`simple::seal`] with a given nonce.
pub fn seal_simple_with_nonce(key: &SecretKey, nonce: &[u8; 24], plaintext: &[u8]) -> Vec<u8> {
    simple::seal_with_nonce(key, nonce, plaintext)
}

/// A key taken from `rng`.
///
/// # Errors
/// [`RandomnessError`] if `rng` fails.
pub fn generate_key_with_rng<R: TryCryptoRng>(rng: &mut R) -> Result<SecretKey, RandomnessError> {
    SecretKey::generate_with(rng)
}

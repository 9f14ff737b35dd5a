//! The plain form `nonce(24) ‖ ciphertext ‖ tag(16)`: XChaCha20-Poly1305 under one key, without additional data.
//!
//! It binds nothing but the key: no account, no context, no key id. It is here for data that other programs write and
//! read this way (Go's `chacha20poly1305.NewX`, with the nonce put in front); use [`envelope`](crate::envelope) for
//! anything new.

use secrecy::ExposeSecret;

use crate::{
    aead::{self, TAG_LEN, WRAP_NONCE_LEN},
    key::SecretKey,
    random::{self, RandomnessError},
};

/// Bytes that sealing adds.
pub const OVERHEAD: usize = WRAP_NONCE_LEN + TAG_LEN;

/// Wrong key or altered bytes, deliberately not told apart; or fewer than 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes rejected: wrong key or altered bytes")]
pub struct SimpleRejected;

/// Seals `plaintext` under `key` with a random nonce.
///
/// # Errors
/// [`RandomnessError`] if the operating system gives no nonce.
pub fn seal(key: &SecretKey, plaintext: &[u8]) -> Result<Vec<u8>, RandomnessError> {
    let mut nonce = [0; WRAP_NONCE_LEN];
    random::fill(&mut nonce)?;
    Ok(seal_with_nonce(key, &nonce, plaintext))
}

pub(crate) fn seal_with_nonce(key: &SecretKey, nonce: &[u8; WRAP_NONCE_LEN], plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; OVERHEAD + plaintext.len()];
    let (nonce_out, body) = sealed.split_at_mut(WRAP_NONCE_LEN);
    nonce_out.copy_from_slice(nonce);
    aead::xchacha_seal(key.expose_secret(), nonce, &[], plaintext, body);
    sealed
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`SimpleRejected`] for another key, altered bytes or fewer than 40 bytes.
pub fn open(key: &SecretKey, sealed: &[u8]) -> Result<Vec<u8>, SimpleRejected> {
    let (nonce, body) = sealed.split_first_chunk().ok_or(SimpleRejected)?;
    let len = body.len().checked_sub(TAG_LEN).ok_or(SimpleRejected)?;
    let mut plaintext = vec![0; len];
    aead::xchacha_open(key.expose_secret(), nonce, &[], body, &mut plaintext).map_err(|_| SimpleRejected)?;
    Ok(plaintext)
}

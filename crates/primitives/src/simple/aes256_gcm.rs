//! The plain form `nonce(12) ‖ ciphertext ‖ tag(16)`: AES-256-GCM under one key, without additional data.
//!
//! As Go's `cipher.NewGCM` seals with the nonce put in front. It binds nothing but the key, and 12 random bytes are few:
//! seal at most 2³² objects under one key, or two nonces meet and both their plaintexts and the key's authenticity are
//! given away. [`envelope`](crate::envelope) has no such limit.

use secrecy::ExposeSecret;

use super::{SimpleRejected, SimpleSealError, sealed_len};
use crate::{
    aead::{CHUNK_NONCE_LEN, ChunkCipher, TAG_LEN},
    key::SecretKey,
    random,
    suite::Suite,
};

const SUITE: Suite = Suite::Aes256Gcm;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = CHUNK_NONCE_LEN + TAG_LEN;

/// Seals `plaintext` under `key` with a random nonce.
///
/// # Errors
/// - [`SimpleSealError::TooLong`]: over 68,719,476,704 bytes (64 GiB), which is as far as the cipher counts.
/// - [`SimpleSealError::Randomness`]: the operating system gives no nonce.
pub fn seal(key: &SecretKey, plaintext: &[u8]) -> Result<Vec<u8>, SimpleSealError> {
    let mut nonce = [0; CHUNK_NONCE_LEN];
    random::fill(&mut nonce)?;
    seal_with_nonce(key, &nonce, plaintext)
}

pub(crate) fn seal_with_nonce(
    key: &SecretKey,
    nonce: &[u8; CHUNK_NONCE_LEN],
    plaintext: &[u8],
) -> Result<Vec<u8>, SimpleSealError> {
    let mut sealed = vec![0; sealed_len(SUITE, OVERHEAD, plaintext.len())?];
    let (nonce_out, body) = sealed.split_at_mut(CHUNK_NONCE_LEN);
    nonce_out.copy_from_slice(nonce);
    ChunkCipher::new(SUITE, key.expose_secret()).seal(nonce, plaintext, body);
    Ok(sealed)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`SimpleRejected`] for another key, altered bytes or fewer than 28 bytes.
pub fn open(key: &SecretKey, sealed: &[u8]) -> Result<Vec<u8>, SimpleRejected> {
    let (nonce, body) = sealed.split_first_chunk().ok_or(SimpleRejected)?;
    let len = body.len().checked_sub(TAG_LEN).ok_or(SimpleRejected)?;
    let mut plaintext = vec![0; len];
    ChunkCipher::new(SUITE, key.expose_secret()).open(nonce, body, &mut plaintext).map_err(|_| SimpleRejected)?;
    Ok(plaintext)
}

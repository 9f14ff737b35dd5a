//! The plain form `nonce(24) ‖ ciphertext ‖ tag(16)`: XChaCha20-Poly1305 under one key, without additional data.
//!
//! It binds nothing but the key: no account, no context, no key id. It is here for data that other programs write and
//! read this way (Go's `chacha20poly1305.NewX`, with the nonce put in front); use [`envelope`](crate::envelope) for
//! anything new. [`aes256_gcm`] is the same with that cipher.

pub mod aes256_gcm;

use secrecy::ExposeSecret;

use crate::{
    aead::{self, TAG_LEN, WRAP_NONCE_LEN},
    envelope::SealError,
    key::SecretKey,
    random,
    suite::Suite,
};

const SUITE: Suite = Suite::XChaCha20Poly1305;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = WRAP_NONCE_LEN + TAG_LEN;

/// Wrong key or altered bytes, deliberately not told apart; or too few bytes to hold nonce and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes rejected: wrong key or altered bytes")]
pub struct SimpleRejected;

/// Seals `plaintext` under `key` with a random nonce.
///
/// # Errors
/// - [`SealError::TooLong`]: over 274,877,906,879 bytes (256 GiB), which is as far as the cipher counts.
/// - [`SealError::Randomness`]: the operating system gives no nonce.
pub fn seal(key: &SecretKey, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; WRAP_NONCE_LEN];
    random::fill(&mut nonce)?;
    seal_with_nonce(key, &nonce, plaintext)
}

/// The length of `plaintext_len` bytes once sealed; an error if there are more than the cipher or the memory can take.
fn sealed_len(suite: Suite, overhead: usize, plaintext_len: usize) -> Result<usize, SealError> {
    let fits = |len: &usize| plaintext_len as u64 <= aead::max_input_len(suite) && isize::try_from(*len).is_ok();
    plaintext_len.checked_add(overhead).filter(fits).ok_or(SealError::TooLong { len: plaintext_len })
}

pub(crate) fn seal_with_nonce(
    key: &SecretKey,
    nonce: &[u8; WRAP_NONCE_LEN],
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut sealed = vec![0; sealed_len(SUITE, OVERHEAD, plaintext.len())?];
    let (nonce_out, body) = sealed.split_at_mut(WRAP_NONCE_LEN);
    nonce_out.copy_from_slice(nonce);
    aead::wrap_seal(SUITE, key.expose_secret(), nonce, &[], plaintext, body);
    Ok(sealed)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`SimpleRejected`] for another key, altered bytes or fewer than 40 bytes.
pub fn open(key: &SecretKey, sealed: &[u8]) -> Result<Vec<u8>, SimpleRejected> {
    let (nonce, body) = sealed.split_first_chunk().ok_or(SimpleRejected)?;
    let len = body.len().checked_sub(TAG_LEN).ok_or(SimpleRejected)?;
    let mut plaintext = vec![0; len];
    aead::wrap_open(SUITE, key.expose_secret(), nonce, &[], body, &mut plaintext).map_err(|_| SimpleRejected)?;
    Ok(plaintext)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let key = SecretKey::from_slice(&[1; 32]).unwrap();
        for len in [0, 1, 63, 64, 65, 100_000] {
            let plaintext = vec![7; len];
            let sealed = seal(&key, &plaintext).unwrap();
            assert_eq!(sealed.len(), len + OVERHEAD);
            assert_eq!(open(&key, &sealed), Ok(plaintext));
        }
        let sealed = seal(&key, b"four").unwrap();
        assert_eq!(open(&SecretKey::from_slice(&[2; 32]).unwrap(), &sealed), Err(SimpleRejected));
        for cut in 0..sealed.len() {
            assert_eq!(open(&key, &sealed[..cut]), Err(SimpleRejected), "cut at {cut}");
        }
        for bit in 0..8 * sealed.len() {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key, &flipped), Err(SimpleRejected), "bit {bit}");
        }
    }

    #[test]
    fn two_seals_of_one_plaintext_differ() {
        let key = SecretKey::from_slice(&[1; 32]).unwrap();
        assert_ne!(seal(&key, b"same").unwrap(), seal(&key, b"same").unwrap());
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn more_than_the_cipher_can_count_is_refused_before_it_runs() {
        let sealed_len = |len| sealed_len(SUITE, OVERHEAD, len).ok();
        assert_eq!(sealed_len(274_877_906_879), Some(274_877_906_919));
        assert_eq!(sealed_len(274_877_906_880), None);
        assert_eq!(sealed_len(usize::MAX), None);
    }
}

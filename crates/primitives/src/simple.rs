//! The plain form `nonce(24) ‖ ciphertext ‖ tag(16)`: XChaCha20-Poly1305 under one key, without additional data.
//!
//! It binds nothing but the key: no account, no context, no key id. It is here for data that other programs write and
//! read this way (Go's `chacha20poly1305.NewX`, with the nonce put in front); use [`envelope`](crate::envelope) for
//! anything new. [`aes256_gcm`] is the same with that cipher.

pub mod aes256_gcm;

use secrecy::ExposeSecret;

use crate::{
    aead::{self, TAG_LEN, WRAP_NONCE_LEN},
    key::SecretKey,
    random::{self, RandomnessError},
    suite::Suite,
};

const SUITE: Suite = Suite::XChaCha20Poly1305;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = WRAP_NONCE_LEN + TAG_LEN;

/// Why sealing failed. Nothing was sealed.
///
/// Not `non_exhaustive`, as [`envelope::SealError`](crate::envelope::SealError) is not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SimpleSealError {
    /// The plaintext is longer than the cipher can count, or than the result could be in memory.
    #[error("{len} bytes are too long to be sealed in one piece; split them, or seal an envelope")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// The operating system gave no nonce.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

/// Wrong key or altered bytes, deliberately not told apart; or too few bytes to hold nonce and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes rejected: wrong key or altered bytes")]
pub struct SimpleRejected;

/// Seals `plaintext` under `key` with a random nonce.
///
/// # Errors
/// - [`SimpleSealError::TooLong`]: over 274,877,906,879 bytes (256 GiB), which is as far as the cipher counts.
/// - [`SimpleSealError::Randomness`]: the operating system gives no nonce.
pub fn seal(key: &SecretKey, plaintext: &[u8]) -> Result<Vec<u8>, SimpleSealError> {
    let mut nonce = [0; WRAP_NONCE_LEN];
    random::fill(&mut nonce)?;
    seal_with_nonce(key, &nonce, plaintext)
}

/// The length of `plaintext_len` bytes once sealed; an error if there are more than the cipher or the memory can take.
fn sealed_len(suite: Suite, overhead: usize, plaintext_len: usize) -> Result<usize, SimpleSealError> {
    let fits = |len: &usize| plaintext_len as u64 <= aead::max_input_len(suite) && isize::try_from(*len).is_ok();
    plaintext_len.checked_add(overhead).filter(fits).ok_or(SimpleSealError::TooLong { len: plaintext_len })
}

pub(crate) fn seal_with_nonce(
    key: &SecretKey,
    nonce: &[u8; WRAP_NONCE_LEN],
    plaintext: &[u8],
) -> Result<Vec<u8>, SimpleSealError> {
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

    /// One of the two, by its functions.
    struct Form {
        suite: Suite,
        overhead: usize,
        seal: fn(&SecretKey, &[u8]) -> Result<Vec<u8>, SimpleSealError>,
        open: fn(&SecretKey, &[u8]) -> Result<Vec<u8>, SimpleRejected>,
        longest: u64,
    }

    const FORMS: [Form; 2] = [
        Form { suite: SUITE, overhead: 40, seal, open, longest: 274_877_906_879 },
        Form {
            suite: Suite::Aes256Gcm,
            overhead: 28,
            seal: aes256_gcm::seal,
            open: aes256_gcm::open,
            longest: 68_719_476_704,
        },
    ];

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let key = SecretKey::from_slice(&[1; 32]).unwrap();
        for Form { suite, overhead, seal, open, .. } in FORMS {
            for len in [0, 1, 15, 16, 17, 63, 64, 65, 100_000] {
                let plaintext = vec![7; len];
                let sealed = seal(&key, &plaintext).unwrap();
                assert_eq!(sealed.len(), len + overhead, "{suite}");
                assert_eq!(open(&key, &sealed), Ok(plaintext), "{suite}");
            }
            let sealed = seal(&key, b"four").unwrap();
            assert_eq!(open(&SecretKey::from_slice(&[2; 32]).unwrap(), &sealed), Err(SimpleRejected), "{suite}");
            for cut in 0..sealed.len() {
                assert_eq!(open(&key, &sealed[..cut]), Err(SimpleRejected), "{suite}, cut at {cut}");
            }
            for bit in 0..8 * sealed.len() {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open(&key, &flipped), Err(SimpleRejected), "{suite}, bit {bit}");
            }
        }
    }

    #[test]
    fn two_seals_of_one_plaintext_differ() {
        let key = SecretKey::from_slice(&[1; 32]).unwrap();
        for Form { suite, seal, .. } in FORMS {
            assert_ne!(seal(&key, b"same").unwrap(), seal(&key, b"same").unwrap(), "{suite}");
        }
    }

    #[test]
    fn neither_opens_what_the_other_sealed() {
        let key = SecretKey::from_slice(&[1; 32]).unwrap();
        let [one, two] = FORMS;
        assert_eq!((one.open)(&key, &(two.seal)(&key, &[7; 100]).unwrap()), Err(SimpleRejected));
        assert_eq!((two.open)(&key, &(one.seal)(&key, &[7; 100]).unwrap()), Err(SimpleRejected));
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn more_than_the_cipher_can_count_is_refused_before_it_runs() {
        for Form { suite, overhead, longest, .. } in FORMS {
            let sealed_len = |len| sealed_len(suite, overhead, len).ok();
            let longest = usize::try_from(longest).unwrap();
            assert_eq!(sealed_len(longest), Some(longest + overhead), "{suite}");
            assert_eq!(sealed_len(longest + 1), None, "{suite}");
            assert_eq!(sealed_len(usize::MAX), None, "{suite}");
        }
    }
}

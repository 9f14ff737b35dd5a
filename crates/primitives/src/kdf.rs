//! Key derivation: many bytes from one 32-byte key and a message.
//!
//! Suite 1 is BLAKE3 in its keyed mode with extended output (BLAKE3 paper, sections 2.3 and 2.6).

use zeroize::{Zeroize, Zeroizing};

use crate::{key::SecretKey, suite::Suite};

/// Fills `N` bytes from `key` and the concatenation of `message`.
///
/// The parts of `message` are concatenated as they are: the caller prefixes lengths.
pub(crate) fn derive<const N: usize>(
    suite: Suite,
    key: &[u8; SecretKey::LEN],
    message: &[&[u8]],
) -> Zeroizing<[u8; N]> {
    match suite {
        Suite::XChaCha20Poly1305 => {
            let mut hasher = blake3::Hasher::new_keyed(key);
            for part in message {
                hasher.update(part);
            }
            let mut out = Zeroizing::new([0; N]);
            let mut reader = hasher.finalize_xof();
            reader.fill(&mut *out);
            // blake3 wipes on request only: both hold the key or its output.
            reader.zeroize();
            hasher.zeroize();
            out
        }
    }
}

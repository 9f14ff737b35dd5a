//! Key derivation: many bytes from one 32-byte key and a message.
//!
//! Suite 1 is BLAKE3 in its keyed mode with extended output (BLAKE3 paper, sections 2.3 and 2.6).

use zeroize::Zeroize;

use crate::{key::SecretKey, suite::Suite};

/// Fills `out` from `key` and the concatenation of `message`.
///
/// The parts of `message` are concatenated as they are: the caller prefixes lengths. The output is written where it is
/// to stay, because a returned array would leave copies on the stack.
pub(crate) fn derive(suite: Suite, key: &[u8; SecretKey::LEN], message: &[&[u8]], out: &mut [u8]) {
    match suite {
        Suite::XChaCha20Poly1305 => {
            let mut hasher = blake3::Hasher::new_keyed(key);
            for part in message {
                hasher.update(part);
            }
            let mut reader = hasher.finalize_xof();
            reader.fill(out);
            // blake3 wipes on request only: both hold the key or its output.
            reader.zeroize();
            hasher.zeroize();
        }
    }
}

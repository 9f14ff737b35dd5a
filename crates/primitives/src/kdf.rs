//! Key derivation: many bytes from one 32-byte key and a message.
//!
//! Both are pseudorandom functions of the key: whoever does not know it learns nothing from an output, and an output
//! commits to the key and the message, which the checks of KEKs and the commitments of envelopes rely on.

mod blake3;
mod hkdf;

use crate::{key::SecretKey, suite::Suite};

/// Most bytes of an output: two keys, one block of BLAKE3 and two of HKDF.
const MAX_LEN: usize = 64;

/// Fills `out`, at most [`MAX_LEN`] bytes, from `key` and the concatenation of `message`.
///
/// The parts of `message` are concatenated as they are: the caller prefixes lengths. The output is written where it is
/// to stay, because a returned array would leave copies on the stack.
pub(crate) fn derive(suite: Suite, key: &[u8; SecretKey::LEN], message: &[&[u8]], out: &mut [u8]) {
    match suite {
        Suite::XChaCha20Poly1305 => blake3::derive(key, message, out),
        Suite::Aes256Gcm => hkdf::expand(key, message, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE3's own `test_vectors.json`, keyed mode, the input of no bytes.
    #[test]
    fn keyed_blake3_gives_its_authors_answer() {
        let mut out = [0; 32];
        derive(Suite::XChaCha20Poly1305, b"whats the Elvish word for friend", &[], &mut out);
        let halves = out.as_chunks().0.iter().map(|half| u128::from_be_bytes(*half)).collect::<Vec<_>>();
        let expected = [0x92b2_b756_04ed_3c76_1f9d_6f62_392c_8a92, 0x27ad_0ea3_f095_73e7_83f1_498a_4ed6_0d26];
        assert_eq!(halves, expected);
    }

    #[test]
    fn message_parts_are_joined_and_a_longer_output_begins_like_a_shorter_one() {
        let run = |parts: &[&[u8]], out: &mut [u8]| derive(Suite::XChaCha20Poly1305, &[1; 32], parts, out);
        let (mut short, mut long) = ([0; 32], [0; 64]);
        run(&[b"ab", b"", b"c"], &mut short);
        run(&[b"abc"], &mut long);
        assert_eq!(short, long[..32]);
    }
}

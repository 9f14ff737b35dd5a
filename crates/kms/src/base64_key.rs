//! Keys in base64, without copies that stay behind.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keystrata_hierarchy::SecretKey;
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// Characters of 32 bytes in padded base64.
const CHARS: usize = 44;

/// A text that is wiped when dropped: a token, or a plaintext in base64.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct SecretText(#[serde(deserialize_with = "wiped")] pub(crate) Zeroizing<String>);

fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// `secret` in base64.
pub(crate) fn encode(secret: &SecretKey) -> Zeroizing<String> {
    let mut chars = Zeroizing::new([0; CHARS]);
    STANDARD.encode_slice(secret.expose_secret(), &mut *chars).expect("32 bytes take 44 characters");
    let mut text = Zeroizing::new(String::with_capacity(CHARS));
    text.push_str(std::str::from_utf8(&*chars).expect("base64 is ASCII"));
    text
}

/// The key that `text` is; `None` for anything but 32 bytes.
pub(crate) fn decode(text: &str) -> Option<SecretKey> {
    if text.len() != CHARS {
        return None;
    }
    // One byte longer than a key: the decoder asks for its estimate.
    let mut bytes = Zeroizing::new([0; SecretKey::LEN + 1]);
    let len = STANDARD.decode_slice(text, &mut *bytes).ok()?;
    SecretKey::from_slice(&bytes[..len]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_other_lengths_do_not() {
        let secret = SecretKey::generate().unwrap();
        let text = encode(&secret);
        assert_eq!(decode(&text).unwrap().expose_secret(), secret.expose_secret());
        for other in ["", "AAAA", &text[..43], &format!("{}AAAA", *text), &format!("{}====", &text[..40])] {
            assert!(decode(other).is_none(), "{other}");
        }
    }
}

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

/// The bytes that `text` is, of whatever length; `None` if it is not base64. Whether they are a key is another question: a
/// text that is damaged says nothing about what was wrapped.
pub(crate) fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    // Room for the decoder's estimate, so that it does not grow and leave a part behind.
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = STANDARD.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_damage_is_no_other_length() {
        let secret = SecretKey::generate().unwrap();
        let text = encode(&secret);
        assert_eq!(**decode(&text).unwrap(), *secret.expose_secret());
        assert_eq!(decode("AAAA").unwrap().len(), 3);
        assert_eq!(decode("").unwrap().len(), 0);
        for damaged in [&text[..43], &format!("{}====", &text[..40]), "AA*A"] {
            assert!(decode(damaged).is_none(), "{damaged}");
        }
    }
}

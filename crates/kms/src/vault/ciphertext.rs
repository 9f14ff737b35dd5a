//! Transit's text form of a ciphertext, and ours in bytes, of which there is one only for each.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The first byte of a wrapped key.
const WRAPPED_VERSION: u8 = 1;
/// Before the ciphertext: our version and the key's.
const HEADER_LEN: usize = 5;
/// 32 bytes take 60 with AES-GCM and 72 at most; four times that leaves room for an engine with more around it.
const MAX_BYTES: usize = 300;

/// `vault:vN:base64` as bytes; `None` if it is something else.
pub(super) fn to_bytes(text: &str) -> Option<Vec<u8>> {
    let (version, body) = text.strip_prefix("vault:v")?.split_once(':')?;
    let version: u32 = version.parse().ok().filter(|&version| version != 0)?;
    let body = STANDARD.decode(body).ok().filter(|body| (1..=MAX_BYTES).contains(&body.len()))?;
    let mut wrapped = Vec::with_capacity(HEADER_LEN + body.len());
    wrapped.push(WRAPPED_VERSION);
    wrapped.extend_from_slice(&version.to_le_bytes());
    wrapped.extend_from_slice(&body);
    Some(wrapped)
}

/// The text that [`to_bytes`] reads as `wrapped`; `None` if there is none.
pub(super) fn to_text(wrapped: &[u8]) -> Option<String> {
    let (&[WRAPPED_VERSION, v0, v1, v2, v3], body) = wrapped.split_first_chunk::<HEADER_LEN>()? else { return None };
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    let is_possible = version != 0 && (1..=MAX_BYTES).contains(&body.len());
    is_possible.then(|| format!("vault:v{version}:{}", STANDARD.encode(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_each_others_only_form() {
        let text = "vault:v258:AAECAw==";
        let bytes = to_bytes(text).unwrap();
        assert_eq!(bytes, [1, 2, 1, 0, 0, 0, 1, 2, 3]);
        assert_eq!(to_text(&bytes).unwrap(), text);
    }

    #[test]
    fn what_transit_would_read_in_two_ways_is_refused() {
        for text in [
            "",
            "vault:v1:",
            "vault:v0:AAAA",
            "vault:v1:AAEB/x=",
            "vault:v1:AAF=",
            "vault:v1:AA\nAA",
            "vault:v4294967296:AAAA",
            "vault:AAAA",
            "bao:v1:AAAA",
        ] {
            assert_eq!(to_bytes(text), None, "{text:?}");
        }
        for bytes in [&[][..], &[1, 1, 0, 0, 0], &[2, 1, 0, 0, 0, 7], &[1, 0, 0, 0, 0, 7], &[1; 400]] {
            assert_eq!(to_text(bytes), None, "{bytes:?}");
        }
    }
}

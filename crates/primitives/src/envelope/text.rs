//! The text form: `ks1.` and the base64url of a whole envelope, for columns and files that hold text.

use base64::{
    DecodeError, Engine,
    engine::general_purpose::{GeneralPurpose, NO_PAD},
};

/// What every text begins with.
pub const TEXT_PREFIX: &str = "ks1.";

/// Base64url as it must be: no padding, and the bits that are left over in the last character are zero.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, NO_PAD);

/// Why a text is not the text form of any bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// No characters at all.
    #[error("the text is empty; expected one that begins with \"ks1.\"")]
    Empty,
    /// The first characters are not the prefix.
    #[error("not a Keystrata text: it does not begin with \"ks1.\"")]
    NoPrefix,
    /// A character that base64url does not have: white space and `+`, `/`, `=` among them.
    #[error(
        "the text has a character at byte {offset} that base64url without padding has not; pass it on without spaces, line breaks or \"=\""
    )]
    BadCharacter {
        /// Where, in bytes from the beginning of the text.
        offset: usize,
    },
    /// A length that no whole bytes have.
    #[error("the text has {len} bytes, which no envelope's text has; it was cut short")]
    BadLength {
        /// How many bytes the text has.
        len: usize,
    },
    /// The last character holds bits that belong to no byte: one envelope must not have two texts.
    #[error("the last character of the text is not the one that encoding gives; the text was altered or cut short")]
    StrayBits,
}

/// The text form of `envelope`: [`TEXT_PREFIX`] and base64url without padding.
///
/// It is a form of the bytes, whatever they are; whether they are an envelope is seen when they are opened.
pub fn to_text(envelope: &[u8]) -> String {
    let mut text = String::with_capacity(TEXT_PREFIX.len() + envelope.len().div_ceil(3).saturating_mul(4));
    text.push_str(TEXT_PREFIX);
    BASE64URL.encode_string(envelope, &mut text);
    text
}

/// The bytes of which [`to_text`] makes `text`, and no other text gives the same bytes.
///
/// # Errors
/// [`TextError`] if `text` is not exactly what [`to_text`] makes: another prefix, padding, white space or stray bits.
pub fn from_text(text: &str) -> Result<Vec<u8>, TextError> {
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    let encoded = text.strip_prefix(TEXT_PREFIX).ok_or(TextError::NoPrefix)?;
    BASE64URL.decode(encoded).map_err(|error| {
        // The decoder finds a wrong length before a wrong character; the latter is what helps whoever pasted the text.
        let is_foreign = |byte: u8| !(byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        match (encoded.bytes().position(is_foreign), error) {
            (Some(at), _) => TextError::BadCharacter { offset: TEXT_PREFIX.len() + at },
            (None, DecodeError::InvalidLength(_)) => TextError::BadLength { len: text.len() },
            (None, _) => TextError::StrayBits,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_canonical_text_is_read() {
        assert_eq!(to_text(b""), "ks1.");
        assert_eq!(to_text(&[0xfb, 0xff, 0xfe, 0x01]), "ks1.-__-AQ");
        assert_eq!(from_text("ks1.-__-AQ"), Ok(vec![0xfb, 0xff, 0xfe, 0x01]));
        for (text, error) in [
            ("", TextError::Empty),
            ("ks1", TextError::NoPrefix),
            ("KS1.AQ", TextError::NoPrefix),
            (" ks1.AQ", TextError::NoPrefix),
            ("ks2.AQ", TextError::NoPrefix),
            ("ks1.AQ==", TextError::BadCharacter { offset: 6 }),
            ("ks1.AQ=", TextError::BadCharacter { offset: 6 }),
            ("ks1.+//+AQ", TextError::BadCharacter { offset: 4 }),
            ("ks1.-__-AQ\n", TextError::BadCharacter { offset: 10 }),
            ("ks1.-__- AQ", TextError::BadCharacter { offset: 8 }),
            ("ks1.-__-Aé", TextError::BadCharacter { offset: 9 }),
            ("ks1.-__-A", TextError::BadLength { len: 9 }),
            ("ks1.A", TextError::BadLength { len: 5 }),
            ("ks1.AR", TextError::StrayBits),
            ("ks1.-__-AQH", TextError::StrayBits),
        ] {
            assert_eq!(from_text(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_read_back(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(from_text(&to_text(&bytes)), Ok(bytes));
        }

        #[test]
        fn no_two_texts_give_the_same_bytes(tail in "[A-Za-z0-9_=+/ -]{0,12}") {
            let text = format!("{TEXT_PREFIX}{tail}");
            if let Ok(bytes) = from_text(&text) {
                prop_assert_eq!(to_text(&bytes), text);
            }
        }
    }
}

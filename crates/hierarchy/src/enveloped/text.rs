//! The text: two parts of base64 with a full stop between.

use base64::{
    Engine as _,
    alphabet::{Alphabet, STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD},
};
use keystrata_primitives::simple;

use super::EnvelopedError;

/// What a text holds.
pub(super) struct Parts<'a> {
    /// The data key as a root key wrapped it; not empty.
    pub(super) wrapped: Vec<u8>,
    pub(super) data: Vec<u8>,
    /// The data as it is written.
    pub(super) data_text: &'a str,
}

impl<'a> Parts<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, EnvelopedError> {
        let (key, data_text) = text.split_once('.').ok_or(EnvelopedError::Malformed)?;
        let (wrapped, data) = (decode(key)?, decode(data_text)?);
        if wrapped.is_empty() || data.len() < simple::OVERHEAD {
            return Err(EnvelopedError::Malformed);
        }
        Ok(Self { wrapped, data, data_text })
    }

    /// The same data, as it is written, behind another wrapped key.
    pub(super) fn with_wrapped(&self, wrapped: &[u8]) -> String {
        let mut text = URL_SAFE_NO_PAD.encode(wrapped);
        text.push('.');
        text.push_str(self.data_text);
        text
    }
}

pub(super) fn write(wrapped: &[u8], data: &[u8]) -> String {
    let mut text = URL_SAFE_NO_PAD.encode(wrapped);
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(data, &mut text);
    text
}

fn decode(text: &str) -> Result<Vec<u8>, EnvelopedError> {
    const fn either_padding(alphabet: &Alphabet) -> GeneralPurpose {
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        GeneralPurpose::new(alphabet, config)
    }
    const WEB: GeneralPurpose = either_padding(&URL_SAFE);
    const CLASSIC: GeneralPurpose = either_padding(&STANDARD);
    let engine = if text.contains(['+', '/']) { &CLASSIC } else { &WEB };
    engine.decode(text).map_err(|_| EnvelopedError::Malformed)
}

//! The two-level form: every object's data key wrapped by the root key itself.

use std::sync::Arc;

use base64::{
    Engine as _,
    alphabet::{Alphabet, STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD},
};
use keystrata_primitives::{RandomnessError, simple};

use crate::root::{RootContext, RootKey, RootKeyError};

/// Seals strings of data under data keys that the root key generates and unwraps, one KMS call for each seal and open.
///
/// The text is `base64(wrapped data key).base64(nonce ‖ ciphertext ‖ tag)`, with XChaCha20-Poly1305 and no additional
/// data: it binds neither account nor context, and nothing is cached. It needs no store. Use
/// [`Hierarchy`](crate::Hierarchy) for anything that grows; this form is what it is measured against, and what reads and
/// writes data of programs that work this way.
///
/// Writes unpadded base64url; reads both alphabets, with or without padding.
///
/// ```
/// # use keystrata_hierarchy::{Enveloped, test_util::ScriptedRootKey};
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let root = ScriptedRootKey::new("test:root");
/// let secrets = Enveloped::new(root);
/// let text = secrets.seal(b"4111 1111 1111 1111").await?;
/// assert_eq!(secrets.open(&text).await?, b"4111 1111 1111 1111");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Enveloped {
    root: Arc<dyn RootKey>,
}

/// Why the two-level form did not seal or open.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopedError {
    /// The root key did not do its part. [`RootKeyError::Rejected`] if it did not wrap this data key.
    #[error(transparent)]
    Root(#[from] RootKeyError),
    /// The text is not two parts of base64 with a full stop between.
    #[error("not a sealed text: expected base64(wrapped key).base64(data)")]
    Malformed,
    /// Wrong key or altered bytes, deliberately not told apart.
    #[error("sealed text rejected: wrong key or altered bytes")]
    Rejected,
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

impl Enveloped {
    /// The two-level form over `root`.
    pub fn new(root: impl RootKey + 'static) -> Self {
        Self { root: Arc::new(root) }
    }

    /// Seals `plaintext` under a data key of its own. One call to the root key.
    ///
    /// # Errors
    /// - [`EnvelopedError::Root`]: the root key generated no data key.
    /// - [`EnvelopedError::Randomness`]: the operating system gave no nonce.
    ///
    /// # Cancellation
    /// Dropping the future is safe; the KMS may have counted the call.
    pub async fn seal(&self, plaintext: &[u8]) -> Result<String, EnvelopedError> {
        let generated = self.root.generate_key(&RootContext::none()).await?;
        let sealed = simple::seal(&generated.secret, plaintext)?;
        let mut text = URL_SAFE_NO_PAD.encode(generated.wrapped);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(sealed, &mut text);
        Ok(text)
    }

    /// Opens what [`seal`](Self::seal) made. One call to the root key, none for a text that is malformed.
    ///
    /// # Errors
    /// - [`EnvelopedError::Malformed`]: the text has another form.
    /// - [`EnvelopedError::Root`]: the root key did not unwrap the data key.
    /// - [`EnvelopedError::Rejected`]: the data was altered, or belongs to another data key.
    ///
    /// # Cancellation
    /// Dropping the future is safe; the KMS may have counted the call.
    pub async fn open(&self, text: &str) -> Result<Vec<u8>, EnvelopedError> {
        let (key, data) = text.split_once('.').ok_or(EnvelopedError::Malformed)?;
        let key = decode(key)?;
        let data = decode(data)?;
        if key.is_empty() || data.len() < simple::OVERHEAD {
            return Err(EnvelopedError::Malformed);
        }
        let secret = self.root.unwrap_key(&key, &RootContext::none()).await?;
        simple::open(&secret, &data).map_err(|_| EnvelopedError::Rejected)
    }
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

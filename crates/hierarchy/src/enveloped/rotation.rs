//! New wraps for old data keys, and new data keys for old data.

use std::sync::Arc;

use keystrata_primitives::{SecretKey, simple};
use secrecy::zeroize::Zeroizing;

use super::{Enveloped, EnvelopedError, text::Parts};
use crate::root::{RootKey, RootKeyError};

/// A data key on its way to the primary root key.
enum Found {
    /// Wrapped by it already, within the KMS.
    Wrapped(Vec<u8>),
    /// Here, to be wrapped.
    Here(SecretKey),
}

/// # Rewrap and rekey
///
/// Rewrapping is for another root key, or another version of the same: the data key stays, and the data is not sealed
/// again. Against somebody who may have learnt the data key only [`rekey`](Self::rekey) helps. Both give a new text and leave
/// the old one good for as long as its root key is: store the new one only where the old one still stands
/// (`UPDATE … WHERE secret = $old`), or a write in between is lost.
impl Enveloped {
    /// The text with its data key wrapped anew by the primary root key. The part behind the full stop stays as it is, byte
    /// for byte.
    ///
    /// The [former](Self::former) root keys are asked first, since what they wrapped is what has to be rewrapped, then the
    /// primary: a KMS whose key has versions wraps the data key under the newest. Which errors go on to the next is as for
    /// [`open`](Self::open). One call where the primary's KMS rewraps what the other wrapped
    /// ([`RootKey::rewrap_key`]), and the data key does not leave the KMS; else two, and then it is tried
    /// on the data before it is wrapped. One more for each root key that is asked first and rejects the data key.
    ///
    /// What the KMS wrapped is not unwrapped again, as after [`seal`](Self::seal) it is not: [`open`](Self::open) the new text
    /// first if the old one is to be overwritten and the KMS is not to be trusted that far.
    ///
    /// # Errors
    /// As [`open`](Self::open). [`EnvelopedError::Rejected`] only where the data key is tried.
    ///
    /// # Cancellation
    /// Dropping the future is safe; the KMS may have counted the calls.
    pub async fn rewrap(&self, text: &str) -> Result<String, EnvelopedError> {
        let parts = Parts::read(text)?;
        let wrapped = match self.find(&parts.wrapped).await? {
            Found::Wrapped(wrapped) => wrapped,
            Found::Here(secret) => {
                let opened = simple::open(&secret, &parts.data).map_err(|_| EnvelopedError::Rejected)?;
                drop(Zeroizing::new(opened));
                self.primary.wrap_key(&secret, &self.context()).await?
            }
        };
        Ok(parts.with_wrapped(&self.usable(wrapped)?))
    }

    /// Seals the text's data anew, under a new data key of the primary root key. The calls of an [`open`](Self::open) and of a
    /// [`seal`](Self::seal).
    ///
    /// # Errors
    /// As those.
    ///
    /// # Cancellation
    /// Dropping the future overwrites the plaintext; the KMS may have counted the calls.
    pub async fn rekey(&self, text: &str) -> Result<String, EnvelopedError> {
        let plaintext = Zeroizing::new(self.open(text).await?);
        self.seal(&plaintext).await
    }

    /// The data key, by the first root key that does not reject it.
    async fn find(&self, wrapped: &[u8]) -> Result<Found, RootKeyError> {
        for root in self.former.iter().chain([&self.primary]) {
            match self.find_with(root, wrapped).await {
                Err(RootKeyError::Rejected) => {}
                answer => return answer,
            }
        }
        Err(RootKeyError::Rejected)
    }

    async fn find_with(&self, from: &Arc<dyn RootKey>, wrapped: &[u8]) -> Result<Found, RootKeyError> {
        let context = self.context();
        match self.primary.rewrap_key(from.id(), wrapped, &context).await? {
            Some(rewrapped) => Ok(Found::Wrapped(rewrapped)),
            None => from.unwrap_key(wrapped, &context).await.map(Found::Here),
        }
    }
}

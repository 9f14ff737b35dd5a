//! From the two-level form to envelopes, and back.

use keystrata_primitives::Context;
use secrecy::zeroize::Zeroizing;

use super::{Enveloped, MoveError};
use crate::account::Account;

/// # To envelopes and back
///
/// A table can be moved row by row while it is in use: neither the bytes of an envelope nor its text form (`ks1.…`) are ever a
/// text of this form, so a reader can tell what a row holds. Store what comes out only where what went in still stands.
impl Enveloped {
    /// Seals the text's data as an envelope of `account`, which opens with `context` from now on, and opens that again to see
    /// that it holds the same.
    ///
    /// The call of an [`open`](Self::open), and those of the account's KEK if it is not in memory.
    ///
    /// ```
    /// # use keystrata_hierarchy::{Enveloped, Hierarchy, MemoryKekStore, test_util::ScriptedRootKey};
    /// # use std::sync::Arc;
    /// use keystrata_hierarchy::Context;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let root = Arc::new(ScriptedRootKey::new("test:root"));
    /// # let keys = Hierarchy::builder().root_key(Arc::clone(&root)).store(MemoryKekStore::new()).build()?;
    /// # let secrets = Enveloped::new(Arc::clone(&root));
    /// # let text = secrets.seal(b"4111 1111 1111 1111").await?;
    /// let acme = keys.account("acme")?;
    /// let row = Context::new().with("row", "42");
    /// let envelope = secrets.to_envelope(&text, &acme, &row).await?;
    /// assert_eq!(acme.open(&envelope, &row).await?, b"4111 1111 1111 1111");
    ///
    /// let text = secrets.to_text(&envelope, &acme, &row).await?;
    /// assert_eq!(secrets.open(&text).await?, b"4111 1111 1111 1111");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`MoveError::Text`] as [`open`](Self::open), [`MoveError::Seal`] as [`Account::seal`], [`MoveError::Open`] as
    /// [`Account::open`], and [`MoveError::NotVerified`].
    ///
    /// # Cancellation
    /// Dropping the future overwrites the plaintext; a KEK of the account may have been made.
    pub async fn to_envelope(&self, text: &str, account: &Account, context: &Context) -> Result<Vec<u8>, MoveError> {
        let plaintext = Zeroizing::new(self.open(text).await?);
        let envelope = account.seal(&plaintext, context).await?;
        same(&plaintext, account.open(&envelope, context).await?)?;
        Ok(envelope)
    }

    /// Seals an envelope's data in the two-level form, and opens that again to see that it holds the same. Account and context
    /// are not bound any more: whoever can write the text can put it in another's place.
    ///
    /// Two calls, those of a [`seal`](Self::seal) and an [`open`](Self::open), and that of the account's KEK if it is
    /// not in memory.
    ///
    /// # Errors
    /// [`MoveError::Open`] as [`Account::open`], [`MoveError::Text`] as [`seal`](Self::seal) and [`open`](Self::open), and
    /// [`MoveError::NotVerified`].
    ///
    /// # Cancellation
    /// Dropping the future overwrites the plaintext; the KMS may have counted the calls.
    pub async fn to_text(&self, envelope: &[u8], account: &Account, context: &Context) -> Result<String, MoveError> {
        let plaintext = Zeroizing::new(account.open(envelope, context).await?);
        let text = self.seal(&plaintext).await?;
        same(&plaintext, self.open(&text).await?)?;
        Ok(text)
    }
}

/// Overwrites what it looked at.
fn same(plaintext: &[u8], opened: Vec<u8>) -> Result<(), MoveError> {
    if *Zeroizing::new(opened) == plaintext { Ok(()) } else { Err(MoveError::NotVerified) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_to_other_bytes_is_not_handed_out() {
        assert!(same(b"secret", b"secret".to_vec()).is_ok());
        for other in [&b"secreT"[..], b"secre", b"secrets", b""] {
            assert!(matches!(same(b"secret", other.to_vec()), Err(MoveError::NotVerified)));
        }
    }
}

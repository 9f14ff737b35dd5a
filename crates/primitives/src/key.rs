//! Secret keys. None can be cloned, printed or compared other than in constant time.

use std::fmt;

use rand::TryCryptoRng;
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};
use subtle::ConstantTimeEq;

use crate::random::{self, RandomnessError};

/// 32 secret bytes: a DEK, or the secret from which a KEK is derived. Wiped on drop.
///
/// Never cloned and never printed; [`ExposeSecret`] is the one way to the bytes.
pub struct SecretKey(SecretBox<[u8; SecretKey::LEN]>);

/// A key of another length than 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key has 32 bytes, and this one has {0}")]
pub struct SecretLengthError(pub usize);

impl SecretKey {
    /// Bytes of a key.
    pub const LEN: usize = 32;

    /// A fresh key from the kernel's random bytes.
    ///
    /// # Errors
    /// [`RandomnessError`] if the operating system gives none.
    pub fn generate() -> Result<Self, RandomnessError> {
        Self::generate_with(&mut random::KernelRng)
    }

    pub(crate) fn generate_with<R: TryCryptoRng>(rng: &mut R) -> Result<Self, RandomnessError> {
        Self::try_init_with(|key| random::fill_with(rng, key))
    }

    /// A copy of `bytes`, which the caller still has to wipe.
    ///
    /// # Errors
    /// [`SecretLengthError`] if there are not exactly 32.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, SecretLengthError> {
        if bytes.len() != Self::LEN {
            return Err(SecretLengthError(bytes.len()));
        }
        Self::try_init_with(|key| {
            key.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// A key written in place by `fill`, so that no other copy of it need exist.
    ///
    /// # Errors
    /// What `fill` returns; the partly filled key is wiped.
    pub fn try_init_with<E>(fill: impl FnOnce(&mut [u8; Self::LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = SecretBox::new(Box::new([0; Self::LEN])); // filled on the heap: no stack copy
        fill(key.expose_secret_mut())?;
        Ok(Self(key))
    }
}

impl ExposeSecret<[u8; SecretKey::LEN]> for SecretKey {
    fn expose_secret(&self) -> &[u8; Self::LEN] {
        self.0.expose_secret()
    }
}

impl ConstantTimeEq for SecretKey {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.expose_secret().ct_eq(other.expose_secret())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey([REDACTED])")
    }
}

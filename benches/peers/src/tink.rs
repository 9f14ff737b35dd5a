//! tink-aead: KMS → a DEK for each object, with a call for each.

use tink_aead::{KmsEnvelopeAead, aes256_gcm_no_prefix_key_template};
use tink_core::{Aead, TinkError};

use crate::{AAD, Process, Tenant, kms::Kms};

/// A service that has just started; nothing is at rest.
pub struct Service(Kms);

impl Service {
    /// Starts it.
    pub fn start(kms: &Kms) -> Self {
        tink_aead::init();
        Self(kms.clone())
    }
}

impl Process for Service {
    type Tenant = TinkTenant;

    fn tenant(&self, _: usize) -> TinkTenant {
        // One URI each is how Tink would tell tenants apart; to a KMS that only counts they are alike.
        TinkTenant(KmsEnvelopeAead::new(aes256_gcm_no_prefix_key_template(), Box::new(CountingKms(self.0.clone()))))
    }
}

/// One `KmsEnvelopeAead`.
pub struct TinkTenant(KmsEnvelopeAead);

impl Tenant for TinkTenant {
    type Plain = Vec<u8>;
    type Sealed = Vec<u8>;

    fn seal(&self, plain: &Vec<u8>) -> Vec<u8> {
        self.0.encrypt(plain, AAD.as_bytes()).expect("the KMS answers")
    }

    fn open(&self, sealed: &mut Vec<u8>) -> Vec<u8> {
        self.0.decrypt(sealed, AAD.as_bytes()).expect("sealed here")
    }
}

#[derive(Clone)]
struct CountingKms(Kms);

impl Aead for CountingKms {
    fn encrypt(&self, plaintext: &[u8], _: &[u8]) -> Result<Vec<u8>, TinkError> {
        Ok(self.0.wrap(plaintext))
    }

    fn decrypt(&self, ciphertext: &[u8], _: &[u8]) -> Result<Vec<u8>, TinkError> {
        self.0.unwrap(ciphertext).ok_or_else(|| TinkError::new("not wrapped here"))
    }
}

//! kms-aead: KMS → a DEK for each object, with a call for each. (Its newer versions can keep keys, but want a newer Rust.)

use async_trait::async_trait;
use futures_util::FutureExt;
use kms_aead::{
    CipherTextWithEncryptedKey, DataEncryptionKey, EncryptedDataEncryptionKey, KmsAeadEnvelopeEncryption,
    KmsAeadResult, KmsAeadRingEncryptionProvider, KmsAeadRingEnvelopeEncryption, errors::KmsAeadEncryptionError,
    ring_encryption::RingAeadEncryption,
};
use secret_vault_value::SecretValue;

use crate::{AAD, Plain, Process, Sealed, Tenant, kms::Kms};

/// A service that has just started; nothing is at rest.
pub struct Service(Kms);

impl Service {
    /// Starts it.
    pub fn start(kms: &Kms) -> Self {
        Self(kms.clone())
    }
}

impl Process for Service {
    type Tenant = KmsAeadTenant;

    fn tenant(&self, _: usize) -> KmsAeadTenant {
        let new = KmsAeadRingEnvelopeEncryption::with_algorithm(CountingKms(self.0.clone()), &ring::aead::AES_256_GCM);
        KmsAeadTenant { encryption: finished(new), aad: AAD.to_owned() }
    }
}

/// One envelope encryption.
pub struct KmsAeadTenant {
    encryption: KmsAeadRingEnvelopeEncryption<CountingKms>,
    aad: String,
}

/// What a future gives that never waits: polling it once spares it the cost of a runtime.
fn finished<T>(future: impl Future<Output = KmsAeadResult<T>>) -> T {
    future.now_or_never().expect("the KMS of this process blocks").expect("the KMS answers, and sealed here")
}

impl Tenant for KmsAeadTenant {
    type Plain = SecretValue;
    type Sealed = CipherTextWithEncryptedKey;

    fn seal(&self, plain: &SecretValue) -> CipherTextWithEncryptedKey {
        finished(self.encryption.encrypt_value(&self.aad, plain))
    }

    fn open(&self, sealed: &mut CipherTextWithEncryptedKey) -> SecretValue {
        finished(self.encryption.decrypt_value(&self.aad, sealed))
    }
}

impl Plain for SecretValue {
    fn of(bytes: &[u8]) -> Self {
        Self::from(bytes.to_vec())
    }

    fn bytes(&self) -> &[u8] {
        self.as_sensitive_bytes()
    }
}

impl Sealed for CipherTextWithEncryptedKey {
    fn stored_bytes(&self) -> usize {
        self.value().len()
    }
}

struct CountingKms(Kms);

#[async_trait]
impl KmsAeadRingEncryptionProvider for CountingKms {
    async fn encrypt_data_encryption_key(&self, key: &DataEncryptionKey) -> KmsAeadResult<EncryptedDataEncryptionKey> {
        Ok(EncryptedDataEncryptionKey::new(self.0.wrap(key.0.as_sensitive_bytes()), None))
    }

    async fn decrypt_data_encryption_key(
        &self,
        wrapped: &EncryptedDataEncryptionKey,
    ) -> KmsAeadResult<DataEncryptionKey> {
        let key = self.0.unwrap(wrapped.wrapped());
        let key = key.ok_or_else(|| KmsAeadEncryptionError::create("REJECTED", "not wrapped here"))?;
        Ok(DataEncryptionKey(SecretValue::from(key)))
    }

    async fn generate_encryption_key(&self, cipher: &RingAeadEncryption) -> KmsAeadResult<DataEncryptionKey> {
        cipher.generate_data_encryption_key()
    }
}

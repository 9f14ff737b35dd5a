//! A root key in a file.

mod error;
mod file;
mod ring;

use std::{
    fmt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};
use keystrata_primitives::{LocalRootParts, wire, wrap};

pub use self::{error::LocalRootKeyError, ring::LocalKeyRing};

/// A root key whose bytes lie in a file: for development, tests and demos.
///
/// A KMS never shows its key; this one is in the file and, from [`open`](Self::open) to drop, in the memory of this
/// process, which is neither locked nor kept out of core dumps. Whoever reads either opens every object of every
/// account, and no log tells. Production wants a KMS; if it must be a file, it must be a choice, with the file on
/// encrypted storage and the backup somewhere else than the store's.
///
/// # File
/// One line of text, 68 bytes with its newline: `keystrata-local-root-v1:` and the key's 32 random bytes in base64url
/// without padding. The final newline may be missing. Only its owner may read or write the file (mode 0600). It may be
/// moved and copied: the key is known by its fingerprint, not by the path.
///
/// # Id
/// `local:` and 32 hexadecimal digits, the [fingerprint](LocalRootParts::fingerprint) of the key. A record that another
/// key file wrapped names another id and is refused without trying.
///
/// # Wrapped form
/// 73 bytes: the version `0x01`, then `nonce(24) ‖ ciphertext(32) ‖ tag(16)` of XChaCha20-Poly1305 under the
/// [wrapping key](LocalRootParts::wrapping_key), with the additional data
/// `str("keystrata v1 local root wrap") ‖ RootContext::to_aad()`.
///
/// Share one among tasks by `Arc`; a service needs one in all, so that [`calls`](Self::calls) counts them all.
pub struct LocalRootKey {
    id: RootKeyId,
    fingerprint: [u8; 16],
    wrapping_key: SecretKey,
    calls: AtomicU64,
    latency: Duration,
}

/// The first byte of a wrapped key.
const WRAPPED_VERSION: u8 = 1;

impl LocalRootKey {
    /// Makes a fresh key in a new file at `path`.
    ///
    /// The file appears whole or not at all, readable by its owner alone, and is on disk when this returns. Of several
    /// creators at once one wins. Blocks on the disk.
    ///
    /// # Errors
    /// [`LocalRootKeyError::AlreadyExists`] if anything is at `path`, which stays as it is; else why the file could not
    /// be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, LocalRootKeyError> {
        let path = path.as_ref();
        let secret = SecretKey::generate().map_err(|source| LocalRootKeyError::Randomness { source })?;
        file::write_new(path, &secret)?;
        Ok(Self::from_secret(&secret))
    }

    /// Reads the key in the file at `path`. Never makes one: a key made by a typo opens nothing.
    ///
    /// A symbolic link is followed; what it leads to is what must be private. Blocks on the disk.
    ///
    /// # Errors
    /// [`LocalRootKeyError`], which says what is wrong with the file and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LocalRootKeyError> {
        Ok(Self::from_secret(&file::read(path.as_ref())?))
    }

    fn from_secret(secret: &SecretKey) -> Self {
        let LocalRootParts { wrapping_key, fingerprint } = LocalRootParts::derive(secret);
        let name = format!("local:{:032x}", u128::from_be_bytes(fingerprint));
        let id = RootKeyId::new(&name).expect("38 plain characters");
        Self { id, fingerprint, wrapping_key, calls: AtomicU64::new(0), latency: Duration::ZERO }
    }

    /// Lets every call take `latency` longer, on tokio's timer: what stands in for the network to a KMS in demos and
    /// benchmarks. Zero at first, and then no timer is needed.
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// How many calls were made: each wrap, unwrap or generation is one from its start, failed and dropped ones included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    async fn begin_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }

    fn wrap(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        let body = wrap::wrap_key(&self.wrapping_key, &aad(context), secret)?;
        let mut wrapped = Vec::with_capacity(1 + body.len());
        wrapped.push(WRAPPED_VERSION);
        wrapped.extend_from_slice(&body);
        Ok(wrapped)
    }
}

impl fmt::Debug for LocalRootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRootKey")
            .field("id", &self.id)
            .field("calls", &self.calls())
            .field("latency", &self.latency)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // the default generation would be counted as a wrap by accident, not by rule
impl RootKey for LocalRootKey {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.begin_call().await;
        self.wrap(secret, context)
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.begin_call().await;
        let Some((&WRAPPED_VERSION, body)) = wrapped.split_first() else {
            return Err(RootKeyError::Rejected);
        };
        wrap::unwrap_key(&self.wrapping_key, &aad(context), body).map_err(|_| RootKeyError::Rejected)
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.begin_call().await;
        let secret = SecretKey::generate()?;
        let wrapped = self.wrap(&secret, context)?;
        Ok(GeneratedKey { secret, wrapped })
    }

    /// There is one key, and nothing to bring up to date.
    async fn rewrap_key(&self, _: &RootKeyId, _: &[u8], _: &RootContext) -> Result<Option<Vec<u8>>, RootKeyError> {
        Ok(None)
    }
}

fn aad(context: &RootContext) -> Vec<u8> {
    let mut aad = Vec::new();
    wire::put_str(&mut aad, b"keystrata v1 local root wrap");
    aad.extend_from_slice(&context.to_aad());
    aad
}

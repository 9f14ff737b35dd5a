//! A root key that does as it is told.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use keystrata_primitives::{RootKeyId, SecretKey, wrap};

use crate::root::{RootContext, RootKey, RootKeyError};

/// A [`RootKey`] with a fixed key in memory that counts its calls and can be told to fail or to wait.
///
/// ```
/// use keystrata_hierarchy::{RootKeyError, test_util::ScriptedRootKey};
///
/// let root = ScriptedRootKey::new("test:root");
/// root.fail_next(RootKeyError::denied("revoked by the test"));
/// assert_eq!(root.calls(), 0);
/// ```
pub struct ScriptedRootKey {
    id: RootKeyId,
    key: SecretKey,
    calls: AtomicU64,
    failures: Mutex<VecDeque<RootKeyError>>,
    /// Calls hold the gate shared; a test that holds it closed keeps them waiting.
    gate: tokio::sync::RwLock<()>,
}

impl ScriptedRootKey {
    /// A root key of this id. Two of the same id are the same key.
    ///
    /// # Panics
    /// If `id` breaks the rules of [`RootKeyId`].
    pub fn new(id: &str) -> Self {
        let mut key = [0x5a; SecretKey::LEN];
        for (byte, letter) in key.iter_mut().zip(id.bytes()) {
            *byte = letter;
        }
        Self {
            id: RootKeyId::new(id).expect("a test chooses a valid id"),
            key: SecretKey::from_slice(&key).expect("32 bytes"),
            calls: AtomicU64::new(0),
            failures: Mutex::default(),
            gate: tokio::sync::RwLock::new(()),
        }
    }

    /// How many calls arrived, failed ones included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Lets the next call fail with `error`; several queue up.
    pub fn fail_next(&self, error: RootKeyError) {
        self.failures().push_back(error);
    }

    /// Keeps every call waiting, counted, until the guard is dropped.
    pub async fn hold(&self) -> impl Drop + use<'_> {
        self.gate.write().await
    }

    fn failures(&self) -> MutexGuard<'_, VecDeque<RootKeyError>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&self) -> Result<(), RootKeyError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.read().await);
        self.failures().pop_front().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for ScriptedRootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedRootKey").field("id", &self.id).field("calls", &self.calls()).finish_non_exhaustive()
    }
}

#[async_trait]
impl RootKey for ScriptedRootKey {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.begin().await?;
        Ok(wrap::wrap_key(&self.key, &context.to_aad(), secret)?.to_vec())
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.begin().await?;
        wrap::unwrap_key(&self.key, &context.to_aad(), wrapped).map_err(|_| RootKeyError::Rejected)
    }
}

//! In the place of a root key where none is needed.

use anyhow::Result;
use async_trait::async_trait;
use keystrata_hierarchy::{RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};

/// Wraps and unwraps nothing. What changes only states, or destroys, asks no root key; and if it did, this says so.
#[derive(Debug)]
pub(crate) struct NoRootKey(RootKeyId);

impl NoRootKey {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(RootKeyId::new("none")?))
    }
}

fn refused() -> RootKeyError {
    RootKeyError::unavailable("no root key was opened for this")
}

#[async_trait]
impl RootKey for NoRootKey {
    fn id(&self) -> &RootKeyId {
        &self.0
    }

    async fn wrap_key(&self, _: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        Err(refused())
    }

    async fn unwrap_key(&self, _: &[u8], _: &RootContext) -> Result<SecretKey, RootKeyError> {
        Err(refused())
    }
}

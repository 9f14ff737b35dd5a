//! Whether keys can be had, tried on a key that is nobody's.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use keystrata_memory::MemoryReport;
use keystrata_primitives::{KekId, KekIdentity, KekVersion, KeyPath, Suite};

use super::Engine;
use crate::{
    error::KeyError,
    root::{RootContext, RootKeyError},
    signals::Stats,
};

/// The account that a KMS sees in the context of a health check.
pub(crate) const CANARY_ACCOUNT: &str = "keystrata-health";

/// How a hierarchy is, as [`Hierarchy::health`](crate::Hierarchy::health) found it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// How long the root key took to unwrap a test key, by the engine's clock, or why it did not. Behind a wrapper that
    /// breaks the circuit, its refusal is what is seen here.
    pub root_key: Result<Duration, KeyError>,
    /// How the memory of decrypted KEKs is protected.
    pub memory: MemoryReport,
    /// Decrypted KEKs in memory.
    pub cached_keks: usize,
    /// The time since the KMS authorised the KEK in memory that it authorised first: never more than the TTL, and what
    /// a policy allows beyond it.
    pub oldest_authorisation: Option<Duration>,
    /// KEKs in memory that were used past their deadline, where a [policy](crate::PolicyBuilder::max_stale) allows that.
    pub stale_keks: usize,
    /// How long the default policy lets KEKs be used beyond their deadline.
    pub max_stale: Duration,
    /// Whether the hierarchy was closed.
    pub is_closed: bool,
    /// What happened so far.
    pub stats: Stats,
}

impl Health {
    /// Whether KEKs can be had now. A service that is alive without that still serves what is in memory: do not restart it
    /// for this.
    pub fn is_ready(&self) -> bool {
        self.root_key.is_ok() && !self.is_closed
    }

    /// Whether a protection of key memory is missing, or KEKs are used beyond their deadline.
    pub fn is_degraded(&self) -> bool {
        self.memory.is_degraded() || self.stale_keks > 0
    }
}

/// A wrapped test key.
pub(super) struct Canary {
    identity: KekIdentity,
    wrapped: Vec<u8>,
    check: keystrata_primitives::KekCheck,
}

impl Engine {
    pub(crate) async fn health(&self) -> Health {
        let root_key = match self.refuse_if_closed() {
            Ok(()) => self.try_root_key().await,
            Err(closed) => Err(closed),
        };
        let now = self.now();
        let (oldest_authorisation, stale_keks) = self.cache().ages(now);
        Health {
            root_key,
            memory: self.cache().memory(),
            cached_keks: self.cache().len(),
            oldest_authorisation,
            stale_keks,
            max_stale: self.config.policy.max_stale(),
            is_closed: self.is_closed(),
            stats: self.stats(),
        }
    }

    /// Unwraps a test key; the first time in a process it is made, which is one call more. Renews no KEK.
    async fn try_root_key(&self) -> Result<Duration, KeyError> {
        let canary = || self.local.get().canary.lock().unwrap_or_else(PoisonError::into_inner);
        let known = canary().clone();
        let known = if let Some(known) = known {
            known
        } else {
            let new = Arc::new(self.new_canary().await?);
            *canary() = Some(Arc::clone(&new));
            new
        };
        let (path, id) = (&known.identity.path, known.identity.id);
        let asked_at = self.now();
        let unwrapped = self.root.unwrap_key(&known.wrapped, &RootContext::of_kek(&known.identity)).await;
        let secret = unwrapped.map_err(|error| KeyError::from_root(error, path, id))?;
        if known.identity.derive(&secret).check != known.check {
            let error = RootKeyError::unavailable("it unwrapped a test key to another key than it had wrapped");
            return Err(KeyError::RootUnavailable(error));
        }
        Ok(self.now().boot.saturating_sub(asked_at.boot))
    }

    async fn new_canary(&self) -> Result<Canary, KeyError> {
        let path = KeyPath::account(CANARY_ACCOUNT).expect("a valid name");
        let id = KekId::generate()?;
        let identity = KekIdentity { suite: Suite::default(), version: KekVersion::FIRST, id, path };
        let generated = self.root.generate_key(&RootContext::of_kek(&identity)).await;
        let generated = generated.map_err(|error| KeyError::from_root(error, &identity.path, id))?;
        let check = identity.derive(&generated.secret).check;
        Ok(Canary { identity, wrapped: generated.wrapped, check })
    }
}

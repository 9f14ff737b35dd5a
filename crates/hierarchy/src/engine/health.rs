//! Whether keys can be had, tried on a key that is nobody's.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use keystrata_memory::MemoryReport;
use keystrata_primitives::{KekId, KekIdentity, KekVersion, KeyPath, RootKeyId, Suite};

use super::Engine;
use crate::{
    error::KeyError,
    root::{RootContext, RootKey, RootKeyError},
    signals::Stats,
};

/// The account that a KMS sees in the context of a health check.
pub(crate) const CANARY_ACCOUNT: &str = "keystrata-health";

/// How a hierarchy is, as [`Hierarchy::health`](crate::Hierarchy::health) found it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// How long the root key took to unwrap a test key, by the engine's clock, or why it did not. Of several, the first
    /// that did: one is enough to unwrap KEKs. Behind a wrapper that breaks the circuit, its refusal is what is seen here.
    pub root_key: Result<Duration, KeyError>,
    /// The same for each root key that wraps new KEKs of the account `keystrata-health`, in the order of its
    /// [`Placement`](crate::Placement).
    pub root_keys: Vec<(RootKeyId, Result<Duration, KeyError>)>,
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

    /// Whether a protection of key memory is missing, KEKs are used beyond their deadline, or one of several root keys
    /// does not answer.
    pub fn is_degraded(&self) -> bool {
        let is_root_lost = self.root_keys.iter().any(|(_, answer)| answer.is_err());
        self.memory.is_degraded() || self.stale_keks > 0 || is_root_lost
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
        let (root_key, root_keys) = match self.refuse_if_closed() {
            Ok(()) => self.try_root_keys().await,
            Err(closed) => (Err(closed), Vec::new()),
        };
        let now = self.now();
        let (oldest_authorisation, stale_keks) = self.cache().ages(now);
        Health {
            root_key,
            root_keys,
            memory: self.cache().memory(),
            cached_keks: self.cache().len(),
            oldest_authorisation,
            stale_keks,
            max_stale: self.config.policy.max_stale(),
            is_closed: self.is_closed(),
            stats: self.stats(),
        }
    }

    /// Tries each root key that wraps new KEKs of the account of health checks; what comes first is the answer for all: a
    /// time if one of them unwraps.
    async fn try_root_keys(&self) -> (Result<Duration, KeyError>, Vec<(RootKeyId, Result<Duration, KeyError>)>) {
        let path = KeyPath::account(CANARY_ACCOUNT).expect("a valid name");
        let mut tried: Vec<(RootKeyId, Result<Duration, KeyError>)> = Vec::new();
        for root in self.topology.wrapping_roots(&path) {
            let answer = self.try_root_key(&root, &path).await;
            tried.push((root.id().clone(), answer));
        }
        let answers = || tried.iter().map(|(_, answer)| answer);
        let answer = answers().find(|answer| answer.is_ok()).or_else(|| answers().next());
        (answer.cloned().unwrap_or(Err(KeyError::Interrupted)), tried)
    }

    /// Unwraps a test key; the first time in a process it is made, which is one call more. Renews no KEK.
    async fn try_root_key(&self, root: &Arc<dyn RootKey>, path: &KeyPath) -> Result<Duration, KeyError> {
        let canaries = || self.local.get().canaries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = canaries().get(root.id()).cloned();
        let known = if let Some(known) = known {
            known
        } else {
            let new = Arc::new(new_canary(root, path).await?);
            canaries().insert(root.id().clone(), Arc::clone(&new));
            new
        };
        let id = known.identity.id;
        let asked_at = self.now();
        let unwrapped = root.unwrap_key(&known.wrapped, &RootContext::of_kek(&known.identity)).await;
        let secret = unwrapped.map_err(|error| KeyError::from_root(error, path, id))?;
        if known.identity.derive(&secret).check != known.check {
            let error = RootKeyError::unavailable("it unwrapped a test key to another key than it had wrapped");
            return Err(KeyError::RootUnavailable(error));
        }
        Ok(self.now().boot.saturating_sub(asked_at.boot))
    }
}

async fn new_canary(root: &Arc<dyn RootKey>, path: &KeyPath) -> Result<Canary, KeyError> {
    let id = KekId::generate()?;
    let identity = KekIdentity { suite: Suite::default(), version: KekVersion::FIRST, id, path: path.clone() };
    let generated = root.generate_key(&RootContext::of_kek(&identity)).await;
    let generated = generated.map_err(|error| KeyError::from_root(error, path, id))?;
    let check = identity.derive(&generated.secret).check;
    Ok(Canary { identity, wrapped: generated.wrapped, check })
}

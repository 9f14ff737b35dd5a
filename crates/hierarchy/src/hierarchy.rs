//! The way in: a hierarchy is built once, and gives out handles to accounts.

use std::{fmt, sync::Arc, time::Duration};

use keystrata_memory::{ArenaConfig, MemoryReport, OnUnprotected};
use keystrata_primitives::{KeyPath, PathError, Suite};

use crate::{
    account::Account,
    clock::{Clock, SystemClock},
    engine::{Config, Engine, Owner},
    error::BuildError,
    root::RootKey,
    store::KekStore,
};

/// Account KEKs under one root key, with a cache of decrypted ones.
///
/// Cheap to clone; clones share everything. Made by [`Hierarchy::builder`].
///
/// A decrypted KEK is used for at most the [TTL](HierarchyBuilder::kek_ttl) after the KMS was asked for it, and its bytes
/// are overwritten then, by a thread of the engine's own, whether or not anything is called. Dropping the last clone and
/// the last [`Account`] overwrites all of them.
///
/// After a `fork`, the child goes on with an empty cache of its own; its parent's keys are not in the child's memory.
#[derive(Clone)]
pub struct Hierarchy {
    engine: Arc<Owner>,
}

impl Hierarchy {
    /// The longest TTL that [`HierarchyBuilder::kek_ttl`] takes: 24 hours.
    pub const MAX_KEK_TTL: Duration = Duration::from_secs(24 * 60 * 60);

    /// Begins a hierarchy; it needs at least a root key and a store.
    pub fn builder() -> HierarchyBuilder {
        HierarchyBuilder::default()
    }

    /// A handle to the account of this name or [path](KeyPath).
    ///
    /// Costs no I/O and does not make the account: its first KEK is made by the first [`seal`](Account::seal). Making a
    /// handle for every request is fine; handles to the same account share what they know.
    ///
    /// # Errors
    /// [`PathError`] if the name is empty or over 128 bytes.
    pub fn account<P>(&self, path: P) -> Result<Account, PathError>
    where
        P: TryInto<KeyPath>,
        PathError: From<P::Error>,
    {
        Ok(Account::new(Arc::clone(&self.engine), path.try_into()?))
    }

    /// How many decrypted KEKs are in memory in this process.
    pub fn cached_keks(&self) -> usize {
        self.engine.cache().len()
    }

    /// How the memory of the decrypted KEKs is protected in this process.
    pub fn memory(&self) -> MemoryReport {
        self.engine.cache().memory()
    }
}

impl fmt::Debug for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hierarchy").field(&self.engine).finish()
    }
}

/// What a [`Hierarchy`] is made of.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct HierarchyBuilder {
    root: Option<Arc<dyn RootKey>>,
    store: Option<Arc<dyn KekStore>>,
    clock: Arc<dyn Clock>,
    config: Config,
}

impl Default for HierarchyBuilder {
    fn default() -> Self {
        let memory = ArenaConfig::default();
        let config = Config {
            kek_ttl: Duration::from_secs(5 * 60),
            capacity: 100_000,
            suite: Suite::default(),
            memory,
            runtime: None,
        };
        Self { root: None, store: None, clock: Arc::new(SystemClock), config }
    }
}

impl HierarchyBuilder {
    /// The root key that wraps every account's KEK. Required.
    ///
    /// To go on using it yourself, for its call counter say, give an `Arc` of it.
    pub fn root_key(mut self, root: impl RootKey + 'static) -> Self {
        self.root = Some(Arc::new(root));
        self
    }

    /// Where the wrapped KEKs rest. Required.
    pub fn store(mut self, store: impl KekStore + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// How long a decrypted KEK may be used, counted from the moment the KMS was asked. Default: 5 minutes.
    ///
    /// This is also how long a root key that was revoked goes on working here, and what the number of KMS calls follows:
    /// one per account and process in each such span with traffic. Zero caches nothing: every seal and open asks the KMS.
    /// At most [`Hierarchy::MAX_KEK_TTL`].
    pub fn kek_ttl(mut self, ttl: Duration) -> Self {
        self.config.kek_ttl = ttl;
        self
    }

    /// How many decrypted KEKs are held at most. Default: 100,000, at least 1.
    ///
    /// When there is no room, the one with the nearest deadline is overwritten. Each takes some 40 bytes of locked memory
    /// and a few hundred of ordinary memory. With room for far fewer KEKs than there are accounts with traffic at once,
    /// KEKs are overwritten before all who waited for them have used them, and each of those makes a call of its own.
    pub fn capacity(mut self, keks: usize) -> Self {
        self.config.capacity = keks;
        self
    }

    /// The suite of KEKs that are made from now on, and so of what is sealed under them. Default:
    /// [`Suite::XChaCha20Poly1305`].
    ///
    /// Accounts that have a KEK keep its suite; envelopes of every suite open.
    pub fn suite(mut self, suite: Suite) -> Self {
        self.config.suite = suite;
        self
    }

    /// What to do when the memory for keys cannot be locked. Default: [`OnUnprotected::Degrade`], with a warning in the log.
    pub fn on_unprotected_memory(mut self, policy: OnUnprotected) -> Self {
        self.config.memory.on_unprotected = policy;
        self
    }

    /// The tokio runtime that loads KEKs. Default: whichever the call that needs a KEK is made on.
    ///
    /// By default callers on several runtimes share KEKs, but each runtime makes its own calls for those it waits for: one
    /// that nobody drives any more must not hold the others up. Give the runtime that the KMS client lives on to have one
    /// call for all of them, and to be able to call from outside any. It must outlive the hierarchy.
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.config.runtime = Some(runtime);
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes the hierarchy. No I/O happens.
    ///
    /// # Errors
    /// [`BuildError`] if the root key or the store is missing, the TTL is over the cap, or the capacity is zero.
    pub fn build(self) -> Result<Hierarchy, BuildError> {
        let root = self.root.ok_or(BuildError::NoRootKey)?;
        let store = self.store.ok_or(BuildError::NoStore)?;
        let (ttl, cap) = (self.config.kek_ttl, Hierarchy::MAX_KEK_TTL);
        if ttl > cap {
            return Err(BuildError::TtlTooLong { ttl, cap });
        }
        if self.config.capacity == 0 {
            return Err(BuildError::NoCapacity);
        }
        Ok(Hierarchy { engine: Owner::new(Engine::new(root, store, self.clock, self.config)) })
    }
}

//! The way in: a hierarchy is built once, and gives out handles to accounts.

use std::{fmt, sync::Arc, time::Duration};

use keystrata_memory::{ArenaConfig, Backing, MemoryReport, OnUnprotected};
use keystrata_primitives::{KeyPath, PathError, Suite};

use crate::{
    account::Account,
    audit::{AuditSink, OnAuditFailure},
    clock::{Clock, SystemClock},
    engine::{
        Config, Engine, Owner,
        audited::{Actor, Audit},
        health::Health,
        upkeep::Warmed,
    },
    error::{BuildError, KeyError},
    jobs,
    policy::{Policy, PolicyBuilder},
    root::RootKey,
    signals::Stats,
    store::KekStore,
    topology::{Placement, Roots, Topology},
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
    actor: Actor,
}

impl Hierarchy {
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
        Ok(Account::new(Arc::clone(&self.engine), &path.try_into()?, Arc::clone(&self.actor)))
    }

    /// The same hierarchy in the hands of `actor`, an operator or a service: what is done through it and the accounts it
    /// gives is recorded by the [audit sink](AuditSink) as done by that one.
    pub fn as_actor(&self, actor: &str) -> Self {
        Self { engine: Arc::clone(&self.engine), actor: actor.into() }
    }

    /// A job over the accounts of the store: reroot them all, say.
    ///
    /// ```
    /// # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
    /// # use std::sync::Arc;
    /// use std::time::Duration;
    /// use keystrata_hierarchy::{Context, Hierarchy, Reroot, Roots, jobs::{Checkpoint, Task}};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let store = Arc::new(MemoryKekStore::new());
    /// # let [old, new] = ["test:old", "test:new"].map(|id| Arc::new(ScriptedRootKey::new(id)));
    /// # let before = Hierarchy::builder().root_key(Arc::clone(&old)).store(Arc::clone(&store)).build()?;
    /// # for n in 0..600 { before.account(format!("account {n}"))?.seal(b"x", &Context::none()).await?; }
    /// let roots = Roots::builder().current(Arc::clone(&new)).former(old).build()?;
    /// let keys = Hierarchy::builder().roots(roots).store(store).build()?;
    /// let add = Task::Reroot { step: Reroot::Add, under: None };
    /// let plan = keys.job(add.clone()).dry_run().run(|_| {}).await?;
    /// assert_eq!((plan.accounts, plan.changed, new.calls()), (600, 600, 0));
    ///
    /// let mut saved = String::new(); // a file, say
    /// let done = keys.as_actor("alice").job(add.clone()).run(|progress| saved = progress.checkpoint.to_string()).await?;
    /// assert_eq!((done.changed, done.failed, new.calls()), (600, 0, 600));
    ///
    /// // A job that was killed goes on from there.
    /// let again = keys.job(add).resume(saved.parse::<Checkpoint>()?).run(|_| {}).await?;
    /// assert_eq!(again, done);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn job(&self, task: jobs::Task) -> jobs::Job {
        jobs::Job::new(Arc::clone(&self.engine), Arc::clone(&self.actor), task)
    }

    /// Loads the KEKs of these accounts, so that their first requests do not wait: after a start, say.
    ///
    /// A few at a time, and behind whatever somebody waits for where a budget tells them apart. An account that has no KEK
    /// gets none by this. One call for each KEK that is not in memory.
    ///
    /// # Errors
    /// [`KeyError`] if nothing could be begun. What became of each account is in [`Warmed`].
    ///
    /// # Cancellation
    /// Dropping the future begins no further load; those under way go on.
    pub async fn warm(&self, accounts: impl IntoIterator<Item = KeyPath>) -> Result<Warmed, KeyError> {
        self.engine.warm(accounts).await
    }

    /// Overwrites the account's decrypted KEKs in this process now, and forgets what was refused to it. So it does for the
    /// accounts inside it, those whose paths begin with its own; and the KEKs that were unwrapped by any of these go too: a
    /// group's name overwrites all its accounts'. Gives the number of KEKs.
    ///
    /// A load that is under way brings nothing back: what it gets is overwritten, and those who wait for it start another.
    /// So whoever seals or opens after this returned asks the KMS anew. An operation that has copied its KEK already ends
    /// with it.
    ///
    /// Where there are paths of several segments, or KEKs that rest on the account's, this looks at everything in memory:
    /// some tens of milliseconds for a million KEKs.
    ///
    /// # Errors
    /// [`PathError`] if the name is empty or over 128 bytes.
    pub fn invalidate<P>(&self, path: P) -> Result<usize, PathError>
    where
        P: TryInto<KeyPath>,
        PathError: From<P::Error>,
    {
        Ok(self.engine.invalidate(&path.try_into()?))
    }

    /// [`invalidate`](Self::invalidate) for all accounts.
    pub fn invalidate_all(&self) -> usize {
        self.engine.invalidate_all()
    }

    /// Ends the hierarchy: overwrites all KEKs, and refuses every operation from now on with
    /// [`KeyError::Closed`]. Operations that have copied their KEK already end with it; what a load under way brings is
    /// overwritten. Streams go on until their own end.
    ///
    /// Dropping the last handle does the same.
    pub fn close(&self) {
        self.engine.close();
    }

    /// Whether keys can be had, and how those in memory are kept. Makes one call to each root key that wraps
    /// new KEKs of the account `keystrata-health`, the first time two: it
    /// unwraps a test key in the context of the account `keystrata-health`, which a policy that restricts accounts must
    /// allow. No KEK's life is renewed by this.
    ///
    /// Use it for readiness and alarms, not for liveness: while the KMS is down a service goes on with what is in memory,
    /// and restarting it loses that.
    ///
    /// # Cancellation
    /// Dropping the future is safe. There is no time limit here.
    pub async fn health(&self) -> Health {
        self.engine.health().await
    }

    /// What happened since the hierarchy was built.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// How many decrypted KEKs are in memory in this process.
    pub fn cached_keks(&self) -> usize {
        self.engine.cache().len()
    }

    /// Overwrites the KEKs that are due, for a hierarchy that is [swept by hand](HierarchyBuilder::swept_by_hand).
    #[cfg(any(test, feature = "test-util"))]
    pub fn sweep(&self) {
        self.engine.cache().sweep_by_hand();
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
    topology: Option<Topology>,
    store: Option<Arc<dyn KekStore>>,
    clock: Arc<dyn Clock>,
    policy: PolicyBuilder,
    config: Config,
}

impl Default for HierarchyBuilder {
    fn default() -> Self {
        let config = Config {
            policy: Policy::default(),
            choose_policy: None,
            capacity: 100_000,
            suite: Suite::default(),
            memory: ArenaConfig::default(),
            runtime: None,
            jitter_seed: None,
            is_swept_by_hand: false,
            audit: None,
            actor: "".into(),
        };
        Self { topology: None, store: None, clock: Arc::new(SystemClock), policy: Policy::builder(), config }
    }
}

impl HierarchyBuilder {
    /// The root key that wraps every account's KEK. Required, unless there are [`roots`](Self::roots) or a
    /// [`topology`](Self::topology); of the three, the last that is given counts.
    ///
    /// To go on using it yourself, for its call counter say, give an `Arc` of it.
    pub fn root_key(self, root: impl RootKey + 'static) -> Self {
        self.roots(Roots::new(root))
    }

    /// The root keys that wrap every account's KEK: of two regions, say, each of which can fail.
    ///
    /// ```
    /// # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
    /// use keystrata_hierarchy::{Context, Hierarchy, Roots};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let store = MemoryKekStore::new();
    /// # let [ireland, frankfurt] = ["aws-kms:eu-west-1", "aws-kms:eu-central-1"].map(ScriptedRootKey::new);
    /// let roots = Roots::builder().current(ireland).current(frankfurt).build()?;
    /// let keys = Hierarchy::builder().roots(roots).store(store).build()?;
    /// keys.account("acme")?.seal(b"opens while either region answers", &Context::none()).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn roots(mut self, roots: Roots) -> Self {
        self.topology = Some(Topology::of_roots(roots));
        self
    }

    /// What wraps the KEKs of each account: see [`Placement`].
    ///
    /// Asked at every load, also for groups and for the parents of services, and for the account `keystrata-health` by
    /// [`Hierarchy::health`], so look it up in memory. The same path must
    /// get the same answer in all processes that use the store; where that changes, list what was as
    /// [former](Placement::formerly), and the new answer holds from each account's next load on.
    pub fn topology(mut self, place: impl Fn(&KeyPath) -> Placement + Send + Sync + 'static) -> Self {
        self.topology = Some(Topology::new(place));
        self
    }

    /// Where the wrapped KEKs rest. Required.
    pub fn store(mut self, store: impl KekStore + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// How long a decrypted KEK may be used, counted from the moment the KMS was asked. Default: 5 minutes.
    ///
    /// The most important of the default [policy](Self::policy)'s settings: see [`PolicyBuilder::kek_ttl`].
    pub fn kek_ttl(mut self, ttl: Duration) -> Self {
        self.policy = self.policy.kek_ttl(ttl);
        self
    }

    /// How the KEKs of all accounts are kept that have no [policy of their own](Self::policy_by_account). Replaces an
    /// earlier [`kek_ttl`](Self::kek_ttl).
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy.into_builder();
        self
    }

    /// Which accounts have a policy of their own; `None` stands for the default.
    ///
    /// Asked whenever an account comes into use in this process, which can be often, so look it up in memory. The answer
    /// holds as long as the account is in use: while there is a handle, a KEK in memory or a load of it. Other than the
    /// [topology](Self::topology) it is no place for what changes; a policy that was lowered holds in this process once its
    /// handles are gone and the KEKs have ended, or in a new hierarchy.
    pub fn policy_by_account(mut self, choose: impl Fn(&KeyPath) -> Option<Policy> + Send + Sync + 'static) -> Self {
        self.config.choose_policy = Some(Arc::new(choose));
        self
    }

    /// How many decrypted KEKs are held at most, those of groups and parents included. Default: 100,000, at least 1.
    ///
    /// When there is no room, one of those with the nearest deadlines is overwritten, rather one that was not used for
    /// long. Each takes some 40 bytes of locked memory and a few hundred of ordinary memory. With room for far fewer KEKs than there are accounts with traffic at once,
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

    /// What memory the decrypted KEKs rest in. Default: [`Backing::Automatic`], the best that the system gives.
    pub fn key_memory(mut self, backing: Backing) -> Self {
        self.config.memory.backing = backing;
        self
    }

    /// The tokio runtime that loads KEKs. Default: whichever the call that needs a KEK is made on.
    ///
    /// By default callers on several runtimes share KEKs, but each runtime makes its own calls for those it waits for: one
    /// that nobody drives any more must not hold the others up. Give the runtime that the KMS client lives on to have one
    /// call for all of them, and to be able to call from outside any. It must outlive the hierarchy. A forked child, in which
    /// nobody drives it, loads where it is asked.
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.config.runtime = Some(runtime);
        self
    }

    /// Where life-cycle events go: created, rotated, disabled, shredded and so on. Default: nowhere.
    ///
    /// A change that cannot be recorded is refused, unless [`on_audit_failure`](Self::on_audit_failure) says otherwise.
    pub fn audit(mut self, sink: impl AuditSink + 'static) -> Self {
        let on_failure = self.config.audit.map(|audit| audit.on_failure).unwrap_or_default();
        self.config.audit = Some(Audit { sink: Arc::new(sink), on_failure });
        self
    }

    /// What becomes of a change that the [audit sink](Self::audit) did not record. Default: it is refused. To be called
    /// after `audit`; without a sink it means nothing.
    pub fn on_audit_failure(mut self, policy: OnAuditFailure) -> Self {
        if let Some(audit) = &mut self.config.audit {
            audit.on_failure = policy;
        }
        self
    }

    /// Who does what this process does of itself, such as making an account's first KEK, and what is done through handles
    /// that [name nobody](Hierarchy::as_actor). Default: empty.
    pub fn actor(mut self, actor: &str) -> Self {
        self.config.actor = actor.into();
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Where the numbers come from that shorten lives by chance, so that a run can be repeated. Default: a random seed.
    #[cfg(any(test, feature = "test-util"))]
    pub fn jitter_seed(mut self, seed: u64) -> Self {
        self.config.jitter_seed = Some(seed);
        self
    }

    /// No thread overwrites KEKs at their deadlines; [`Hierarchy::sweep`] does. For simulations in virtual time, where a day
    /// takes seconds and what happens has to follow from the seed alone: with a [`jitter_seed`](Self::jitter_seed), also
    /// which KEK makes room for another, as far as no two are due at the same nanosecond. **A KEK that nobody sweeps stays in
    /// memory**, though no operation uses it.
    #[cfg(any(test, feature = "test-util"))]
    pub fn swept_by_hand(mut self) -> Self {
        self.config.is_swept_by_hand = true;
        self
    }

    /// Makes the hierarchy. No I/O happens.
    ///
    /// # Errors
    /// [`BuildError`] if the root key or the store is missing, the capacity is zero, or the policy is out of bounds.
    pub fn build(mut self) -> Result<Hierarchy, BuildError> {
        let topology = self.topology.ok_or(BuildError::NoRootKey)?;
        let store = self.store.ok_or(BuildError::NoStore)?;
        self.config.policy = self.policy.build()?;
        if self.config.capacity == 0 {
            return Err(BuildError::NoCapacity);
        }
        let actor = Arc::clone(&self.config.actor);
        Ok(Hierarchy { engine: Owner::new(Engine::new(topology, store, self.clock, self.config)), actor })
    }
}

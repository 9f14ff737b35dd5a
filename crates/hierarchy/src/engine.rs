//! Getting an account's KEK: at hand, from the store through the root key, or by making one.
//!
//! What is at hand is looked up here, synchronously. What is not is got by a *load*, a task that all who wait for the same
//! KEK share: see [`load`]. [`create`] makes an account's first KEK and [`rotate`] its later ones; [`upkeep`] is what
//! happens though nobody waits for it.

pub(crate) mod audited;
mod create;
pub(crate) mod health;
mod load;
mod once;
mod parents;
pub(crate) mod recover;
mod reroot;
pub(crate) mod rewrap;
mod rotate;
pub(crate) mod states;
pub(crate) mod upkeep;
mod waits;
mod wraps;

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keystrata_memory::{ArenaConfig, ProcessLocal, process_epoch};
use keystrata_primitives::{DerivedKek, Kek, KekId, KekIdentity, KekRecord, KekVersion, KeyPath, RootKeyId, Suite};
use tokio::runtime::Handle;

use self::{
    audited::{Actor, Audit},
    health::Canary,
    parents::Load,
    upkeep::Refreshes,
    waits::Waits,
    wraps::Unwrapped,
};
use crate::{
    cache::{AccountState, Authority, CachedKek, Epoch, KekCache, Life, Lineage, Parentage, RootNumbers},
    clock::{Clock, Moment, Nanos, nanos},
    error::KeyError,
    flight::Flights,
    policy::Policy,
    refusals::Refusals,
    signals::{Signals, Stats},
    store::KekStore,
    topology::Topology,
};

/// How long a load may be joined. Longer than a KMS call with its retries takes; after it, callers try again for
/// themselves.
const LOAD_PATIENCE: Duration = Duration::from_secs(30);

/// Gives an account's policy; `None` for the default.
pub(crate) type ChoosePolicy = dyn Fn(&KeyPath) -> Option<Policy> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) policy: Policy,
    pub(crate) choose_policy: Option<Arc<ChoosePolicy>>,
    pub(crate) capacity: usize,
    /// Of KEKs that are made; existing ones keep theirs.
    pub(crate) suite: Suite,
    pub(crate) memory: ArenaConfig,
    /// Where loads run; `None`: where they are asked for.
    pub(crate) runtime: Option<Handle>,
    /// Of the numbers that shorten lives; `None`: a random one.
    pub(crate) jitter_seed: Option<u64>,
    /// Whether whoever built it overwrites KEKs at their deadlines, and no thread does: in a simulation.
    pub(crate) is_swept_by_hand: bool,
    /// Where life-cycle events go; `None`: nowhere.
    pub(crate) audit: Option<Audit>,
    pub(crate) actor: Actor,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("policy", &self.policy)
            .field("has_policies_by_account", &self.choose_policy.is_some())
            .field("capacity", &self.capacity)
            .field("suite", &self.suite)
            .field("audit", &self.audit)
            .finish_non_exhaustive()
    }
}

/// What all handles of one hierarchy share.
pub(crate) struct Engine {
    topology: Topology,
    store: Arc<dyn KekStore>,
    clock: Arc<dyn Clock>,
    config: Config,
    signals: Arc<Signals>,
    /// For a forked child too.
    is_closed: AtomicBool,
    /// The process that built it.
    process: u64,
    /// A forked child starts with empty ones: its parent's keys are not in its memory, nor are its tasks.
    local: ProcessLocal<Local>,
}

/// A KEK above others: the primary, or that of an id.
type Above = (KeyPath, Option<KekId>, Epoch);

/// The part that belongs to one process.
struct Local {
    cache: KekCache,
    kek_loads: Arc<Flights<(KeyPath, KekId, Epoch), Arc<CachedKek>>>,
    primary_loads: Arc<Flights<(KeyPath, Epoch), Arc<CachedKek>>>,
    /// Of KEKs above others, for those alone who wait for them at the time.
    once_loads: Arc<Flights<Above, Arc<OneTimeKek>>>,
    creations: Arc<Flights<KeyPath, Arc<KekRecord>>>,
    rotations: Arc<Flights<(KeyPath, Option<KekId>), KekVersion>>,
    refusals: Refusals,
    root_numbers: RootNumbers,
    refreshes: Arc<Refreshes>,
    jitter_seed: u64,
    waits: Arc<Waits<Load>>,
    canaries: Mutex<HashMap<RootKeyId, Arc<Canary>>>,
}

impl Local {
    fn new(clock: Arc<dyn Clock>, config: &Config, signals: Arc<Signals>) -> Self {
        Self {
            cache: KekCache::new(clock, config.memory.clone(), config.capacity, signals, config.is_swept_by_hand),
            kek_loads: Flights::new(),
            primary_loads: Flights::new(),
            once_loads: Flights::new(),
            creations: Flights::new(),
            rotations: Flights::new(),
            refusals: Refusals::new(),
            root_numbers: RootNumbers::default(),
            refreshes: Arc::default(),
            jitter_seed: config.jitter_seed.unwrap_or_else(|| fastrand::u64(..)),
            waits: Waits::new(),
            canaries: Mutex::default(),
        }
    }
}

/// A KEK to use now.
pub(crate) enum UsableKek {
    /// One of the cache's. It may be overwritten before its user comes round to it.
    Cached(Arc<CachedKek>),
    Once(Arc<OneTimeKek>),
}

/// A KEK for a single operation, or for the loads of several that waited for it together, that no cache has seen. Wiped on
/// drop.
pub(crate) struct OneTimeKek {
    identity: KekIdentity,
    derived: DerivedKek,
    /// It is not in a slot that somebody would overwrite, so it must not wait for its use either.
    deadline: Nanos,
    /// By boot time: when a root key was asked for it, or for what is above it.
    requested_at: u64,
    authority: Authority,
    lineage: Option<Arc<Lineage>>,
}

impl UsableKek {
    /// Runs `f` with the key; `None` if its time is up.
    pub(crate) fn with_key<R>(&self, now: Moment, f: impl FnOnce(&Kek<'_>) -> R) -> Option<R> {
        match self {
            Self::Cached(kek) => kek.with_key(now, f),
            Self::Once(kek) => kek.with_key(now, f),
        }
    }
}

impl UsableKek {
    pub(crate) fn id(&self) -> KekId {
        match self {
            Self::Cached(kek) => kek.id(),
            Self::Once(kek) => kek.id(),
        }
    }
}

impl OneTimeKek {
    /// Not for longer than `ttl`, nor than what unwrapped it.
    fn new(identity: KekIdentity, unwrapped: Unwrapped, ttl: Duration) -> Self {
        let Unwrapped { derived, requested_at, authority, parent } = unwrapped;
        let own = Nanos::from(requested_at.after(ttl));
        let deadline = parent.as_ref().map_or(own, |parent| own.earlier(parent.deadline));
        let requested_at = parent.as_ref().map_or(nanos(requested_at.boot), |parent| parent.requested_at);
        let lineage = parent.map(|parent| parent.lineage);
        Self { identity, derived, deadline, requested_at, authority, lineage }
    }

    /// What is above it; `None` if a root key unwrapped it.
    fn lineage(&self) -> Option<&Arc<Lineage>> {
        self.lineage.as_ref()
    }

    /// What a KEK that this one unwraps may have, with `lineage` as what that rests on.
    fn parentage(&self, lineage: Arc<Lineage>) -> Parentage {
        let (requested_at, deadline) = (self.requested_at, self.deadline);
        Parentage { requested_at, deadline, end: deadline, is_renewed: false, root: self.authority.root, lineage }
    }

    pub(crate) fn id(&self) -> KekId {
        self.identity.id
    }

    /// Runs `f` with the key; `None` if its time is up.
    pub(crate) fn with_key<R>(&self, now: Moment, f: impl FnOnce(&Kek<'_>) -> R) -> Option<R> {
        (!Nanos::from(now).has_reached(self.deadline)).then(|| f(&self.derived.kek(&self.identity)))
    }
}

impl Engine {
    pub(crate) fn new(
        topology: Topology,
        store: Arc<dyn KekStore>,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Arc<Self> {
        let signals = Arc::new(Signals::new());
        let of_child = (Arc::clone(&clock), config.clone(), Arc::clone(&signals));
        let local = ProcessLocal::new(move || {
            let (clock, config, signals) = &of_child;
            Local::new(Arc::clone(clock), config, Arc::clone(signals))
        });
        Arc::new(Self {
            topology,
            store,
            clock,
            config,
            signals,
            is_closed: AtomicBool::new(false),
            process: process_epoch(),
            local,
        })
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// A time for a use: a cheap one if by that `is_in_time` holds, else the exact one.
    fn time_of_use(&self, is_in_time: impl FnOnce(Moment) -> bool) -> Moment {
        let latest = self.clock.at_latest();
        if is_in_time(latest) { latest } else { self.clock.now() }
    }

    pub(crate) fn cache(&self) -> &KekCache {
        &self.local.get().cache
    }

    pub(crate) fn store(&self) -> &Arc<dyn KekStore> {
        &self.store
    }

    pub(crate) fn stats(&self) -> Stats {
        self.signals.stats()
    }

    pub(crate) fn account(&self, path: &KeyPath) -> Arc<AccountState> {
        self.cache().account(path, || self.chosen_policy(path))
    }

    fn chosen_policy(&self, path: &KeyPath) -> Policy {
        let chosen = self.config.choose_policy.as_ref().and_then(|choose| choose(path));
        chosen.unwrap_or_else(|| self.config.policy.clone())
    }

    /// Whether the handle's state belongs to this process.
    pub(crate) fn is_home_of(&self, account: &AccountState) -> bool {
        self.cache().is_home_of(account)
    }

    pub(crate) fn runtime(&self) -> Result<Handle, KeyError> {
        match &self.config.runtime {
            // In a forked child nobody drives its parent's.
            Some(handle) if process_epoch() == self.process => Ok(handle.clone()),
            _ => Handle::try_current().map_err(|_| KeyError::NoRuntime),
        }
    }

    /// Since when a load begins, and how long it may be joined: never past the life of what it loads.
    fn load_window(&self, policy: &Policy) -> (Moment, Duration) {
        let patience = if policy.caches_nothing() { LOAD_PATIENCE } else { LOAD_PATIENCE.min(policy.kek_ttl()) };
        (self.now(), patience)
    }

    /// The life of a KEK that was unwrapped so.
    ///
    /// How much it is shortened by follows from whose it is and when, so that in a simulation the order in which loads that
    /// end at one instant are served makes no difference.
    fn life<T>(&self, account: &AccountState, unwrapped: &Unwrapped<T>) -> Life {
        let mut hasher = DefaultHasher::new();
        (self.local.get().jitter_seed, &account.path, unwrapped.requested_at.boot).hash(&mut hasher);
        let chance = fastrand::Rng::with_seed(hasher.finish()).f64();
        Life::new(&account.policy, unwrapped.requested_at, unwrapped.authority, unwrapped.parent.clone(), chance)
    }

    pub(crate) fn refuse_if_closed(&self) -> Result<(), KeyError> {
        if self.is_closed() { Err(KeyError::Closed) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Overwrites all KEKs, and refuses every operation from now on.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.cache().close();
    }

    /// Runs `f` with the primary at hand: no waiting, no store, no KMS. `len` bytes are sealed under it.
    pub(crate) fn seal_at_hand<R>(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        len: usize,
        f: impl FnOnce(&Kek<'_>) -> R,
    ) -> Option<R> {
        self.seal_at_hand_aged(account, len, f).map(|(sealed, _)| sealed)
    }

    /// The same, and how long ago a root key was asked for the KEK.
    pub(crate) fn seal_at_hand_aged<R>(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        len: usize,
        f: impl FnOnce(&Kek<'_>) -> R,
    ) -> Option<(R, Duration)> {
        let primary = account.primary();
        let kek = primary.as_ref()?;
        let now = self.time_of_use(|now| account.is_primary_believed(now) && kek.is_in_time(now));
        if !account.is_primary_believed(now) {
            return None;
        }
        let sealed = kek.with_key(now, f)?;
        self.note_use(account, kek, now);
        let id = kek.id();
        self.note_seal(account, id, len);
        if !account.is_primary_fresh(now) {
            self.renew_primary(account);
        }
        Some((sealed, kek.age(now)))
    }

    /// Runs `f` with the KEK of this id, if it is at hand: no waiting, no store, no KMS.
    pub(crate) fn open_at_hand<R>(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        id: KekId,
        f: impl FnOnce(&Kek<'_>) -> R,
    ) -> Option<R> {
        self.open_at_hand_aged(account, id, f).map(|(opened, _)| opened)
    }

    /// The same, and how long ago a root key was asked for the KEK.
    pub(crate) fn open_at_hand_aged<R>(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        id: KekId,
        f: impl FnOnce(&Kek<'_>) -> R,
    ) -> Option<(R, Duration)> {
        let open = |kek: &Arc<CachedKek>| {
            let now = self.time_of_use(|now| kek.is_in_time(now));
            let opened = kek.with_key(now, f)?;
            self.note_use(account, kek, now);
            Some((opened, kek.age(now)))
        };
        // Whoever opens what the primary sealed does not care whether it is still the primary.
        let primary = account.primary();
        match primary.as_ref().filter(|primary| primary.id() == id) {
            Some(primary) => open(primary),
            None => open(&self.cache().get_any(&account.path, id)?),
        }
    }

    /// After a use: counts it, and begins a renewal if it is time.
    fn note_use(self: &Arc<Self>, account: &Arc<AccountState>, kek: &Arc<CachedKek>, now: Moment) {
        kek.note_use();
        self.signals.hit(|| kek.age(now));
        if kek.is_due_for_refresh(now) {
            self.refresh(account, kek);
        }
    }

    /// After a seal under this KEK: counts it, and begins a rotation if the KEK has sealed enough.
    pub(crate) fn note_seal(self: &Arc<Self>, account: &Arc<AccountState>, id: KekId, len: usize) {
        if account.count_seal(id, len) {
            self.begin_rotation(account, id);
        }
    }

    /// After an operation that had to wait, if only for the store to say which KEK is primary.
    pub(crate) fn note_miss(self: &Arc<Self>, account: &Arc<AccountState>, kek: &UsableKek) {
        self.signals.misses.add(1);
        if let UsableKek::Cached(kek) = kek {
            let now = self.now();
            kek.note_use();
            self.signals.use_after_miss(kek.age(now));
            if kek.is_due_for_refresh(now) {
                self.refresh(account, kek);
            }
        }
    }

    /// The same for a KEK that no cache has seen.
    pub(crate) fn note_miss_once(&self) {
        self.signals.misses.add(1);
    }

    /// Overwrites the account's KEKs and forgets what was refused to it; gives their number.
    pub(crate) fn invalidate(&self, path: &KeyPath) -> usize {
        self.signals.invalidations.add(1);
        self.cache().invalidate(path)
    }

    /// Overwrites all KEKs and forgets all refusals; gives the number of KEKs.
    pub(crate) fn invalidate_all(&self) -> usize {
        self.signals.invalidations.add(1);
        self.cache().invalidate_all()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("topology", &self.topology)
            .field("store", &self.store)
            .field("config", &self.config)
            .field("cache", self.cache())
            .finish_non_exhaustive()
    }
}

/// What the public handles share. The last of them to go overwrites all KEKs, also while loads are under way.
#[derive(Debug)]
pub(crate) struct Owner(Arc<Engine>);

impl Owner {
    pub(crate) fn new(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self(engine))
    }
}

impl Deref for Owner {
    type Target = Arc<Engine>;

    fn deref(&self) -> &Arc<Engine> {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

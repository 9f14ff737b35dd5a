//! Getting an account's KEK: from the cache, from the store through the root key, or by making one.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use keystrata_memory::{ArenaConfig, ProcessLocal};
use keystrata_primitives::{
    DerivedKek, Kek, KekId, KekIdentity, KekRecord, KekState, KekVersion, KeyPath, Suite, WrappedSecret, Wrapper,
};
use moka::{policy::EvictionPolicy, sync::Cache};
use tokio::runtime::Handle;

use crate::{
    cache::{CachedKek, KekCache},
    clock::{Clock, Moment},
    error::{KeyError, RecordFault},
    flight::Flights,
    root::{GeneratedKey, RootContext, RootKey, RootKeyError},
    store::{Creation, KekStore},
};

/// How long a process goes on sealing under the primary it knows before it must have asked the store again.
const PRIMARY_TTL: Duration = Duration::from_secs(30);

/// From when on it asks in the background, so that nobody waits for a store that answers in time.
const PRIMARY_RENEWAL: Duration = Duration::from_secs(15);

/// After a store that could not be asked, how long until it is asked again.
const PRIMARY_RETRY: Duration = Duration::from_secs(1);

/// Waiting longer than this for a store is no use while a KEK is at hand.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a load may be joined. Longer than a KMS call with its retries takes; after it, callers try again for
/// themselves.
const LOAD_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Zero: nothing is cached.
    pub(crate) kek_ttl: Duration,
    pub(crate) capacity: usize,
    /// Of KEKs that are made; existing ones keep theirs.
    pub(crate) suite: Suite,
    pub(crate) memory: ArenaConfig,
    /// Where loads run; `None`: where they are asked for.
    pub(crate) runtime: Option<Handle>,
}

/// What all handles of one hierarchy share.
#[derive(Debug)]
pub(crate) struct Engine {
    root: Arc<dyn RootKey>,
    store: Arc<dyn KekStore>,
    clock: Arc<dyn Clock>,
    config: Config,
    /// A forked child starts with empty ones: its parent's keys are not in its memory, nor are its tasks.
    local: ProcessLocal<Local>,
}

/// The part that belongs to one process.
#[derive(Debug)]
struct Local {
    cache: KekCache,
    /// Handles' shared state, so that a handle made anew for every request finds the primary at hand.
    accounts: Cache<KeyPath, Arc<AccountState>>,
    kek_loads: Arc<Flights<(KeyPath, KekId), Arc<CachedKek>>>,
    primary_loads: Arc<Flights<KeyPath, Arc<CachedKek>>>,
    creations: Arc<Flights<KeyPath, Arc<KekRecord>>>,
}

/// What the handles of one account share.
#[derive(Debug)]
pub(crate) struct AccountState {
    pub(crate) path: KeyPath,
    primary: ArcSwapOption<Primary>,
}

/// The KEK that new objects are sealed under, as the store said at some time.
#[derive(Debug)]
struct Primary {
    kek: Arc<CachedKek>,
    renew_from: Moment,
    valid_until: Moment,
    /// Whether somebody has begun to renew it.
    is_renewing: AtomicBool,
}

impl Primary {
    fn new(kek: Arc<CachedKek>, renew_from: Moment, valid_until: Moment) -> Arc<Self> {
        Arc::new(Self { kek, renew_from, valid_until, is_renewing: AtomicBool::new(false) })
    }
}

/// A KEK to use now.
pub(crate) enum UsableKek {
    /// One of the cache's. It may be overwritten before its user comes round to it.
    Cached(Arc<CachedKek>),
    Once(Box<OneTimeKek>),
}

/// A KEK for a single operation, that no cache has seen. Wiped on drop.
pub(crate) struct OneTimeKek {
    identity: KekIdentity,
    derived: DerivedKek,
}

impl UsableKek {
    /// Runs `f` with the key; `None` if its time is up.
    pub(crate) fn with_key<R>(&self, now: Moment, f: impl FnOnce(&Kek<'_>) -> R) -> Option<R> {
        match self {
            Self::Cached(kek) => kek.with_key(now, f),
            Self::Once(kek) => Some(kek.with_key(f)),
        }
    }
}

impl OneTimeKek {
    pub(crate) fn with_key<R>(&self, f: impl FnOnce(&Kek<'_>) -> R) -> R {
        f(&self.derived.kek(&self.identity))
    }
}

impl Engine {
    pub(crate) fn new(
        root: Arc<dyn RootKey>,
        store: Arc<dyn KekStore>,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Arc<Self> {
        let (local_clock, local_config) = (Arc::clone(&clock), config.clone());
        let local = ProcessLocal::new(move || Local {
            cache: KekCache::new(Arc::clone(&local_clock), local_config.memory.clone(), local_config.capacity),
            // Least recently used goes first: moka's default would keep idle accounts and turn new ones away.
            accounts: Cache::builder()
                .max_capacity(local_config.capacity as u64)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            kek_loads: Flights::new(),
            primary_loads: Flights::new(),
            creations: Flights::new(),
        });
        Arc::new(Self { root, store, clock, config, local })
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(crate) fn cache(&self) -> &KekCache {
        &self.local.get().cache
    }

    pub(crate) fn account(&self, path: KeyPath) -> Arc<AccountState> {
        let state = |path: KeyPath| Arc::new(AccountState { path, primary: ArcSwapOption::empty() });
        let accounts = &self.local.get().accounts;
        accounts.get(&path).unwrap_or_else(|| accounts.get_with(path.clone(), || state(path)))
    }

    fn caches_nothing(&self) -> bool {
        self.config.kek_ttl.is_zero()
    }

    fn runtime(&self) -> Result<Handle, KeyError> {
        match &self.config.runtime {
            Some(handle) => Ok(handle.clone()),
            None => Handle::try_current().map_err(|_| KeyError::NoRuntime),
        }
    }

    /// Since when a load begins, and how long it may be joined: never past the life of what it loads.
    fn load_window(&self) -> (Moment, Duration) {
        let patience = if self.caches_nothing() { LOAD_PATIENCE } else { LOAD_PATIENCE.min(self.config.kek_ttl) };
        (self.now(), patience)
    }

    /// The primary at hand: no waiting, no store, no KMS. Begins to renew it in the background if it is time.
    pub(crate) fn primary_at_hand(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        now: Moment,
    ) -> Option<Arc<CachedKek>> {
        let primary = account.primary.load();
        let primary = primary.as_ref()?;
        if now.has_reached(primary.valid_until) {
            return None;
        }
        if now.has_reached(primary.renew_from)
            && !primary.is_renewing.swap(true, Ordering::Relaxed)
            && let Ok(runtime) = self.runtime()
        {
            let flights = &self.local.get().primary_loads;
            flights.begin(&runtime, self.load_window(), account.path.clone(), || self.primary_load(account));
        }
        Some(Arc::clone(&primary.kek))
    }

    /// A KEK at hand by its id: no waiting, no store, no KMS.
    pub(crate) fn kek_at_hand(&self, account: &AccountState, id: KekId, now: Moment) -> Option<Arc<CachedKek>> {
        if let Some(primary) = account.primary.load().as_ref()
            && primary.kek.id() == id
            && primary.kek.is_live(now)
        {
            return Some(Arc::clone(&primary.kek));
        }
        self.cache().get(&account.path, id, now)
    }

    /// The KEK that new objects of the account are sealed under; made now if the account has none.
    pub(crate) async fn primary(self: &Arc<Self>, account: &Arc<AccountState>) -> Result<UsableKek, KeyError> {
        if self.caches_nothing() {
            return self.primary_once(account).await.map(|kek| UsableKek::Once(Box::new(kek)));
        }
        let runtime = self.runtime()?;
        let flights = &self.local.get().primary_loads;
        if let Some(began) = flights.began(&runtime, account.path.clone())
            && self.now().has_reached(began.after(STORE_PATIENCE))
            && let Some(known) = self.known_primary(account)
        {
            return Ok(UsableKek::Cached(known)); // the store hangs
        }
        let load = || self.primary_load(account);
        flights.join(&runtime, self.load_window(), account.path.clone(), load).await.map(UsableKek::Cached)
    }

    /// The last primary, however long ago the store said so, if its KEK may still be used.
    fn known_primary(&self, account: &AccountState) -> Option<Arc<CachedKek>> {
        let known = account.primary.load_full()?;
        known.kek.is_live(self.now()).then(|| Arc::clone(&known.kek))
    }

    /// The KEK of this id, to open with.
    pub(crate) async fn kek(self: &Arc<Self>, account: &AccountState, id: KekId) -> Result<UsableKek, KeyError> {
        if self.caches_nothing() {
            return self.kek_once(account, id).await.map(|kek| UsableKek::Once(Box::new(kek)));
        }
        let runtime = self.runtime()?;
        self.load_kek_shared(&runtime, &account.path, id, None).await.map(UsableKek::Cached)
    }

    /// The primary, unwrapped for one operation and put into no cache.
    pub(crate) async fn primary_once(self: &Arc<Self>, account: &AccountState) -> Result<OneTimeKek, KeyError> {
        let path = &account.path;
        let stored = self.stored_primary(path).await?;
        let record = match stored {
            Some(record) => record,
            None => self.created_record(path).await?,
        };
        let derived = self.unwrap(&record).await?;
        Ok(OneTimeKek { identity: record.identity, derived })
    }

    /// Makes the account's first KEK, once for all callers of this process, and keeps nothing but its record.
    async fn created_record(self: &Arc<Self>, path: &KeyPath) -> Result<KekRecord, KeyError> {
        let runtime = self.runtime()?;
        let (engine, creating) = (Arc::clone(self), path.clone());
        let create = || async move {
            // Another creation may have ended between the caller's look into the store and this one.
            if let Some(record) = engine.stored_primary(&creating).await? {
                return Ok(Arc::new(record));
            }
            engine.refuse_without_primary(&creating).await?;
            let (record, _) = engine.generate(&creating).await?;
            match engine.store_first(&record).await? {
                Winner::Ours => Ok(Arc::new(record)),
                Winner::Theirs(record) => Ok(Arc::new(*record)),
            }
        };
        let creations = &self.local.get().creations;
        let created = creations.join(&runtime, self.load_window(), path.clone(), create).await?;
        Ok(KekRecord::clone(&created))
    }

    /// The KEK of this id, unwrapped for one operation and put into no cache.
    pub(crate) async fn kek_once(&self, account: &AccountState, id: KekId) -> Result<OneTimeKek, KeyError> {
        let record = self.stored_kek(&account.path, id).await?;
        let derived = self.unwrap(&record).await?;
        Ok(OneTimeKek { identity: record.identity, derived })
    }

    fn primary_load(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
    ) -> impl Future<Output = Result<Arc<CachedKek>, KeyError>> + Send + 'static {
        let (engine, account) = (Arc::clone(self), Arc::clone(account));
        async move { engine.load_primary(&account).await }
    }

    /// Runs in a task of its own, once for all callers who wait for this account's primary.
    async fn load_primary(self: &Arc<Self>, account: &AccountState) -> Result<Arc<CachedKek>, KeyError> {
        let path = &account.path;
        let now = self.now();
        if let Some(known) = account.primary.load_full()
            && !now.has_reached(known.renew_from)
            && known.kek.is_live(now)
        {
            return Ok(Arc::clone(&known.kek)); // another load ended just before this one began
        }
        let record = match self.stored_primary(path).await {
            Ok(record) => record,
            Err(error @ KeyError::StoreUnavailable(_)) => {
                // A store that is down is not a reason to stop: the KEK's own deadline still holds.
                let known = self.known_primary(account).ok_or(error)?;
                let retry = self.now().after(PRIMARY_RETRY);
                account.primary.store(Some(Primary::new(Arc::clone(&known), retry, retry)));
                return Ok(known);
            }
            Err(error) => return Err(error),
        };
        let read_at = self.now();
        let runtime = self.runtime()?;
        let kek = match record {
            Some(record) => self.load_kek_shared(&runtime, path, record.identity.id, Some(record)).await?,
            None => match self.create(path).await? {
                Made::Ours(kek) => kek,
                Made::Theirs(record) => self.load_kek_shared(&runtime, path, record.identity.id, Some(*record)).await?,
            },
        };
        let (renew_from, valid_until) = (read_at.after(PRIMARY_RENEWAL), read_at.after(PRIMARY_TTL));
        account.primary.store(Some(Primary::new(Arc::clone(&kek), renew_from, valid_until)));
        Ok(kek)
    }

    /// One unwrap for everybody who waits for this KEK. `record` is what the caller has just read, if it did.
    async fn load_kek_shared(
        self: &Arc<Self>,
        runtime: &Handle,
        path: &KeyPath,
        id: KekId,
        record: Option<KekRecord>,
    ) -> Result<Arc<CachedKek>, KeyError> {
        let key = (path.clone(), id);
        let (engine, path) = (Arc::clone(self), path.clone());
        let load = || async move {
            if let Some(cached) = engine.cache().get(&path, id, engine.now()) {
                return Ok(cached);
            }
            let record = match record {
                Some(record) => record,
                None => engine.stored_kek(&path, id).await?,
            };
            engine.cache().make_room()?;
            // Life is counted from before the request, not from the answer.
            let deadline = engine.now().after(engine.config.kek_ttl);
            let derived = engine.unwrap(&record).await?;
            engine.install(record.identity, &derived, deadline)
        };
        self.local.get().kek_loads.join(runtime, self.load_window(), key, load).await
    }

    fn install(
        &self,
        identity: KekIdentity,
        derived: &DerivedKek,
        deadline: Moment,
    ) -> Result<Arc<CachedKek>, KeyError> {
        if self.now().has_reached(deadline) {
            return Err(KeyError::Late { ttl: self.config.kek_ttl });
        }
        tracing::debug!(kek_id = %identity.id, version = identity.version.get(), "kek loaded");
        self.cache().install(identity, derived, deadline)
    }

    async fn stored_primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, KeyError> {
        let record = self.store.primary(path).await.map_err(|error| KeyError::from_store(error, None))?;
        match record {
            Some(record) if record.identity.path != *path || record.state != KekState::Primary => {
                Err(KeyError::corrupt(path, record.identity.id, RecordFault::NotTheOneAskedFor))
            }
            record => Ok(record),
        }
    }

    async fn stored_kek(&self, path: &KeyPath, id: KekId) -> Result<KekRecord, KeyError> {
        let record = self.store.record(path, id).await.map_err(|error| KeyError::from_store(error, Some(id)))?;
        let record = record.ok_or_else(|| KeyError::NotFound { path: path.clone(), kek_id: id })?;
        if record.identity.path != *path || record.identity.id != id {
            return Err(KeyError::corrupt(path, id, RecordFault::NotTheOneAskedFor));
        }
        match record.state {
            KekState::Primary | KekState::Retired => Ok(record),
            state => Err(KeyError::WrongState { path: path.clone(), kek_id: id, state }),
        }
    }

    /// One call to the root key, unless the record names another.
    async fn unwrap(&self, record: &KekRecord) -> Result<DerivedKek, KeyError> {
        let identity = &record.identity;
        let (path, id) = (&identity.path, identity.id);
        let is_ours = |wrap: &&WrappedSecret| matches!(&wrap.wrapper, Wrapper::Root(root) if root == self.root.id());
        let wrap = record.wraps.iter().find(is_ours).ok_or_else(|| self.wrong_root(record))?;
        let context = RootContext::of_kek(identity);
        let unwrapped = self.root.unwrap_key(&wrap.ciphertext, &context).await;
        let secret = unwrapped.map_err(|error| KeyError::from_root(error, path, id))?;
        let derived = identity.derive(&secret);
        if derived.check != record.check {
            return Err(KeyError::corrupt(path, id, RecordFault::CheckMismatch));
        }
        Ok(derived)
    }

    fn wrong_root(&self, record: &KekRecord) -> KeyError {
        let names = record.wraps.iter().map(|wrap| match &wrap.wrapper {
            Wrapper::Root(root) => root.to_string(),
            other => format!("{other:?}"),
        });
        KeyError::WrongRoot {
            path: record.identity.path.clone(),
            wrapped_by: names.collect::<Vec<_>>().join(", "),
            in_use: self.root.id().clone(),
        }
    }

    /// Makes the account's first KEK and puts it into the cache. It is durably stored before anybody may seal under it.
    async fn create(&self, path: &KeyPath) -> Result<Made, KeyError> {
        self.refuse_without_primary(path).await?;
        self.cache().make_room()?;
        let requested_at = self.now();
        let (record, derived) = self.generate(path).await?;
        // Into its slot before the store is waited for, so that it does not outlive its time if the store takes long.
        // Whoever finds it there by its id has an envelope sealed under it, and then it was stored.
        let kek = self.install(record.identity.clone(), &derived, requested_at.after(self.config.kek_ttl))?;
        drop(derived);
        let unless_stored = Discard { cache: self.cache(), kek: Some(&kek) };
        match self.store_first(&record).await? {
            Winner::Ours => {
                unless_stored.keep();
                tracing::debug!(kek_id = %record.identity.id, "kek created");
                Ok(Made::Ours(Arc::clone(&kek)))
            }
            Winner::Theirs(record) => Ok(Made::Theirs(record)),
        }
    }

    /// An account with KEKs and no primary is not a new one. Found out before a call is paid for.
    async fn refuse_without_primary(&self, path: &KeyPath) -> Result<(), KeyError> {
        let records = self.store.records(path).await.map_err(|error| KeyError::from_store(error, None))?;
        // Another process may have made the first one since the primary was looked for.
        if records.is_empty() || records.iter().any(|record| record.state == KekState::Primary) {
            return Ok(());
        }
        Err(KeyError::NoPrimary { path: path.clone(), keks: records.len() })
    }

    /// A new KEK and its record, stored nowhere yet. One call to the root key.
    async fn generate(&self, path: &KeyPath) -> Result<(KekRecord, DerivedKek), KeyError> {
        let id = KekId::generate()?;
        let identity = KekIdentity { suite: self.config.suite, version: KekVersion::FIRST, id, path: path.clone() };
        let created_at = self.now().real.as_secs();
        let generated = self.root.generate_key(&RootContext::of_kek(&identity)).await;
        let GeneratedKey { secret, wrapped } = generated.map_err(|error| KeyError::from_root(error, path, id))?;
        let derived = identity.derive(&secret);
        let wrapped_bytes = wrapped.len();
        let record = KekRecord {
            identity,
            state: KekState::Primary,
            check: derived.check,
            created_at,
            retired_at: 0,
            wraps: vec![WrappedSecret { wrapper: Wrapper::Root(self.root.id().clone()), ciphertext: wrapped }],
        };
        // All else in the record is this engine's own.
        record.encode().map_err(|error| {
            KeyError::RootUnavailable(RootKeyError::Unavailable {
                message: format!("it answered with a wrapped key of {wrapped_bytes} bytes; 1 to 8,192 can be stored"),
                source: Some(Arc::new(error)),
            })
        })?;
        Ok((record, derived))
    }

    /// Stores an account's first record, and says whose became the account's primary.
    async fn store_first(&self, record: &KekRecord) -> Result<Winner, KeyError> {
        let (path, id) = (&record.identity.path, record.identity.id);
        match self.store.create(record).await {
            Ok(Creation::Created) => Ok(Winner::Ours),
            Ok(Creation::Exists) => match self.stored_primary(path).await? {
                Some(winner) => Ok(Winner::Theirs(Box::new(winner))),
                None => Err(KeyError::NoPrimary { path: path.clone(), keks: 1 }),
            },
            // The write may or may not have happened. Only finding our own id says that it did.
            Err(error) => match self.store.record(path, id).await {
                Ok(Some(stored)) if stored == *record => Ok(Winner::Ours),
                _ => Err(KeyError::from_store(error, None)),
            },
        }
    }
}

/// Overwrites a new KEK whose record did not become the account's primary, however the attempt ended.
struct Discard<'a> {
    cache: &'a KekCache,
    kek: Option<&'a Arc<CachedKek>>,
}

impl Discard<'_> {
    fn keep(mut self) {
        self.kek = None;
    }
}

impl Drop for Discard<'_> {
    fn drop(&mut self) {
        if let Some(kek) = self.kek {
            self.cache.discard(kek);
        }
    }
}

/// What became of the creation of an account's first KEK.
enum Made {
    Ours(Arc<CachedKek>),
    /// Another task or process was first; its record is the one to use.
    Theirs(Box<KekRecord>),
}

/// Whose record became the account's primary.
enum Winner {
    Ours,
    Theirs(Box<KekRecord>),
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
        self.0.cache().close();
    }
}

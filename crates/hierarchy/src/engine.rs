//! Getting an account's KEK: from the cache, from the store through the root key, or by making one.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use keystrata_memory::{ArenaConfig, ProcessLocal};
use keystrata_primitives::{
    DerivedKek, Kek, KekId, KekIdentity, KekRecord, KekState, KekVersion, KeyPath, Suite, WrappedSecret, Wrapper,
};

use crate::{
    cache::{CachedKek, KekCache},
    clock::{Clock, Moment},
    error::{KeyError, RecordFault, own_record_refused},
    flight::Flights,
    root::{RootContext, RootKey},
    store::{Creation, KekStore},
};

/// How long a process goes on sealing under the primary it knows before it asks the store again.
const PRIMARY_TTL: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Zero: nothing is cached.
    pub(crate) kek_ttl: Duration,
    pub(crate) capacity: usize,
    pub(crate) memory: ArenaConfig,
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
    accounts: moka::sync::Cache<KeyPath, Arc<AccountState>>,
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
    valid_until: Moment,
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
            accounts: moka::sync::Cache::new(local_config.capacity as u64),
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

    /// The primary at hand: no waiting, no store, no KMS.
    pub(crate) fn primary_at_hand(account: &AccountState, now: Moment) -> Option<Arc<CachedKek>> {
        let primary = account.primary.load();
        let primary = primary.as_ref()?;
        (!now.has_reached(primary.valid_until)).then(|| Arc::clone(&primary.kek))
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
        let (engine, state) = (Arc::clone(self), Arc::clone(account));
        let load = || async move { engine.load_primary(&state).await };
        self.local.get().primary_loads.join(account.path.clone(), load).await.map(UsableKek::Cached)
    }

    /// The KEK of this id, to open with.
    pub(crate) async fn kek(self: &Arc<Self>, account: &AccountState, id: KekId) -> Result<UsableKek, KeyError> {
        if self.caches_nothing() {
            return self.kek_once(account, id).await.map(|kek| UsableKek::Once(Box::new(kek)));
        }
        self.load_kek_shared(&account.path, id, None).await.map(UsableKek::Cached)
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
        let (engine, creating) = (Arc::clone(self), path.clone());
        let create = || async move {
            // Another creation may have ended between the caller's look into the store and this one.
            if let Some(record) = engine.stored_primary(&creating).await? {
                return Ok(Arc::new(record));
            }
            match engine.create(&creating).await? {
                Made::Ours(record, _) | Made::Theirs(record) => Ok(Arc::new(*record)),
            }
        };
        let created = self.local.get().creations.join(path.clone(), create).await?;
        Ok(KekRecord::clone(&created))
    }

    /// The KEK of this id, unwrapped for one operation and put into no cache.
    pub(crate) async fn kek_once(&self, account: &AccountState, id: KekId) -> Result<OneTimeKek, KeyError> {
        let record = self.stored_kek(&account.path, id).await?;
        let derived = self.unwrap(&record).await?;
        Ok(OneTimeKek { identity: record.identity, derived })
    }

    /// Runs in a task of its own, once for all callers who wait for this account's primary.
    async fn load_primary(self: &Arc<Self>, account: &AccountState) -> Result<Arc<CachedKek>, KeyError> {
        let path = &account.path;
        let now = self.now();
        let known = account.primary.load_full();
        if let Some(known) = &known
            && !now.has_reached(known.valid_until)
            && known.kek.is_live(now)
        {
            return Ok(Arc::clone(&known.kek)); // another load ended just before this one began
        }
        let record = match self.stored_primary(path).await {
            Ok(record) => record,
            Err(error @ KeyError::StoreUnavailable(_)) => {
                // A store that is down is not a reason to stop: the KEK's own deadline still holds.
                let known = known.filter(|known| known.kek.is_live(self.now()));
                return known.map(|known| Arc::clone(&known.kek)).ok_or(error);
            }
            Err(error) => return Err(error),
        };
        let read_at = self.now();
        let kek = match record {
            Some(record) => self.load_kek_shared(path, record.identity.id, Some(record)).await?,
            None => match self.create(path).await? {
                Made::Ours(record, (derived, deadline)) => self.install(record.identity, &derived, deadline)?,
                Made::Theirs(record) => self.load_kek_shared(path, record.identity.id, Some(*record)).await?,
            },
        };
        let primary = Primary { kek: Arc::clone(&kek), valid_until: read_at.after(PRIMARY_TTL) };
        account.primary.store(Some(Arc::new(primary)));
        Ok(kek)
    }

    /// One unwrap for everybody who waits for this KEK. `record` is what the caller has just read, if it did.
    async fn load_kek_shared(
        self: &Arc<Self>,
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
            // Life is counted from before the request, not from the answer.
            let deadline = engine.now().after(engine.config.kek_ttl);
            let derived = engine.unwrap(&record).await?;
            engine.install(record.identity, &derived, deadline)
        };
        self.local.get().kek_loads.join(key, load).await
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

    /// Makes the account's first KEK. It is durably stored before anybody may use it.
    async fn create(&self, path: &KeyPath) -> Result<Made, KeyError> {
        let id = KekId::generate()?;
        let identity = KekIdentity { suite: Suite::default(), version: KekVersion::FIRST, id, path: path.clone() };
        let requested_at = self.now();
        let generated = self.root.generate_key(&RootContext::of_kek(&identity)).await;
        let generated = generated.map_err(|error| KeyError::from_root(error, path, id))?;
        let derived = identity.derive(&generated.secret);
        let wrap = WrappedSecret { wrapper: Wrapper::Root(self.root.id().clone()), ciphertext: generated.wrapped };
        let record = KekRecord {
            identity,
            state: KekState::Primary,
            check: derived.check,
            created_at: requested_at.real.as_secs(),
            retired_at: 0,
            wraps: vec![wrap],
        };
        record.encode().map_err(|error| own_record_refused(path, id, error))?;
        let deadline = requested_at.after(self.config.kek_ttl);
        match self.store.create(&record).await {
            Ok(Creation::Created) => {}
            Ok(Creation::Exists) => {
                let winner = self.stored_primary(path).await?;
                let gone = || KeyError::corrupt(path, id, RecordFault::NotTheOneAskedFor);
                return winner.map(|record| Made::Theirs(Box::new(record))).ok_or_else(gone);
            }
            // The write may or may not have happened. Only finding our own id says that it did.
            Err(error) => match self.store.record(path, id).await {
                Ok(Some(stored)) if stored == record => {}
                _ => return Err(KeyError::from_store(error, Some(id))),
            },
        }
        tracing::debug!(kek_id = %id, "kek created");
        Ok(Made::Ours(Box::new(record), (derived, deadline)))
    }
}

/// Who won the creation of an account's first KEK.
enum Made {
    /// This call: the record, the key and how long it may be used.
    Ours(Box<KekRecord>, (DerivedKek, Moment)),
    /// Another task or process, whose record is the one to use.
    Theirs(Box<KekRecord>),
}

//! Loads: what a KEK that is not at hand costs, once for all who wait for it.

use std::{sync::Arc, time::Duration};

use keystrata_primitives::{DerivedKek, KekId, KekRecord, KekState, RootKeyId};
use tokio::runtime::Handle;
use tracing::Instrument;

use super::{Engine, UsableKek, audited::Deed, create::Made, parents::Climb};
use crate::{
    audit::{AuditAction, AuditOutcome},
    cache::{AccountState, CachedKek, Epoch, Life, NotInstalled},
    clock::Nanos,
    error::{KeyError, RecordFault},
    flight::{Answer, For, LoadError},
    root::Demand,
    store::StoreError,
};

/// How long a process goes on sealing under the primary it knows before it must have asked the store again.
pub(super) const PRIMARY_TTL: Duration = Duration::from_secs(30);

/// From when on it asks in the background, so that nobody waits for a store that answers in time.
const PRIMARY_RENEWAL: Duration = Duration::from_secs(15);

/// After a store that could not be asked, how long until it is asked again; after a KMS that is out of reach, how long a
/// KEK is let beyond its deadline before the KMS is asked again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Waiting longer than this for a store is no use while a KEK is at hand.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// How often an operation begins anew because what it waited for was invalidated. More often is a storm of
/// invalidations, and its caller may as well know.
pub(super) const TRIES: usize = 4;

impl From<NotInstalled> for LoadError {
    fn from(error: NotInstalled) -> Self {
        match error {
            NotInstalled::Outdated => Self::Outdated,
            NotInstalled::Failed(error) => Self::Key(error),
        }
    }
}

impl Engine {
    /// The KEK that new objects of the account are sealed under; made now if the account has none.
    pub(crate) async fn primary(self: &Arc<Self>, account: &Arc<AccountState>) -> Result<UsableKek, KeyError> {
        if !self.caches(account) {
            return self.primary_once(account).await.map(|kek| UsableKek::Once(Arc::new(kek)));
        }
        let runtime = self.runtime()?;
        for _ in 0..TRIES {
            self.refuse_if_closed()?;
            let epoch = self.cache().epoch(account);
            if let Some(denial) = self.denial(account, epoch) {
                return Err(denial);
            }
            // The KMS was out of reach a moment ago; it is asked again when the excuse is used up.
            let now = self.now();
            if let Some(excused) = self.known_primary(account).filter(|kek| kek.is_stale(now)) {
                return Ok(UsableKek::Cached(excused));
            }
            let flights = &self.local.get().primary_loads;
            let key = (account.path.clone(), epoch);
            if let Some(began) = flights.began(&runtime, key.clone())
                && self.now().has_reached(began.after(STORE_PATIENCE))
                && let Some(known) = self.known_primary(account)
            {
                return Ok(UsableKek::Cached(known)); // the store hangs
            }
            let window = self.load_window(&account.policy);
            let load = |demand| self.primary_load(account, epoch, demand, Climb::CACHED);
            let (was_under_way, answer) = flights.join(&runtime, window, key, For::Caller, load).await;
            self.signals.shared_waits.add(was_under_way.into());
            match answer {
                Ok(kek) => return Ok(UsableKek::Cached(kek)),
                Err(LoadError::Key(error)) => return self.excused(error, account.last_primary()),
                Err(LoadError::Outdated) => {}
            }
        }
        Err(KeyError::Interrupted)
    }

    /// The last primary, however long ago the store said so, if its KEK may still be used.
    fn known_primary(&self, account: &AccountState) -> Option<Arc<CachedKek>> {
        let is_newest = |kek: &CachedKek| account.newest().is_none_or(|newest| kek.identity().version >= newest);
        account.last_primary().filter(|known| known.is_live(self.now()) && is_newest(known))
    }

    /// The KEK of this id, to open with.
    pub(crate) async fn kek(self: &Arc<Self>, account: &Arc<AccountState>, id: KekId) -> Result<UsableKek, KeyError> {
        if !self.caches(account) {
            return self.kek_once(account, id).await.map(|kek| UsableKek::Once(Arc::new(kek)));
        }
        let runtime = self.runtime()?;
        for _ in 0..TRIES {
            self.refuse_if_closed()?;
            let epoch = self.cache().epoch(account);
            let denial = self.denial(account, epoch);
            if let Some(refusal) = denial.or_else(|| self.absence(account, id, epoch)) {
                return Err(refusal);
            }
            if let Some(here) = self.cache().get(&account.path, id, self.now()) {
                return Ok(UsableKek::Cached(here)); // come meanwhile, or excused
            }
            match self.load_kek_shared(&runtime, account, (id, None), epoch, For::Caller, Climb::CACHED).await {
                Ok(kek) => return Ok(UsableKek::Cached(kek)),
                Err(LoadError::Key(error)) => {
                    return self.excused(error, self.cache().get_any(&account.path, id));
                }
                Err(LoadError::Outdated) => {}
            }
        }
        Err(KeyError::Interrupted)
    }

    /// A KEK past its deadline, if its policy allows that while the KMS is out of reach; else the error.
    fn excused(&self, error: KeyError, expired: Option<Arc<CachedKek>>) -> Result<UsableKek, KeyError> {
        if !error.is_out_of_reach() {
            return Err(error);
        }
        match expired.filter(|kek| kek.excuse(self.now(), RETRY)) {
            None => Err(error),
            Some(kek) => {
                self.signals.stale_uses.add(1);
                tracing::warn!(kek_id = %kek.id(), %error, "a kek is used beyond its deadline, as its policy allows");
                Ok(UsableKek::Cached(kek))
            }
        }
    }

    pub(super) fn primary_load(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        epoch: Epoch,
        demand: Demand,
        climb: Climb,
    ) -> impl Future<Output = Answer<Arc<CachedKek>>> + Send + 'static {
        let (engine, account) = (Arc::clone(self), Arc::clone(account));
        async move { engine.load_primary(&account, epoch, &demand, climb).await }
    }

    /// Runs in a task of its own, once for all callers who wait for this account's primary.
    async fn load_primary(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Arc<CachedKek>> {
        let now = self.now();
        if account.is_primary_fresh(now)
            && let Some(known) = self.known_primary(account)
        {
            return Ok(known); // another load ended just before this one began
        }
        let record = match self.stored_primary(account).await {
            Ok(record) => record,
            Err(error @ (KeyError::StoreUnavailable(_) | KeyError::RolledBack { .. })) => {
                // A store that is down, or lags behind, is not a reason to stop: the KEK's own deadline still holds.
                let known = self.known_primary(account).ok_or(error)?;
                // Longer than until the next try, so that this is made in the background too.
                account.believe(self.now().after(RETRY), self.now().after(PRIMARY_TTL));
                return Ok(known);
            }
            Err(error) => return Err(error.into()),
        };
        let read_at = self.now();
        let record = match record {
            // Nobody waits for a new KEK while the old one is at hand.
            Some(record) if self.cache().get(&account.path, record.identity.id, self.now()).is_some() => {
                if self.is_too_old(account, &record) {
                    self.begin_rotation(account, record.identity.id);
                }
                record
            }
            Some(record) => self.rotated_if_old(account, record, epoch, demand, climb).await,
            None => match self.create(account, epoch, demand, climb).await? {
                Made::Ours(kek) => return Ok(self.know_primary(account, kek, read_at, epoch)),
                Made::Theirs(record) => *record,
            },
        };
        let id = record.identity.id;
        let runtime = self.runtime()?;
        let here = self.cache().get(&account.path, id, self.now());
        let kek = if let Some(kek) = here {
            kek
        } else {
            let whom = For::Load(demand);
            self.load_kek_shared(&runtime, account, (id, Some(record)), epoch, whom, climb).await?
        };
        Ok(self.know_primary(account, kek, read_at, epoch))
    }

    /// Notes that the store showed this KEK as the primary at `read_at`.
    pub(super) fn know_primary(
        &self,
        account: &AccountState,
        kek: Arc<CachedKek>,
        read_at: crate::clock::Moment,
        epoch: Epoch,
    ) -> Arc<CachedKek> {
        let times = (read_at.after(PRIMARY_RENEWAL), read_at.after(PRIMARY_TTL));
        self.cache().set_primary(account, &kek, times, epoch);
        kek
    }

    /// One unwrap for everybody who waits for this KEK. `record` is what the caller has just read, if it did.
    pub(super) async fn load_kek_shared(
        self: &Arc<Self>,
        runtime: &Handle,
        account: &Arc<AccountState>,
        (id, record): (KekId, Option<KekRecord>),
        epoch: Epoch,
        whom: For<'_>,
        climb: Climb,
    ) -> Answer<Arc<CachedKek>> {
        let key = (account.path.clone(), id, epoch);
        let (engine, account) = (Arc::clone(self), Arc::clone(account));
        let window = self.load_window(&account.policy);
        let load = |demand| async move {
            let now = engine.now();
            if let Some(cached) = engine.cache().get(&account.path, id, now).filter(|kek| climb.finds(kek, now)) {
                return Ok(cached);
            }
            engine.load_kek(&account, id, record, epoch, &demand, climb).await
        };
        let (was_under_way, answer) = self.local.get().kek_loads.join(runtime, window, key, whom, load).await;
        self.signals.shared_waits.add(was_under_way.into());
        answer
    }

    /// Reads the record, asks the root key, and puts the KEK into the cache.
    pub(super) async fn load_kek(
        self: &Arc<Self>,
        account: &Arc<AccountState>,
        id: KekId,
        record: Option<KekRecord>,
        epoch: Epoch,
        demand: &Demand,
        climb: Climb,
    ) -> Answer<Arc<CachedKek>> {
        let record = match record {
            Some(record) => record,
            None => self.stored_kek(account, id, epoch).await?,
        };
        self.cache().make_room(&account.path)?;
        let span = tracing::debug_span!("load_kek", kek_id = %id, version = record.identity.version.get());
        let unwrapped = self.unwrap(account, &record, epoch, demand, climb).instrument(span).await?;
        // Life is counted from before the request, not from the answer.
        let life = self.life(account, &unwrapped);
        self.install(account, &record.identity, &unwrapped.derived, &life, epoch)
    }

    pub(super) fn install(
        &self,
        account: &Arc<AccountState>,
        identity: &keystrata_primitives::KekIdentity,
        derived: &DerivedKek,
        life: &Life,
        epoch: Epoch,
    ) -> Answer<Arc<CachedKek>> {
        if Nanos::from(self.now()).has_reached(life.deadline()) {
            if life.is_cut_short() {
                return Err(LoadError::Outdated); // its parent's time was up meanwhile
            }
            let late = Err(KeyError::Late { ttl: life.ttl });
            self.signals.load(&late);
            return late.map_err(LoadError::Key);
        }
        tracing::debug!(kek_id = %identity.id, version = identity.version.get(), "kek loaded");
        Ok(self.cache().install(account, identity, derived, life, epoch)?)
    }

    /// What the store says is the account's primary, never one older than was seen before.
    pub(super) async fn stored_primary(&self, account: &AccountState) -> Result<Option<KekRecord>, KeyError> {
        let path = &account.path;
        let record = self.store.primary(path).await.map_err(|error| KeyError::from_store(error, None));
        let record = record.and_then(|record| checked_primary(account, record));
        record.inspect_err(|error| self.obey(account, error))
    }

    pub(super) async fn stored_kek(
        &self,
        account: &Arc<AccountState>,
        id: KekId,
        epoch: Epoch,
    ) -> Result<KekRecord, KeyError> {
        let record = self.checked_kek(account, id, epoch).await;
        record.inspect_err(|error| self.obey(account, error))
    }

    async fn checked_kek(&self, account: &Arc<AccountState>, id: KekId, epoch: Epoch) -> Result<KekRecord, KeyError> {
        let path = &account.path;
        let record = self.store.record(path, id).await.map_err(|error| KeyError::from_store(error, Some(id)))?;
        let Some(record) = record else {
            let error = KeyError::NotFound { path: path.clone(), kek_id: id };
            self.local.get().refusals.not_found(account, id, error.clone(), epoch, self.now());
            return Err(error);
        };
        if record.identity.path != *path || record.identity.id != id {
            return Err(KeyError::corrupt(path, id, RecordFault::NotTheOneAskedFor));
        }
        match record.state {
            KekState::Primary | KekState::Retired => Ok(record),
            state => Err(KeyError::WrongState { path: path.clone(), kek_id: id, state }),
        }
    }

    /// The store says that a KEK which may be in memory must not be used any more: it is overwritten now, and so is what
    /// rests on it, however long it might have lived.
    fn obey(&self, account: &AccountState, error: &KeyError) {
        let path = &account.path;
        let is_here = match error {
            KeyError::SealingDisabled { .. } => {
                self.cache().forget_primary(account);
                false
            }
            KeyError::WrongState { kek_id, .. }
            | KeyError::BelowMinVersion(StoreError::BelowMinVersion { kek_id, .. }) => {
                self.cache().get_any(path, *kek_id).is_some()
            }
            KeyError::Shredded(_) => self.cache().holds_any(path),
            _ => false,
        };
        // Only then: others may be loading what may still be used, and would have to begin anew with every refusal.
        if is_here
            && let Some((overwritten, _)) =
                self.cache().invalidate_since(account, self.cache().epoch(account), |_| true)
        {
            self.signals.invalidations.add(1);
            tracing::warn!(%error, overwritten, "the store gives up a kek that is in memory; it is overwritten");
        }
    }

    /// What the root key answers counts for nobody if the account was invalidated since it was asked: neither its keys,
    /// nor its refusals, which an operator may just have lifted.
    pub(super) fn refuse_outdated(&self, account: &AccountState, epoch: Epoch) -> Answer<()> {
        self.refuse_if_closed()?;
        if self.cache().epoch(account) == epoch { Ok(()) } else { Err(LoadError::Outdated) }
    }

    /// A root key, asked under `epoch`, refuses this KEK of the account: what it vouches for is overwritten now, and it is
    /// not asked for the account again for a while. What another root key authorised stays, but for the KEK that a current
    /// one refuses.
    pub(super) fn note_denial(
        &self,
        account: &Arc<AccountState>,
        refused: KekId,
        root: &RootKeyId,
        error: KeyError,
        epoch: Epoch,
    ) -> LoadError {
        self.signals.denials.add(1);
        let (number, is_current) = (self.local.get().root_numbers.of(root), self.placement(account).is_current(root));
        let falls = |kek: &CachedKek| {
            let is_refused = is_current && kek.id() == refused && !kek.is_recovered();
            is_refused || kek.authority().falls_with(number)
        };
        let Some((overwritten, epoch)) = self.cache().invalidate_since(account, epoch, falls) else {
            return LoadError::Outdated;
        };
        self.signals.invalidations.add(1);
        tracing::warn!(%error, %root, overwritten, "the kms denies an account's kek; its keks by that root key are overwritten");
        self.local.get().refusals.denied(account, root, error.clone(), epoch, self.now());
        let deed = Deed::to_all(self.actor(), AuditAction::Denied, &account.path);
        self.tell(&deed, AuditOutcome::Failed(error.to_string()));
        error.into()
    }

    pub(super) fn absence(&self, account: &AccountState, id: KekId, epoch: Epoch) -> Option<KeyError> {
        let absence = self.local.get().refusals.absence(account, id, epoch, self.now());
        self.signals.remembered.add(absence.is_some().into());
        absence
    }
}

/// The primary as the store shows it, if it may be that and may seal.
fn checked_primary(account: &AccountState, record: Option<KekRecord>) -> Result<Option<KekRecord>, KeyError> {
    let path = &account.path;
    let found = record.as_ref().map(|record| &record.identity);
    match (&record, found, account.newest()) {
        (Some(record), Some(found), _) if found.path != *path || record.state == KekState::Destroyed => {
            Err(KeyError::corrupt(path, found.id, RecordFault::NotTheOneAskedFor))
        }
        (_, Some(found), Some(seen)) if found.version < seen => {
            Err(KeyError::RolledBack { path: path.clone(), found: found.version, seen })
        }
        (Some(record), Some(found), _) if record.state == KekState::Disabled => {
            Err(KeyError::WrongState { path: path.clone(), kek_id: found.id, state: record.state })
        }
        (Some(record), ..) if record.state == KekState::Retired => {
            Err(KeyError::SealingDisabled { path: path.clone() })
        }
        _ => Ok(record),
    }
}

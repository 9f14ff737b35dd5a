//! What is done ahead of time, so that callers do not wait for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use keystrata_primitives::{KeyPath, RootKeyId};
use tokio::task::JoinSet;

use super::{
    Engine, LOAD_PATIENCE,
    load::{RETRY, TRIES},
    parents::Climb,
};
use crate::{
    cache::{AccountState, CachedKek, RootNumber},
    clock::Moment,
    error::KeyError,
    flight::{For, LoadError, unless_outdated},
    root::Demand,
};

/// How many renewals ahead of a deadline are under way at most under one root key. A KEK that finds no place asks again a
/// second later.
const REFRESHES: usize = 64;

/// What shares a limit of warming: accounts under one root key, so that one that does not answer holds up nobody else's.
type Lane = Option<RootKeyId>;

/// The renewals ahead of a deadline that are under way. Those that have taken too long hold no place.
#[derive(Debug, Default)]
pub(super) struct Refreshes(Mutex<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    /// By the root key that vouches for what is renewed, which need not be the one that wraps what is new.
    begun: HashMap<RootNumber, Vec<(u64, Moment)>>,
}

/// The place of one renewal.
struct RefreshPermit(Arc<Refreshes>, RootNumber, u64);

impl Refreshes {
    fn begin(self: &Arc<Self>, lane: RootNumber, now: Moment) -> Option<RefreshPermit> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = under_way.next;
        let begun = under_way.begun.entry(lane).or_default();
        begun.retain(|(_, began)| !now.has_reached(began.after(LOAD_PATIENCE)));
        if begun.len() >= REFRESHES {
            return None;
        }
        begun.push((number, now));
        under_way.next += 1;
        Some(RefreshPermit(Arc::clone(self), lane, number))
    }
}

impl Drop for RefreshPermit {
    fn drop(&mut self) {
        let mut under_way = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = under_way.begun.get_mut(&self.1) {
            begun.retain(|(number, _)| *number != self.2);
            if begun.is_empty() {
                under_way.begun.remove(&self.1);
            }
        }
    }
}

/// How many accounts [`Engine::warm`] loads at a time under one root key.
const WARMING: usize = 16;

/// What became of [`Hierarchy::warm`](crate::Hierarchy::warm).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Warmed {
    /// Accounts whose KEK is in memory now.
    pub ready: usize,
    /// Accounts that have no KEK yet. They get none by this.
    pub unknown: Vec<KeyPath>,
    /// Accounts whose KEK could not be had.
    pub failed: Vec<(KeyPath, KeyError)>,
}

impl Engine {
    /// Begins to renew a KEK that is used near its deadline, unless somebody has within the last second.
    pub(super) fn refresh(self: &Arc<Self>, account: &Arc<AccountState>, kek: &CachedKek) {
        let Ok(runtime) = self.runtime() else { return };
        if !self.caches(account) {
            return; // not any more
        }
        // The exact time, which the time of a use may be ahead of: what is above has to be due too.
        let now = self.now();
        if !kek.claim_refresh(now, RETRY) {
            return;
        }
        let local = self.local.get();
        let Some(permit) = local.refreshes.begin(kek.authority().root, now) else { return };
        let (engine, account, id) = (Arc::clone(self), Arc::clone(account), kek.id());
        // What is above it first, if that ends with it.
        let climb = Climb::renewed(kek.parents_end_at_most());
        let epoch = self.cache().epoch(&account);
        let key = (account.path.clone(), id, epoch);
        let window = self.load_window(&account.policy);
        let load = |demand: Demand| async move {
            let _permit = permit;
            // Its record is read again: whoever disabled or destroyed it is to be obeyed.
            let renewed = engine.load_kek(&account, id, None, epoch, &demand, climb).await;
            if let Err(LoadError::Key(error)) = &renewed {
                tracing::debug!(%error, "a kek could not be renewed ahead of its deadline");
            }
            renewed
        };
        if local.kek_loads.begin(&runtime, window, key, load) {
            self.signals.refreshes.add(1);
        }
    }

    /// Begins to ask the store for the primary again, unless somebody has.
    #[cold]
    pub(super) fn renew_primary(self: &Arc<Self>, account: &Arc<AccountState>) {
        let Ok(runtime) = self.runtime() else { return };
        let now = self.now();
        if !account.claim_renewal(now, RETRY) {
            return;
        }
        let epoch = self.cache().epoch(account);
        let load = |demand| self.primary_load(account, epoch, demand, Climb::CACHED);
        let (key, window) = ((account.path.clone(), epoch), self.load_window(&account.policy));
        self.local.get().primary_loads.begin(&runtime, window, key, load);
    }

    /// Loads the primaries of these accounts, in the background as far as a budget is concerned. Makes no account.
    pub(crate) async fn warm(
        self: &Arc<Self>,
        accounts: impl IntoIterator<Item = KeyPath>,
    ) -> Result<Warmed, KeyError> {
        self.refuse_if_closed()?;
        let runtime = self.runtime()?;
        let mut lanes: HashMap<Lane, VecDeque<KeyPath>> = HashMap::new();
        for path in accounts {
            lanes.entry(self.lane(&path)).or_default().push_back(path);
        }
        let mut loading = JoinSet::new();
        for waiting in lanes.into_values() {
            let at_a_time = waiting.len().min(WARMING);
            let waiting = Arc::new(Mutex::new(waiting));
            // A few tasks that go on, not one for each account: among a million of those what stays is strewn.
            for _ in 0..at_a_time {
                loading.spawn_on(Arc::clone(self).warm_in_turn(Arc::clone(&waiting)), &runtime);
            }
        }
        let mut warmed = Warmed::default();
        while let Some(part) = loading.join_next().await {
            let Ok(part) = part else { return Err(KeyError::Interrupted) };
            warmed.ready += part.ready;
            warmed.unknown.extend(part.unknown);
            warmed.failed.extend(part.failed);
        }
        Ok(warmed)
    }

    async fn warm_in_turn(self: Arc<Self>, waiting: Arc<Mutex<VecDeque<KeyPath>>>) -> Warmed {
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let mut warmed = Warmed::default();
        while let Some(path) = next() {
            match self.warm_one(&path).await {
                Ok(true) => warmed.ready += 1,
                Ok(false) => warmed.unknown.push(path),
                Err(error) => warmed.failed.push((path, error)),
            }
        }
        warmed
    }

    /// The root key that an account's loads ask first.
    fn lane(&self, path: &KeyPath) -> Lane {
        self.topology.wrapping_roots(path).first().map(|root| root.id().clone())
    }

    async fn warm_one(self: &Arc<Self>, path: &KeyPath) -> Result<bool, KeyError> {
        let (account, now) = (self.account(path), self.now());
        let is_here = || account.primary().as_ref().is_some_and(|kek| kek.is_live(now));
        if !self.caches(&account) || (account.is_primary_believed(now) && is_here()) {
            return Ok(true);
        }
        for _ in 0..TRIES {
            let epoch = self.cache().epoch(&account);
            let Some(record) = self.stored_primary(&account).await? else { return Ok(false) };
            let (runtime, read_at) = (self.runtime()?, self.now());
            if let Some(denial) = self.denial(&account, epoch) {
                return Err(denial);
            }
            let (id, demand) = (record.identity.id, Demand::background());
            let whom = For::Load(&demand);
            let loaded = self.load_kek_shared(&runtime, &account, (id, Some(record)), epoch, whom, Climb::CACHED).await;
            if let Some(kek) = unless_outdated(loaded)? {
                self.know_primary(&account, kek, read_at, epoch);
                return Ok(true);
            }
        }
        Err(KeyError::Interrupted)
    }
}

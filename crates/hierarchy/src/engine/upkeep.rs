//! What is done ahead of time, so that callers do not wait for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use keystrata_primitives::KeyPath;
use tokio::task::JoinSet;

use super::{
    Engine, LOAD_PATIENCE,
    load::{RETRY, TRIES},
};
use crate::{
    cache::{AccountState, CachedKek},
    clock::Moment,
    error::KeyError,
    flight::{For, LoadError, unless_outdated},
    root::Demand,
};

/// How many renewals ahead of a deadline are under way at most. A KEK that finds no place asks again a second later.
const REFRESHES: usize = 64;

/// The renewals ahead of a deadline that are under way. Those that have taken too long hold no place.
#[derive(Debug, Default)]
pub(super) struct Refreshes(Mutex<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    begun: Vec<(u64, Moment)>,
}

/// The place of one renewal.
struct RefreshPermit(Arc<Refreshes>, u64);

impl Refreshes {
    fn begin(self: &Arc<Self>, now: Moment) -> Option<RefreshPermit> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.begun.retain(|(_, began)| !now.has_reached(began.after(LOAD_PATIENCE)));
        if under_way.begun.len() >= REFRESHES {
            return None;
        }
        let number = under_way.next;
        under_way.next += 1;
        under_way.begun.push((number, now));
        Some(RefreshPermit(Arc::clone(self), number))
    }
}

impl Drop for RefreshPermit {
    fn drop(&mut self) {
        let mut under_way = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.begun.retain(|(number, _)| *number != self.1);
    }
}

/// How many accounts [`Engine::warm`] loads at a time.
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
    pub(super) fn refresh(self: &Arc<Self>, account: &Arc<AccountState>, kek: &CachedKek, now: Moment) {
        let Ok(runtime) = self.runtime() else { return };
        if !kek.claim_refresh(now, RETRY) {
            return;
        }
        let local = self.local.get();
        let Some(permit) = local.refreshes.begin(now) else { return };
        let (engine, account, id) = (Arc::clone(self), Arc::clone(account), kek.id());
        let epoch = self.cache().epoch(&account);
        let key = (account.path.clone(), id, epoch);
        let window = self.load_window(&account.policy);
        let load = |demand: Demand| async move {
            let _permit = permit;
            // Its record is read again: whoever disabled or destroyed it is to be obeyed.
            let renewed = engine.load_kek(&account, id, None, epoch, &demand).await;
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
    pub(super) fn renew_primary(self: &Arc<Self>, account: &Arc<AccountState>, now: Moment) {
        let Ok(runtime) = self.runtime() else { return };
        if !account.claim_renewal(now, RETRY) {
            return;
        }
        let epoch = self.cache().epoch(account);
        let load = |demand| self.primary_load(account, epoch, demand);
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
        let mut waiting: VecDeque<KeyPath> = accounts.into_iter().collect();
        let mut warmed = Warmed::default();
        let mut loading = JoinSet::new();
        loop {
            while loading.len() < WARMING
                && let Some(path) = waiting.pop_front()
            {
                let engine = Arc::clone(self);
                loading.spawn_on(
                    async move {
                        let ready = engine.warm_one(&path).await;
                        (path, ready)
                    },
                    &runtime,
                );
            }
            match loading.join_next().await {
                None => return Ok(warmed),
                Some(Ok((_, Ok(true)))) => warmed.ready += 1,
                Some(Ok((path, Ok(false)))) => warmed.unknown.push(path),
                Some(Ok((path, Err(error)))) => warmed.failed.push((path, error)),
                Some(Err(_)) => return Err(KeyError::Interrupted),
            }
        }
    }

    async fn warm_one(self: &Arc<Self>, path: &KeyPath) -> Result<bool, KeyError> {
        let (account, now) = (self.account(path), self.now());
        let is_here = || account.primary().as_ref().is_some_and(|kek| kek.is_live(now));
        if account.policy.caches_nothing() || (account.is_primary_believed(now) && is_here()) {
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
            let loaded = self.load_kek_shared(&runtime, &account, id, Some(record), epoch, For::Load(&demand)).await;
            if let Some(kek) = unless_outdated(loaded)? {
                self.know_primary(&account, kek, read_at, epoch);
                return Ok(true);
            }
        }
        Err(KeyError::Interrupted)
    }
}

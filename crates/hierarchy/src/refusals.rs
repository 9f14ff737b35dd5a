//! Refusals that are remembered for a while, so that what cannot work is not tried with every request.
//!
//! Three bounded lists, one for each reason, so that none pushes out another: an account that a root key denies, a record
//! that is corrupt, a KEK that is not there. They hold nothing secret. Each refusal keeps the moment at which it is
//! forgotten, by the engine's clock, and the epoch that it was made under: an invalidation forgets it too.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keystrata_primitives::{KekId, KekRecord, KeyPath, RootKeyId};
use moka::{policy::EvictionPolicy, sync::Cache};

use crate::{
    cache::{AccountState, Epoch},
    clock::Moment,
    error::KeyError,
};

/// How long a denial is believed. Long enough not to trouble a KMS that has said no, short enough for an operator who
/// waits for a permission to take effect.
const DENIED: Duration = Duration::from_secs(30);

/// How long a corrupt record is not tried again. Repaired bytes are another record, and tried at once.
const CORRUPT: Duration = Duration::from_secs(30);

/// How long a KEK that was not there is not looked for: another process may just have made it.
const NOT_FOUND: Duration = Duration::from_secs(1);

/// Of each kind. What is over it is forgotten early and costs a call or a read.
const CAPACITY: u64 = 10_000;

pub(crate) struct Refusals {
    denied: List<(KeyPath, RootKeyId), Refusal<()>>,
    corrupt: List<(KeyPath, KekId), Refusal<u64>>,
    not_found: List<(KeyPath, KekId), Refusal<()>>,
    hasher: RandomState,
}

/// A bounded list that lets the oldest go.
struct List<K, V> {
    listed: Cache<K, V>,
    /// Every load looks into all lists, and in most processes they stay empty.
    was_used: AtomicBool,
}

#[derive(Clone)]
struct Refusal<T> {
    of: T,
    error: KeyError,
    epoch: Epoch,
    until: Moment,
    /// Epochs are counted as long as the account's state lives, so it lives as long as this.
    #[expect(dead_code, reason = "held, not read")]
    account: Arc<AccountState>,
}

impl<T: PartialEq> Refusal<T> {
    fn answer(self, of: &T, epoch: Epoch, now: Moment) -> Option<KeyError> {
        (self.of == *of && self.epoch == epoch && !now.has_reached(self.until)).then_some(self.error)
    }
}

impl Refusals {
    pub(crate) fn new() -> Self {
        Self { denied: List::new(), corrupt: List::new(), not_found: List::new(), hasher: RandomState::new() }
    }

    /// This root key denied one of the account's KEKs, and the account was invalidated for it: `epoch` is the one since
    /// then.
    pub(crate) fn denied(
        &self,
        account: &Arc<AccountState>,
        root: &RootKeyId,
        error: KeyError,
        epoch: Epoch,
        now: Moment,
    ) {
        let (until, name) = (now.after(DENIED), (account.path.clone(), root.clone()));
        self.denied.insert(name, Refusal { of: (), error, epoch, until, account: Arc::clone(account) });
    }

    pub(crate) fn denial(
        &self,
        account: &AccountState,
        root: &RootKeyId,
        epoch: Epoch,
        now: Moment,
    ) -> Option<KeyError> {
        self.denied.get(|| (account.path.clone(), root.clone()))?.answer(&(), epoch, now)
    }

    pub(crate) fn corrupt(
        &self,
        account: &Arc<AccountState>,
        record: &KekRecord,
        error: KeyError,
        epoch: Epoch,
        now: Moment,
    ) {
        let (of, until) = (self.hash(record), now.after(CORRUPT));
        self.corrupt.insert(name(record), Refusal { of, error, epoch, until, account: Arc::clone(account) });
    }

    pub(crate) fn corruption(&self, record: &KekRecord, epoch: Epoch, now: Moment) -> Option<KeyError> {
        self.corrupt.get(|| name(record))?.answer(&self.hash(record), epoch, now)
    }

    pub(crate) fn not_found(&self, account: &Arc<AccountState>, id: KekId, error: KeyError, epoch: Epoch, now: Moment) {
        let (until, name) = (now.after(NOT_FOUND), (account.path.clone(), id));
        self.not_found.insert(name, Refusal { of: (), error, epoch, until, account: Arc::clone(account) });
    }

    pub(crate) fn absence(&self, account: &AccountState, id: KekId, epoch: Epoch, now: Moment) -> Option<KeyError> {
        self.not_found.get(|| (account.path.clone(), id))?.answer(&(), epoch, now)
    }

    /// By its bytes as they are stored.
    fn hash(&self, record: &KekRecord) -> u64 {
        self.hasher.hash_one(record.encode().unwrap_or_default())
    }
}

impl<K: Eq + Hash + Send + Sync + 'static, V: Clone + Send + Sync + 'static> List<K, V> {
    /// What is forgotten by the engine's clock is let go of by the machine's too.
    fn new() -> Self {
        let listed = Cache::builder().max_capacity(CAPACITY).eviction_policy(EvictionPolicy::lru());
        Self { listed: listed.time_to_live(2 * DENIED).build(), was_used: AtomicBool::new(false) }
    }

    fn insert(&self, name: K, refusal: V) {
        self.was_used.store(true, Ordering::Relaxed);
        self.listed.insert(name, refusal);
    }

    fn get(&self, name: impl FnOnce() -> K) -> Option<V> {
        self.was_used.load(Ordering::Relaxed).then(|| self.listed.get(&name())).flatten()
    }
}

fn name(record: &KekRecord) -> (KeyPath, KekId) {
    (record.identity.path.clone(), record.identity.id)
}

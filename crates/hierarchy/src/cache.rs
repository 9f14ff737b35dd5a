//! Decrypted KEKs: found by account and KEK id, refused at their deadline, overwritten by it.
//!
//! Three things are kept apart. The *slots* of `keystrata-memory` hold the key bytes. The *shards* of the index find them
//! and know when they are due. The *sweeper* is a thread of its own that overwrites what is due, whether or not anybody
//! calls, and does not depend on an async runtime that may be blocked or gone.
//!
//! A hit on an account's primary takes no lock: its handles share an [`AccountState`]. All else takes the lock of one
//! shard, for well under a microsecond and whatever the number of KEKs: there are as many shards as keep each small.

mod account;
mod authority;
mod kek;
mod lineage;
mod shard;
mod sweeper;

use std::{
    fmt,
    hash::{BuildHasher, DefaultHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use keystrata_memory::{Arena, ArenaConfig, MemoryError, MemoryReport, process_epoch};
use keystrata_primitives::{DerivedKek, KekId, KekIdentity, KeyPath};
use secrecy::ExposeSecret;

pub(crate) use self::{
    account::AccountState,
    authority::{Authority, How, RootNumber, RootNumbers},
    kek::{CachedKek, Life, Parentage},
    lineage::{Lineage, Warrant},
};
use self::{
    lineage::Warrants,
    shard::{Held, Shard, is_inside},
    sweeper::Agenda,
};
use crate::{
    clock::{Alarm, Clock, Moment},
    error::KeyError,
    policy::Policy,
    signals::Signals,
};

/// So many KEKs a shard when the cache is full, or there are this many shards. A table of this size grows in some twenty
/// microseconds; it has 1,024 places and takes 896, and by chance a shard gets a tenth more than its part.
const KEKS_PER_SHARD: usize = 176;
const MOST_SHARDS: usize = 8_192;

/// The KEKs of one process. Dropping it overwrites them all.
pub(crate) struct KekCache {
    shared: Arc<Shared>,
    sweeper: Mutex<Option<JoinHandle<()>>>,
}

/// What the cache, its sweeper and its accounts hold.
struct Shared {
    clock: Arc<dyn Clock>,
    alarm: Arc<Alarm>,
    arena: Arc<Arena>,
    signals: Arc<Signals>,
    capacity: usize,
    /// KEKs in the index, and those that are about to be.
    len: AtomicUsize,
    shards: Box<[Mutex<Shard>]>,
    /// Of each shard, by boot time: nothing in it is due before. Changed under its lock; read without, so that a sweep looks
    /// only where something may be due.
    first_due: Box<[AtomicU64]>,
    hasher: ShardHasher,
    /// Whether there is no sweeper.
    is_swept_by_hand: bool,
    warrants: Warrants,
    /// Whether any account has a path of more than one segment.
    has_inner: AtomicBool,
    agenda: Agenda,
    /// Goes up when everything is invalidated.
    epoch: AtomicU64,
    is_closed: AtomicBool,
    process: u64,
}

/// Spreads the accounts over the shards.
enum ShardHasher {
    /// So that nobody who chooses accounts' names can choose a shard for them.
    Random(RandomState),
    /// The same in every run, for simulations.
    Fixed,
}

impl BuildHasher for ShardHasher {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        match self {
            Self::Random(state) => state.build_hasher(),
            Self::Fixed => DefaultHasher::new(),
        }
    }
}

/// How often an account and all of them were invalidated. What was asked for under another epoch is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Epoch(u64, u64);

/// Why a KEK was not put in.
#[derive(Debug)]
pub(crate) enum NotInstalled {
    /// It was invalidated while it was on its way.
    Outdated,
    Failed(KeyError),
}

impl Shared {
    fn shard_index(&self, path: &KeyPath) -> usize {
        // The upper half of the hash, as a part of the number of shards.
        let part = u128::from(self.hasher.hash_one(path) >> 32) * self.shards.len() as u128;
        usize::try_from(part >> 32).unwrap_or_default()
    }

    fn shard(&self, path: &KeyPath) -> MutexGuard<'_, Shard> {
        self.shard_at(self.shard_index(path))
    }

    fn shard_at(&self, index: usize) -> MutexGuard<'_, Shard> {
        // No code panics while it holds the lock.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// When the first KEK of a shard is due, or sooner.
    fn first_due(&self, index: usize) -> u64 {
        self.first_due[index].load(Ordering::Relaxed)
    }

    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        (0..self.shards.len()).map(|index| self.shard_at(index))
    }

    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// In a forked child the locks are its parent's, and may be held for ever.
    fn is_of_this_process(&self) -> bool {
        process_epoch() == self.process
    }

    /// Overwrites what is out of the index; gives the number.
    fn overwrite(&self, held: &[Held]) -> usize {
        for held in held {
            held.kek.overwrite();
        }
        self.len.fetch_sub(held.len(), Ordering::Relaxed);
        sweeper::counted(|| self.signals.wiped.add(held.len() as u64));
        held.len()
    }

    fn overwrite_expired(&self, due: &[Held]) {
        let expired = self.overwrite(due);
        sweeper::counted(|| self.signals.expiries.add(expired as u64));
    }

    /// Makes room for one KEK in the shard of this index or, where that one has none, in the next that has.
    fn evict(&self, from: usize, spared: Option<&Arc<CachedKek>>) -> bool {
        let count = self.shards.len();
        let evicted = (0..count).find_map(|step| self.shard_at((from + step) % count).evict(spared));
        let evicted = self.overwrite(evicted.as_slice());
        self.signals.evictions.add(evicted as u64);
        evicted > 0
    }
}

impl KekCache {
    /// `is_swept_by_hand`: without a sweeper, and with each account in the same shard in every run.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        memory: ArenaConfig,
        capacity: usize,
        signals: Arc<Signals>,
        is_swept_by_hand: bool,
    ) -> Self {
        let shards = capacity.div_ceil(KEKS_PER_SHARD).clamp(1, MOST_SHARDS);
        let agenda = Agenda::new(clock.now());
        let shared = Shared {
            clock,
            alarm: Alarm::shared(),
            arena: Arena::new(memory),
            signals,
            capacity,
            len: AtomicUsize::new(0),
            shards: (0..shards).map(|_| Mutex::new(Shard::new(agenda.offset()))).collect(),
            first_due: (0..shards).map(|_| AtomicU64::new(u64::MAX)).collect(),
            hasher: if is_swept_by_hand { ShardHasher::Fixed } else { ShardHasher::Random(RandomState::new()) },
            is_swept_by_hand,
            warrants: Warrants::default(),
            has_inner: AtomicBool::new(false),
            agenda,
            epoch: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            process: process_epoch(),
        };
        Self { shared: Arc::new(shared), sweeper: Mutex::default() }
    }

    /// The account of this path; `policy` is asked for a new one.
    pub(crate) fn account(&self, path: &KeyPath, policy: impl FnOnce() -> Policy) -> Arc<AccountState> {
        if let Some(account) = self.shared.shard(path).account(path) {
            return account;
        }
        if path.segments().nth(1).is_some() {
            self.shared.has_inner.store(true, Ordering::SeqCst);
        }
        // Somebody else's code, so not under the lock.
        let new = AccountState::new(path.clone(), policy(), Arc::downgrade(&self.shared));
        let mut shard = self.shared.shard(path);
        let account = shard.account(path).unwrap_or_else(|| {
            shard.add_account(&new);
            Arc::clone(&new)
        });
        // Before `new`, which takes the lock if another was quicker.
        drop(shard);
        account
    }

    /// Whether this process made the account's state: a forked child has its own.
    pub(crate) fn is_home_of(&self, account: &AccountState) -> bool {
        account.is_at_home(&self.shared)
    }

    /// To be asked before the work on a KEK begins, and shown when it is put in.
    pub(crate) fn epoch(&self, account: &AccountState) -> Epoch {
        Epoch(self.shared.epoch.load(Ordering::SeqCst), account.epoch.load(Ordering::SeqCst))
    }

    /// To be taken before a KEK of `path` is looked for that is to unwrap others.
    pub(crate) fn warrant(&self, path: &KeyPath) -> Arc<Warrant> {
        self.shared.warrants.of(path)
    }

    /// What a KEK rests on that a KEK of `path` unwraps, which rests on `above`.
    pub(crate) fn lineage(&self, path: &KeyPath, warrant: &Arc<Warrant>, above: Option<&Lineage>) -> Arc<Lineage> {
        self.shared.warrants.lineage(path, warrant, above)
    }

    /// The KEK if it is here and may be used.
    pub(crate) fn get(&self, path: &KeyPath, id: KekId, now: Moment) -> Option<Arc<CachedKek>> {
        self.get_any(path, id).filter(|kek| kek.is_live(now))
    }

    /// The KEK if it is here, whether or not its time is up.
    pub(crate) fn get_any(&self, path: &KeyPath, id: KekId) -> Option<Arc<CachedKek>> {
        self.shared.shard(path).get(path, id)
    }

    /// Makes sure that a KEK could be put in now, before a call is paid for it. Where the memory's policy allows no more
    /// slots, another KEK makes room.
    pub(crate) fn make_room(&self, path: &KeyPath) -> Result<(), KeyError> {
        self.start_sweeper()?;
        let Err(error) = self.shared.arena.ensure_free() else { return Ok(()) };
        if self.shared.evict(self.shared.shard_index(path), None) { Ok(()) } else { Err(KeyError::Memory(error)) }
    }

    /// Puts a KEK in that was asked for under `epoch`. Another makes room if it must.
    ///
    /// Nothing keeps a parent's KEK in while KEKs that it unwrapped are: those were authorised until their own end, which is
    /// not after their parent's, and go on until then.
    pub(crate) fn install(
        &self,
        account: &Arc<AccountState>,
        identity: &KekIdentity,
        derived: &DerivedKek,
        life: &Life,
        epoch: Epoch,
    ) -> Result<Arc<CachedKek>, NotInstalled> {
        let shared = &*self.shared;
        self.start_sweeper().map_err(NotInstalled::Failed)?;
        // One copy of the path for all that is kept.
        let identity = KekIdentity { path: account.path.clone(), ..*identity };
        let was_degraded = self.memory().is_degraded();
        let index = shared.shard_index(&account.path);
        let slot = loop {
            match shared.arena.store(derived.expose_secret()) {
                Ok(slot) => break slot,
                // Another took the slot that there was room for. Each eviction frees one, so this ends.
                Err(MemoryError::Forked) => return Err(NotInstalled::Failed(KeyError::Memory(MemoryError::Forked))),
                Err(_) if shared.evict(index, None) => {}
                Err(error) => return Err(NotInstalled::Failed(KeyError::Memory(error))),
            }
        };
        let kek = Arc::new(CachedKek::new(identity, slot, life));
        shared.len.fetch_add(1, Ordering::Relaxed);
        let inserted = {
            let mut locked = shared.shard_at(index);
            // Under the lock that an invalidation takes too: either it finds the KEK here, or its epoch is seen.
            if locked.is_closed {
                Err(NotInstalled::Failed(KeyError::Closed))
            } else if self.epoch(account) != epoch || kek.lineage().is_some_and(|lineage| lineage.is_void()) {
                Err(NotInstalled::Outdated)
            } else {
                let inserted = locked.insert(&kek, account);
                shared.first_due[index].fetch_min(inserted.0, Ordering::Relaxed);
                Ok(inserted)
            }
        };
        let (due, replaced) = match inserted {
            Ok(inserted) => inserted,
            Err(refused) => {
                kek.overwrite();
                shared.len.fetch_sub(1, Ordering::Relaxed);
                return Err(refused);
            }
        };
        if !shared.is_swept_by_hand && (shared.agenda.note(due) || shared.agenda.has_jumped(shared.clock.now())) {
            shared.alarm.ring();
        }
        shared.overwrite(replaced.as_slice());
        while shared.len() > shared.capacity && shared.evict(index, Some(&kek)) {}
        // Last: whatever a subscriber does, the key is in the index and will be overwritten.
        let report = self.memory();
        if report.is_degraded() && !was_degraded {
            tracing::warn!(
                secret_bytes = report.secret_bytes,
                locked_bytes = report.locked_bytes,
                unlocked_bytes = report.unlocked_bytes,
                out_of_core_dumps = report.out_of_core_dumps,
                wiped_on_fork = report.wiped_on_fork,
                "key memory lacks a protection; raise RLIMIT_MEMLOCK if bytes are unlocked"
            );
        }
        Ok(kek)
    }

    /// From now on `kek` is the account's primary, unless the account was invalidated since `epoch`.
    pub(crate) fn set_primary(
        &self,
        account: &AccountState,
        kek: &Arc<CachedKek>,
        (renew_from, valid_until): (Moment, Moment),
        epoch: Epoch,
    ) {
        let shard = self.shared.shard(&account.path);
        if self.epoch(account) != epoch || shard.is_closed {
            return;
        }
        // It may have been renewed, evicted or overwritten since it was loaded. An account does not hold on to those.
        match shard.get(&account.path, kek.id()) {
            Some(newest) => account.set_primary(&newest, renew_from, valid_until),
            None => account.note_version(kek.identity().version),
        }
        account.forget_older();
    }

    /// Asks the store before anything is sealed for the account again. What is in memory goes on opening.
    pub(crate) fn forget_primary(&self, account: &AccountState) {
        let _locked = self.shared.shard(&account.path);
        account.primary.store(None);
    }

    /// Whether any KEK of the account is here.
    pub(crate) fn holds_any(&self, path: &KeyPath) -> bool {
        self.shared.shard(path).of_account(path).next().is_some()
    }

    /// Whether any KEK of the account is here that its recovery root unwrapped.
    pub(crate) fn holds_recovered(&self, path: &KeyPath, now: Moment) -> bool {
        self.shared.shard(path).of_account(path).any(|kek| kek.is_recovered() && kek.is_live(now))
    }

    /// Overwrites one KEK now.
    pub(crate) fn discard(&self, kek: &Arc<CachedKek>) {
        let removed = self.shared.shard(&kek.identity().path).remove(kek);
        self.shared.overwrite(removed.as_slice());
        kek.overwrite();
    }

    /// Overwrites all KEKs of an account, of those inside it and of all that rest on one of these, and whatever loads that
    /// are under way for them bring. Gives their number.
    ///
    /// While KEKs rest on it, this looks at every KEK there is.
    pub(crate) fn invalidate(&self, path: &KeyPath) -> usize {
        let shared = &*self.shared;
        let mut overwritten = self.invalidate_account(path);
        if shared.has_inner.load(Ordering::SeqCst) {
            let inside: Vec<KeyPath> = shared.shards().flat_map(|shard| shard.accounts_inside(path)).collect();
            overwritten += inside.iter().map(|inner| self.invalidate_account(inner)).sum::<usize>();
        }
        // Only now: see `lineage`.
        let may_be_any = shared.warrants.void(|listed| listed == path || is_inside(listed, path));
        overwritten + if may_be_any { self.overwrite_void() } else { 0 }
    }

    fn invalidate_account(&self, path: &KeyPath) -> usize {
        let (account, taken) = self.shared.shard(path).take_account(path, |_| true);
        drop(account);
        self.shared.overwrite(&taken)
    }

    /// Overwrites the KEKs of an account that fall, and all that rest on the account's, unless it was invalidated since
    /// `epoch`; gives their number and the epoch from now on. What loads that are under way bring is worth nothing.
    pub(crate) fn invalidate_since(
        &self,
        account: &AccountState,
        epoch: Epoch,
        falls: impl Fn(&CachedKek) -> bool,
    ) -> Option<(usize, Epoch)> {
        let (listed, taken) = {
            let mut shard = self.shared.shard(&account.path);
            if self.epoch(account) != epoch {
                return None;
            }
            shard.take_account(&account.path, falls)
        };
        drop(listed);
        let mut overwritten = self.shared.overwrite(&taken);
        if self.shared.warrants.void_one(&account.path) {
            overwritten += self.overwrite_void();
        }
        Some((overwritten, Epoch(epoch.0, epoch.1 + 1)))
    }

    /// Overwrites all KEKs whose lineage is void.
    fn overwrite_void(&self) -> usize {
        // All keys first: taking them out of the index, with what goes with them, takes ten times as long.
        for index in 0..self.shared.shard_count() {
            let void = self.shared.shard_at(index).void();
            for kek in &void {
                kek.overwrite();
            }
        }
        self.overwrite_in_each(Shard::take_void)
    }

    /// Overwrites all KEKs, and whatever loads that are under way bring.
    pub(crate) fn invalidate_all(&self) -> usize {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        let overwritten = self.overwrite_all(false);
        // A load that began since may have found a parent's KEK before its turn came.
        let may_be_any = self.shared.warrants.void(|_| true);
        overwritten + if may_be_any { self.overwrite_void() } else { 0 }
    }

    /// Overwrites all KEKs, and from now on whatever is put in.
    pub(crate) fn close(&self) {
        self.overwrite_all(true);
        // After that, so that the sweeper's last word is of an empty cache.
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.alarm.ring();
    }

    fn overwrite_all(&self, close: bool) -> usize {
        self.overwrite_in_each(|shard| {
            shard.is_closed |= close;
            shard.take_all()
        })
    }

    fn overwrite_in_each(&self, take: impl Fn(&mut Shard) -> Vec<Held>) -> usize {
        let indices = 0..self.shared.shard_count();
        let overwrite = |index| {
            let taken = take(&mut self.shared.shard_at(index));
            self.shared.overwrite(&taken)
        };
        indices.map(overwrite).sum()
    }

    /// How many KEKs are held, those that are due in this instant included.
    pub(crate) fn len(&self) -> usize {
        self.shared.len()
    }

    pub(crate) fn memory(&self) -> MemoryReport {
        self.shared.arena.report()
    }

    /// The greatest time since the root key was asked for a KEK that is here, and how many are used beyond their deadline.
    /// Looks at every KEK.
    pub(crate) fn ages(&self, now: Moment) -> (Option<Duration>, usize) {
        self.shared.shards().fold((None, 0), |(oldest, stale), shard| {
            let here = shard.keks().map(|kek| kek.age(now)).max();
            (oldest.max(here), stale + shard.keks().filter(|kek| kek.is_used_stale(now)).count())
        })
    }

    /// What the sweeper does when it wakes.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn sweep_by_hand(&self) {
        sweeper::sweep(&self.shared, self.shared.clock.now());
    }

    /// The thread starts with the first key: an engine that only builds handles costs none.
    fn start_sweeper(&self) -> Result<(), KeyError> {
        if self.shared.is_swept_by_hand {
            return if self.shared.is_closed() { Err(KeyError::Closed) } else { Ok(()) };
        }
        let mut sweeper = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
        // One that ended, since a clock panicked, is replaced.
        if sweeper.as_ref().is_none_or(JoinHandle::is_finished) {
            if self.shared.is_closed() {
                return Err(KeyError::Closed);
            }
            let shared = Arc::clone(&self.shared);
            shared.clock.expect_sleeper(&shared.alarm);
            let thread = std::thread::Builder::new().name("keystrata-sweep".into());
            // A key that nobody would overwrite must not be kept.
            let started = thread.spawn(move || sweeper::run(&shared));
            *sweeper = Some(started.map_err(|error| {
                tracing::error!(%error, "cannot start the thread that overwrites expired keys");
                KeyError::NoSweeper
            })?);
        }
        Ok(())
    }
}

impl Drop for KekCache {
    fn drop(&mut self) {
        self.close();
        if let Some(sweeper) = self.sweeper.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // It owns no engine, so it cannot be the thread that drops this one; it leaves at its next look.
            let _ = sweeper.join();
        }
    }
}

impl fmt::Debug for KekCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KekCache").field("len", &self.len()).field("memory", &self.memory()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

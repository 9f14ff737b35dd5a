//! Decrypted KEKs: found by account and KEK id, refused at their deadline, overwritten by it.
//!
//! Three things are kept apart. The *slots* of `keystrata-memory` hold the key bytes. The *index* here finds them and
//! knows when they are due. The *sweeper* is a thread of its own that overwrites what is due, whether or not anybody
//! calls, and does not depend on an async runtime that may be blocked or gone.

mod index;
mod sweeper;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use keystrata_memory::{Arena, ArenaConfig, MemoryReport, Slot};
use keystrata_primitives::{DerivedKek, Kek, KekId, KekIdentity, KeyPath};
use secrecy::ExposeSecret;

use self::index::Index;
use crate::{
    clock::{Alarm, Clock, Moment},
    error::KeyError,
};

/// One decrypted KEK, for as long as it may be used.
pub(crate) struct CachedKek {
    identity: KekIdentity,
    slot: Slot,
    deadline: Moment,
}

impl CachedKek {
    pub(crate) fn id(&self) -> KekId {
        self.identity.id
    }

    /// Runs `f` with the key unless its time is up at `now`, or it was overwritten.
    pub(crate) fn with_key<R>(&self, now: Moment, f: impl FnOnce(&Kek<'_>) -> R) -> Option<R> {
        if now.has_reached(self.deadline) {
            return None;
        }
        self.slot.with_key(|key| f(&Kek::new(key, &self.identity)))
    }

    pub(crate) fn is_live(&self, now: Moment) -> bool {
        !now.has_reached(self.deadline) && self.slot.is_live()
    }
}

impl fmt::Debug for CachedKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedKek").field("id", &self.id()).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// The KEKs of one process. Dropping it overwrites them all.
pub(crate) struct KekCache {
    shared: Arc<Shared>,
    sweeper: Mutex<Option<JoinHandle<()>>>,
}

/// What the cache and its sweeper both hold.
struct Shared {
    clock: Arc<dyn Clock>,
    alarm: Arc<Alarm>,
    arena: Arc<Arena>,
    index: Mutex<Index>,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // No code panics while it holds the lock.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KekCache {
    pub(crate) fn new(clock: Arc<dyn Clock>, memory: ArenaConfig, capacity: usize) -> Self {
        let index = Mutex::new(Index::new(capacity));
        let shared = Shared { clock, alarm: Alarm::shared(), arena: Arena::new(memory), index };
        Self { shared: Arc::new(shared), sweeper: Mutex::default() }
    }

    /// The KEK if it is here and its time is not up.
    pub(crate) fn get(&self, path: &KeyPath, id: KekId, now: Moment) -> Option<Arc<CachedKek>> {
        let found = self.shared.index().get(path, id)?;
        found.is_live(now).then_some(found)
    }

    /// Makes sure that a KEK could be put in now, before a call is paid for it. Where the memory's policy allows no more
    /// slots, the KEK with the nearest deadline makes room.
    pub(crate) fn make_room(&self) -> Result<(), KeyError> {
        self.start_sweeper()?;
        let Err(error) = self.shared.arena.ensure_free() else { return Ok(()) };
        match self.shared.index().take_nearest() {
            Some(nearest) => {
                nearest.slot.wipe();
                Ok(())
            }
            None => Err(KeyError::Memory(error)),
        }
    }

    /// Puts a KEK in, to be used until `deadline`. Whichever KEK has the nearest deadline makes room if it must.
    pub(crate) fn install(
        &self,
        identity: KekIdentity,
        derived: &DerivedKek,
        deadline: Moment,
    ) -> Result<Arc<CachedKek>, KeyError> {
        self.start_sweeper()?;
        let was_degraded = self.memory().is_degraded();
        let slot = self.shared.arena.store(derived.expose_secret()).map_err(KeyError::Memory)?;
        let kek = Arc::new(CachedKek { identity, slot, deadline });
        let now = self.shared.clock.now();
        let inserted = self.shared.index().insert(Arc::clone(&kek), now);
        for displaced in inserted.displaced {
            displaced.slot.wipe();
        }
        if inserted.is_due_before_sweeper_wakes {
            self.shared.alarm.ring();
        }
        // Last: whatever a subscriber does, the key is in the index and will be overwritten.
        let report = self.memory();
        if report.is_degraded() && !was_degraded {
            tracing::warn!(
                unlocked_bytes = report.unlocked_bytes,
                out_of_core_dumps = report.out_of_core_dumps,
                wiped_on_fork = report.wiped_on_fork,
                "key memory lacks a protection; raise RLIMIT_MEMLOCK if bytes are unlocked"
            );
        }
        Ok(kek)
    }

    /// Overwrites one KEK now.
    pub(crate) fn discard(&self, kek: &Arc<CachedKek>) {
        self.shared.index().remove(kek);
        kek.slot.wipe();
    }

    /// Overwrites all KEKs, and from now on whatever is put in.
    pub(crate) fn close(&self) {
        let all = self.shared.index().close();
        for kek in all {
            kek.slot.wipe();
        }
        self.shared.alarm.ring();
    }

    /// How many KEKs are held, those that are due in this instant included.
    pub(crate) fn len(&self) -> usize {
        self.shared.index().len()
    }

    pub(crate) fn memory(&self) -> MemoryReport {
        self.shared.arena.report()
    }

    /// The thread starts with the first key: an engine that only builds handles costs none.
    fn start_sweeper(&self) -> Result<(), KeyError> {
        let mut sweeper = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
        // One that ended, since a clock panicked, is replaced.
        if sweeper.as_ref().is_none_or(JoinHandle::is_finished) {
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
mod tests {
    use std::time::Duration;

    use keystrata_primitives::{KekVersion, SecretKey, Suite};

    use super::*;
    use crate::{clock::SystemClock, test_util::ManualClock};

    fn identity(n: u8) -> KekIdentity {
        let (id, path) = (KekId::from_bytes([n; 16]), KeyPath::account("acme").unwrap());
        KekIdentity { suite: Suite::default(), version: KekVersion::FIRST, id, path }
    }

    fn install(cache: &KekCache, n: u8, life: Duration) -> Arc<CachedKek> {
        let derived = identity(n).derive(&SecretKey::from_slice(&[n; 32]).unwrap());
        cache.install(identity(n), &derived, cache.shared.clock.now().after(life)).unwrap()
    }

    /// Waits for what another thread is about to do, and fails if it does not.
    fn eventually(is_so: impl Fn() -> bool) {
        let patience = std::time::Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(std::time::Instant::now() < patience, "it did not happen");
            std::thread::yield_now();
        }
    }

    #[test]
    fn debug_shows_no_byte_of_a_key() {
        let cache = KekCache::new(Arc::new(ManualClock::new()), ArenaConfig::default(), 10);
        let secret = SecretKey::from_slice(&[7; 32]).unwrap();
        let derived = identity(7).derive(&secret);
        let kek = install(&cache, 7, Duration::from_secs(1));
        let shown = format!("{cache:?} {kek:?} {:?} {derived:?} {secret:?}", kek.slot).to_lowercase();
        let key = derived.expose_secret();
        for [a, b, c] in key.array_windows() {
            assert!(!shown.contains(&format!("{a}, {b}, {c}")), "{shown}");
            assert!(!shown.contains(&format!("{a:02x}{b:02x}{c:02x}")), "{shown}");
        }
    }

    #[test]
    fn a_discarded_kek_is_overwritten_and_another_of_its_name_is_not() {
        let cache = KekCache::new(Arc::new(ManualClock::new()), ArenaConfig::default(), 10);
        let first = install(&cache, 1, Duration::from_secs(1));
        let second = install(&cache, 1, Duration::from_secs(2));
        assert!(!first.slot.is_live(), "the second took its place");
        cache.discard(&first);
        assert!(second.slot.is_live() && cache.len() == 1);
        cache.discard(&second);
        assert!(!second.slot.is_live() && cache.len() == 0);
    }

    #[test]
    fn what_is_put_into_a_closed_cache_is_overwritten() {
        let cache = KekCache::new(Arc::new(ManualClock::new()), ArenaConfig::default(), 10);
        let before = install(&cache, 1, Duration::from_secs(1));
        cache.close();
        let after = install(&cache, 2, Duration::from_secs(1));
        assert!(!before.slot.is_live() && !after.slot.is_live());
        assert_eq!(cache.memory().slots_used, 0);
    }

    #[test]
    fn the_system_clocks_sweeper_wakes_for_what_came_while_it_slept() {
        let cache = KekCache::new(Arc::new(SystemClock), ArenaConfig::default(), 10);
        for n in 0..3 {
            // Between rounds it sleeps without an end.
            let kek = install(&cache, n, Duration::from_millis(5));
            eventually(|| !kek.slot.is_live());
        }
    }

    /// A clock whose sweeper's first look panics.
    #[derive(Debug)]
    struct Panicking(ManualClock, std::sync::atomic::AtomicBool);

    impl Clock for Panicking {
        fn now(&self) -> Moment {
            let is_sweeper = std::thread::current().name() == Some("keystrata-sweep");
            let panics = is_sweeper && self.1.swap(false, std::sync::atomic::Ordering::SeqCst);
            assert!(!panics, "as the test wants it to");
            self.0.now()
        }

        fn expect_sleeper(&self, alarm: &Arc<Alarm>) {
            self.0.expect_sleeper(alarm);
        }

        fn forget_sleeper(&self, alarm: &Arc<Alarm>) {
            self.0.forget_sleeper(alarm);
        }

        fn wait(&self, alarm: &Arc<Alarm>, until: Option<Moment>) {
            self.0.wait(alarm, until);
        }
    }

    #[test]
    fn a_sweeper_that_died_is_replaced_before_the_next_key_is_taken() {
        let clock = ManualClock::new();
        let panicking = Panicking(clock.clone(), true.into());
        let cache = KekCache::new(Arc::new(panicking), ArenaConfig::default(), 10);
        install(&cache, 1, Duration::from_secs(1));
        eventually(|| cache.sweeper.lock().unwrap().as_ref().is_some_and(JoinHandle::is_finished));
        install(&cache, 2, Duration::from_secs(1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(cache.memory().slots_used, 0);
    }
}

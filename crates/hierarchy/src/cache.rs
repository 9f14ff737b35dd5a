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
        let report = self.memory();
        if report.is_degraded() && !was_degraded {
            tracing::warn!(
                unlocked_bytes = report.unlocked_bytes,
                out_of_core_dumps = report.out_of_core_dumps,
                wiped_on_fork = report.wiped_on_fork,
                "key memory lacks a protection; raise RLIMIT_MEMLOCK if bytes are unlocked"
            );
        }
        let kek = Arc::new(CachedKek { identity, slot, deadline });
        let inserted = self.shared.index().insert(Arc::clone(&kek));
        for displaced in inserted.displaced {
            displaced.slot.wipe();
        }
        if inserted.is_due_before_sweeper_wakes {
            self.shared.alarm.ring();
        }
        Ok(kek)
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
        if sweeper.is_none() {
            let shared = Arc::clone(&self.shared);
            shared.clock.expect_sleeper(&shared.alarm);
            let thread = std::thread::Builder::new().name("keystrata-sweep".into());
            // A key that nobody would overwrite must not be kept.
            let started = thread.spawn(move || sweeper::run(&shared));
            *sweeper = Some(started.map_err(|error| {
                tracing::error!(%error, "cannot start the thread that overwrites expired keys");
                KeyError::Interrupted("the system has no thread left for the key sweeper")
            })?);
        }
        Ok(())
    }
}

impl Drop for KekCache {
    fn drop(&mut self) {
        let all = self.shared.index().close();
        for kek in all {
            kek.slot.wipe();
        }
        self.shared.alarm.ring();
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

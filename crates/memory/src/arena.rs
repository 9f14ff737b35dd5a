//! The arena that owns the pages, and the handles to its slots.

use std::{
    fmt, io,
    mem::{ManuallyDrop, size_of},
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use zeroize::{Zeroize, Zeroizing};

use crate::{
    epoch::process_epoch,
    error::MemoryError,
    map::{Mapping, lock_limit_bytes, page_bytes},
    raw::RawSlot,
};

/// 16 KiB: some 400 keys for a few system calls, and little locked memory in a process with few keys. Rounded up to a
/// page where pages are larger.
const CHUNK_BYTES: usize = 16 * 1024;

/// What to do when the memory for more slots cannot be locked in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnprotected {
    /// Use it all the same, and count it in [`MemoryReport::unlocked_bytes`].
    #[default]
    Degrade,
    /// Store no key in it: [`Arena::store`] fails with [`MemoryError::Unprotected`].
    Refuse,
}

/// How an [`Arena`] behaves.
#[derive(Debug, Clone, Default)]
pub struct ArenaConfig {
    /// Whether keys may rest in memory that can be swapped out. Default: [`OnUnprotected::Degrade`], because the usual
    /// limit on locked memory (8 MiB, some 200,000 keys) is met by large caches, and a service that stops then is worse
    /// off than one that shows it in a gauge.
    ///
    /// It decides about locking only; core dumps and forks are shown in the [`MemoryReport`].
    pub on_unprotected: OnUnprotected,
}

/// How many slots an arena has and which protections its memory has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryReport {
    /// Slots that hold a key.
    pub slots_used: usize,
    /// Slots there are; more are mapped when all are used. Wiped slots are reused and not given back to the system.
    pub slots_capacity: usize,
    /// Bytes locked in RAM.
    pub locked_bytes: usize,
    /// Bytes that may be swapped to disk.
    pub unlocked_bytes: usize,
    /// Whether all of it is left out of core dumps; `true` while nothing is mapped.
    pub out_of_core_dumps: bool,
    /// Whether all of it reads as zero in a forked child; `true` while nothing is mapped. Where `false`, handles still
    /// refuse to read in a child, but the child's copy of the memory holds the bytes.
    pub wiped_on_fork: bool,
}

impl MemoryReport {
    /// Whether any protection is missing on any of the memory.
    pub fn is_degraded(&self) -> bool {
        self.unlocked_bytes > 0 || !self.out_of_core_dumps || !self.wiped_on_fork
    }
}

/// Memory for keys, shared by all the [`Slot`]s stored in it.
///
/// Maps nothing until the first key, then grows by chunks. When the arena and the last handle are gone, every slot is
/// overwritten and the memory goes back to the system.
///
/// An arena belongs to the process that made it. In a forked child it is empty for good: see [`MemoryError::Forked`].
pub struct Arena {
    config: ArenaConfig,
    epoch: u64,
    /// Not dropped in a forked child, which may have been forked in the middle of a change to it.
    pool: ManuallyDrop<Mutex<Pool>>,
    // Counts are atomics, not fields of the pool, so that a report takes no lock.
    slots_used: AtomicUsize,
    slots_capacity: AtomicUsize,
    locked_bytes: AtomicUsize,
    unlocked_bytes: AtomicUsize,
    in_core_dumps: AtomicBool,
    kept_on_fork: AtomicBool,
}

#[derive(Default)]
struct Pool {
    /// Has room for every slot there is, so that a wipe never allocates.
    free: Vec<SlotRef>,
    chunks: Vec<Mapping>,
}

/// Where a slot is. Valid as long as the arena that mapped it.
#[derive(Clone, Copy)]
struct SlotRef(NonNull<RawSlot>);

// SAFETY: it stands for a `&RawSlot`, and a `RawSlot` is atomics only, hence `Sync`.
unsafe impl Send for SlotRef {}
// SAFETY: as above.
unsafe impl Sync for SlotRef {}

impl Arena {
    /// Makes an empty arena; memory is mapped with the first key.
    pub fn new(config: ArenaConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            epoch: process_epoch(),
            pool: ManuallyDrop::default(),
            slots_used: AtomicUsize::new(0),
            slots_capacity: AtomicUsize::new(0),
            locked_bytes: AtomicUsize::new(0),
            unlocked_bytes: AtomicUsize::new(0),
            in_core_dumps: AtomicBool::new(false),
            kept_on_fork: AtomicBool::new(false),
        })
    }

    /// Copies `key` into a free slot and returns a handle to it.
    ///
    /// The key stays until [`Slot::wipe`]; dropping the handle does not end it. `key` itself is the caller's to wipe.
    ///
    /// # Errors
    /// - [`MemoryError::OutOfMemory`]: all slots are used and the system gives no more memory.
    /// - [`MemoryError::Unprotected`]: more memory cannot be locked, and the policy is [`OnUnprotected::Refuse`].
    /// - [`MemoryError::Forked`]: a parent of this process made the arena.
    pub fn store(self: &Arc<Self>, key: &[u8; 32]) -> Result<Slot, MemoryError> {
        // Before the lock: another thread of the parent may have held it at the fork, and it stays held in the child.
        if self.is_forked() {
            return Err(MemoryError::Forked);
        }
        let place = self.take_free()?;
        let generation = next_generation();
        self.slots_used.fetch_add(1, Ordering::Relaxed);
        let slot = Slot { arena: Arc::clone(self), place, generation };
        slot.raw().publish(generation, key);
        Ok(slot)
    }

    /// Makes sure that a slot is free now, so that a caller can know before it goes to the trouble of getting a key.
    ///
    /// Nothing is set aside: of two callers at once, both are told the same, and one may find the slot taken.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn ensure_free(&self) -> Result<(), MemoryError> {
        if self.is_forked() {
            return Err(MemoryError::Forked);
        }
        let mut pool = self.lock_pool();
        if pool.free.is_empty() { self.grow(&mut pool) } else { Ok(()) }
    }

    /// Counts the slots and says which protections are in place. All zero in a forked child.
    pub fn report(&self) -> MemoryReport {
        let count = |value: &AtomicUsize| {
            if self.is_forked() { 0 } else { value.load(Ordering::Relaxed) }
        };
        MemoryReport {
            slots_used: count(&self.slots_used),
            slots_capacity: count(&self.slots_capacity),
            locked_bytes: count(&self.locked_bytes),
            unlocked_bytes: count(&self.unlocked_bytes),
            out_of_core_dumps: !self.in_core_dumps.load(Ordering::Relaxed),
            wiped_on_fork: !self.kept_on_fork.load(Ordering::Relaxed),
        }
    }

    fn is_forked(&self) -> bool {
        process_epoch() != self.epoch
    }

    /// Must not be called in a forked child.
    fn lock_pool(&self) -> MutexGuard<'_, Pool> {
        // No code panics while it holds the lock; a poisoned pool would be whole all the same.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_free(&self) -> Result<SlotRef, MemoryError> {
        let mut pool = self.lock_pool();
        loop {
            if let Some(place) = pool.free.pop() {
                return Ok(place);
            }
            self.grow(&mut pool)?;
        }
    }

    fn give_back(&self, place: SlotRef) {
        self.slots_used.fetch_sub(1, Ordering::Relaxed);
        self.lock_pool().free.push(place);
    }

    /// Maps one more chunk and frees its slots for use.
    fn grow(&self, pool: &mut Pool) -> Result<(), MemoryError> {
        let out_of_memory = |error: io::Error| MemoryError::OutOfMemory(Arc::new(error));
        let chunk = Mapping::new(CHUNK_BYTES.next_multiple_of(page_bytes())).map_err(out_of_memory)?;
        let slots = chunk.len() / size_of::<RawSlot>();
        let capacity = self.slots_capacity.load(Ordering::Relaxed) + slots;
        let reserved = pool.chunks.try_reserve(1).and_then(|()| {
            let missing = capacity - pool.free.len();
            pool.free.try_reserve_exact(missing)
        });
        reserved.map_err(|error| out_of_memory(io::Error::new(io::ErrorKind::OutOfMemory, error)))?;

        let bytes = match chunk.lock() {
            Ok(()) => &self.locked_bytes,
            Err(_) if self.config.on_unprotected == OnUnprotected::Degrade => &self.unlocked_bytes,
            Err(error) => {
                return Err(MemoryError::Unprotected {
                    needed_bytes: chunk.len(),
                    limit_bytes: lock_limit_bytes(),
                    source: Arc::new(error),
                });
            }
        };
        if chunk.keep_out_of_core_dumps().is_err() {
            self.in_core_dumps.store(true, Ordering::Relaxed);
        }
        if chunk.wipe_on_fork().is_err() {
            self.kept_on_fork.store(true, Ordering::Relaxed);
        }
        bytes.fetch_add(chunk.len(), Ordering::Relaxed);
        self.slots_capacity.store(capacity, Ordering::Relaxed);

        let start = chunk.start().cast::<RawSlot>();
        // In reverse, so that slots are used from the start of the chunk.
        // SAFETY: `index < slots`, so the slot lies within the chunk, whose page alignment suits a `RawSlot`.
        pool.free.extend((0..slots).rev().map(|index| SlotRef(unsafe { start.add(index) })));
        pool.chunks.push(chunk);
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // In a child there is nothing to overwrite (or, where pages are not wiped on fork, nothing that is ours), and the
        // pool may have been caught half changed. The mapping is private, so leaving it costs the child address space only.
        if self.is_forked() {
            return;
        }
        // SAFETY: taken once, here; `pool` is not used again.
        let pool = unsafe { ManuallyDrop::take(&mut self.pool) };
        let pool = pool.into_inner().unwrap_or_else(PoisonError::into_inner);
        for chunk in pool.chunks {
            // SAFETY: the chunk is mapped, and no handle is left to look at it: each holds an `Arc` of this arena.
            unsafe { std::slice::from_raw_parts_mut(chunk.start().as_ptr(), chunk.len()) }.zeroize();
        }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("config", &self.config).field("report", &self.report()).finish_non_exhaustive()
    }
}

/// Even numbers from 2, each given out once in the life of the process. 2^63 stores do not happen.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(2);
    NEXT.fetch_add(2, Ordering::Relaxed)
}

/// A handle to one stored key.
///
/// Handles are clones of each other and dropping one, or all, does *not* wipe the key: its owner calls [`wipe`](Self::wipe).
/// A key nobody wiped stays until the arena goes, which each handle keeps alive.
#[derive(Clone)]
pub struct Slot {
    arena: Arc<Arena>,
    place: SlotRef,
    generation: u64,
}

impl Slot {
    /// Runs `f` on a copy of the key, which is overwritten before this returns, also when a panic of `f` unwinds.
    ///
    /// `None`, without running `f`: the key was wiped, or this is a forked child of the process that stored it. The copy
    /// is whole or not made; a wipe that happens while `f` runs leaves this copy as it is. Takes no lock and never waits.
    pub fn with_key<R>(&self, f: impl FnOnce(&[u8; 32]) -> R) -> Option<R> {
        if self.arena.is_forked() {
            return None;
        }
        // Filled in place: a copy returned by value would leave its bytes behind on the stack.
        let mut key = Zeroizing::new([0; 32]);
        self.raw().read(self.generation, &mut key).then(|| f(&key))
    }

    /// Overwrites the key now and frees its slot; returns whether this call did it.
    ///
    /// On `true` the bytes are zero. On `false` the key was wiped before, or another thread is a few instructions away from
    /// done with it, or this is a forked child, which changes nothing.
    pub fn wipe(&self) -> bool {
        if self.arena.is_forked() || !self.raw().claim_and_wipe(self.generation) {
            return false;
        }
        self.arena.give_back(self.place);
        true
    }

    /// Whether the key is still there, at this moment: only [`with_key`](Self::with_key) can rely on it.
    pub fn is_live(&self) -> bool {
        !self.arena.is_forked() && self.raw().holds(self.generation)
    }

    fn raw(&self) -> &RawSlot {
        // SAFETY: the place lies in a chunk of `arena`, which is unmapped only when the last `Arc` of it is dropped.
        unsafe { self.place.0.as_ref() }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("generation", &self.generation)
            .field("is_live", &self.is_live())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, unix))]
mod tests;

//! The arena that owns the pages, and the handles to its slots.

mod chunk;
mod slot;

use std::{
    fmt, io,
    mem::ManuallyDrop,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use self::chunk::{Chunk, Counts, Protection};
pub use self::slot::Slot;
use crate::{
    epoch::process_epoch,
    error::MemoryError,
    map::{Mapping, lock_limit_bytes, page_bytes},
    pool::Pool,
};

/// 16 KiB: some 400 keys for a few system calls, and little locked memory in a process with few keys. Rounded up to a
/// page where pages are larger.
const MIN_CHUNK_BYTES: usize = 16 * 1024;

/// 32 KiB: a million keys take some 1,250 mappings instead of 2,450. It is mapped under the feet of whoever comes with a key
/// just then, and should keep him well under 100 µs: with 64 KiB of secret memory it took up to 110, with 256 KiB more.
const MAX_CHUNK_BYTES: usize = 32 * 1024;

/// A chunk is at most this part of the memory that there is, so that little is mapped beyond need.
const GROWTH_PART: usize = 8;

/// What to do when the memory for more slots cannot be locked in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnprotected {
    /// Use it all the same, and count it in [`MemoryReport::unlocked_bytes`].
    #[default]
    Degrade,
    /// Store no key in it: [`Arena::store`] fails with [`MemoryError::Unprotected`].
    Refuse,
}

/// Where an arena's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backing {
    /// [`Secret`](Self::Secret) where it is to be had, else [`Locked`](Self::Locked).
    #[default]
    Automatic,
    /// Linux's `memfd_secret` (from 5.14, unless switched off at boot) or nothing: pages that the kernel takes out of its own
    /// map of memory, so that neither root by way of `/proc/PID/mem`, nor a debugger, nor a core dump sees them, and that
    /// are not mapped in a forked child. They count as locked memory, and the system cannot hibernate while there are any.
    Secret,
    /// Ordinary pages, locked in RAM, left out of core dumps, and empty in a forked child.
    Locked,
}

/// How an [`Arena`] behaves.
#[derive(Debug, Clone, Default)]
pub struct ArenaConfig {
    /// Where the memory comes from. Default: [`Backing::Automatic`].
    pub backing: Backing,
    /// Whether keys may rest in memory that can be swapped out. Default: [`OnUnprotected::Degrade`], because the usual
    /// limit on locked memory (8 MiB, some 200,000 keys) is met by large caches, and a service that stops then is worse
    /// off than one that shows it in a gauge.
    ///
    /// It decides about locking only; core dumps and forks are shown in the [`MemoryReport`]. [`Backing::Secret`] never
    /// degrades.
    pub on_unprotected: OnUnprotected,
}

/// How many slots an arena has and which protections its memory has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryReport {
    /// Slots that hold a key.
    pub slots_used: usize,
    /// Slots there are. More are mapped when all are used, and memory without a key goes back to the system, but for one
    /// chunk that is kept for the next key.
    pub slots_capacity: usize,
    /// Bytes in `memfd_secret` memory: locked in RAM, and seen by nobody but the process.
    pub secret_bytes: usize,
    /// Bytes in ordinary memory that is locked in RAM.
    pub locked_bytes: usize,
    /// Bytes that may be swapped to disk.
    pub unlocked_bytes: usize,
    /// Whether all of it is left out of core dumps; `true` while nothing is mapped.
    pub out_of_core_dumps: bool,
    /// Whether none of it can be read in a forked child, where it is empty or not there; `true` while nothing is mapped.
    /// Where `false`, handles still refuse to read in a child, but the child's copy of the memory holds the bytes.
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
/// Maps nothing until the first key, then grows and shrinks by chunks. A chunk is overwritten and goes back to the system
/// when no key is in it (but for one that is kept for the next key) or the arena is gone, and the last handle to any of its
/// slots is gone too.
///
/// An arena belongs to the process that made it. In a forked child it is empty for good: see [`MemoryError::Forked`].
pub struct Arena {
    config: ArenaConfig,
    epoch: u64,
    /// For chunks, whose keys' end the pool must hear of.
    this: Weak<Self>,
    /// Not dropped in a forked child, which may have been forked in the middle of a change to it.
    pool: ManuallyDrop<Mutex<Pool<Arc<Chunk>>>>,
    counts: Arc<Counts>,
}

impl Arena {
    /// Makes an empty arena; memory is mapped with the first key.
    pub fn new(config: ArenaConfig) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            config,
            epoch: process_epoch(),
            this: Weak::clone(this),
            pool: ManuallyDrop::default(),
            counts: Arc::default(),
        })
    }

    /// Copies `key` into a free slot and returns a handle to it.
    ///
    /// The key stays until [`Slot::wipe`]; dropping the handle does not end it. `key` itself is the caller's to wipe.
    ///
    /// # Errors
    /// - [`MemoryError::OutOfMemory`]: all slots are used and the system gives no more memory.
    /// - [`MemoryError::Unprotected`]: more memory cannot be locked, and the policy is [`OnUnprotected::Refuse`].
    /// - [`MemoryError::NoSecretMemory`]: there is no more secret memory, and the backing is [`Backing::Secret`].
    /// - [`MemoryError::Forked`]: a parent of this process made the arena.
    pub fn store(&self, key: &[u8; 32]) -> Result<Slot, MemoryError> {
        // Before the lock: another thread of the parent may have held it at the fork, and it stays held in the child.
        if self.is_forked() {
            return Err(MemoryError::Forked);
        }
        let (chunk, number) = self.take_free()?;
        self.counts.slots_used.fetch_add(1, Ordering::Relaxed);
        let slot = Slot::new(chunk, number, next_generation());
        slot.publish(key);
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
        if pool.has_free() { Ok(()) } else { self.grow(&mut pool) }
    }

    /// Counts the slots and says which protections are in place. All zero in a forked child.
    pub fn report(&self) -> MemoryReport {
        let count = |value: &AtomicUsize| {
            if self.is_forked() { 0 } else { value.load(Ordering::Relaxed) }
        };
        MemoryReport {
            slots_used: count(&self.counts.slots_used),
            slots_capacity: count(&self.counts.slots_capacity),
            secret_bytes: count(&self.counts.secret_bytes),
            locked_bytes: count(&self.counts.locked_bytes),
            unlocked_bytes: count(&self.counts.unlocked_bytes),
            out_of_core_dumps: count(&self.counts.dumpable_bytes) == 0,
            wiped_on_fork: count(&self.counts.kept_on_fork_bytes) == 0,
        }
    }

    fn is_forked(&self) -> bool {
        process_epoch() != self.epoch
    }

    /// Must not be called in a forked child.
    fn lock_pool(&self) -> MutexGuard<'_, Pool<Arc<Chunk>>> {
        // No code panics while it holds the lock; a poisoned pool would be whole all the same.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_free(&self) -> Result<(Arc<Chunk>, usize), MemoryError> {
        let mut pool = self.lock_pool();
        loop {
            if let Some(taken) = pool.take() {
                return Ok(taken);
            }
            self.grow(&mut pool)?;
        }
    }

    /// Takes back the wiped slot `number` of `chunk`.
    fn give_back(&self, chunk: &Chunk, number: usize) {
        self.counts.slots_used.fetch_sub(1, Ordering::Relaxed);
        let leaving = self.lock_pool().give_back(chunk.number, number);
        // After the lock: this may be what unmaps it.
        if let Some(leaving) = leaving {
            self.counts.slots_capacity.fetch_sub(leaving.slots(), Ordering::Relaxed);
            leaving.retire();
        }
    }

    /// Maps one more chunk and frees its slots for use.
    fn grow(&self, pool: &mut Pool<Arc<Chunk>>) -> Result<(), MemoryError> {
        let slots = self.counts.slots_capacity.load(Ordering::Relaxed);
        let (mapping, protection) = self.map(chunk_bytes(Chunk::bytes_of(slots)))?;
        let slots = Chunk::slots_in(mapping.len()).min(Pool::<Arc<Chunk>>::MAX_SLOTS);
        let vacancy =
            pool.vacancy(slots).map_err(|error| out_of_memory(io::Error::new(io::ErrorKind::OutOfMemory, error)))?;
        let chunk = Arc::new(Chunk::new(mapping, protection, vacancy.number(), self));
        pool.fill(vacancy, chunk, slots);
        self.counts.slots_capacity.fetch_add(slots, Ordering::Relaxed);
        Ok(())
    }

    /// Maps `wanted` bytes, or what the limit on locked memory leaves of them.
    fn map(&self, wanted: usize) -> Result<(Mapping, Protection), MemoryError> {
        let backing = self.config.backing;
        let least = chunk_bytes(0);
        let mut len = wanted;
        loop {
            let is_last = len <= least;
            if backing != Backing::Locked {
                match Mapping::secret(len) {
                    Ok(mapping) => return Ok((mapping, Protection::Secret)),
                    Err(error) if backing == Backing::Secret && is_last => {
                        let (limit_bytes, source) = (lock_limit_bytes(), Arc::new(error));
                        return Err(MemoryError::NoSecretMemory { needed_bytes: len, limit_bytes, source });
                    }
                    Err(_) => {}
                }
            }
            if backing != Backing::Secret {
                let mapping = Mapping::private(len);
                match mapping.as_ref().map(Mapping::lock) {
                    Ok(Ok(())) => return mapping.map(|mapping| (mapping, Protection::Locked)).map_err(out_of_memory),
                    Ok(Err(error)) if is_last && self.config.on_unprotected == OnUnprotected::Refuse => {
                        let (limit_bytes, source) = (lock_limit_bytes(), Arc::new(error));
                        return Err(MemoryError::Unprotected { needed_bytes: len, limit_bytes, source });
                    }
                    _ if is_last => break,
                    _ => {}
                }
            }
            len = (len / 2).max(least);
        }
        // All the room under the limit is used, so there is no reason to be sparing.
        let mapping = Mapping::private(wanted).or_else(|_| Mapping::private(least)).map_err(out_of_memory)?;
        Ok((mapping, Protection::Unlocked))
    }
}

/// How large the next chunk is when there are `mapped` bytes.
fn chunk_bytes(mapped: usize) -> usize {
    let part = mapped / GROWTH_PART;
    let power = if part == 0 { 0 } else { 1 << part.ilog2() };
    power.clamp(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES).next_multiple_of(page_bytes())
}

fn out_of_memory(error: io::Error) -> MemoryError {
    MemoryError::OutOfMemory(Arc::new(error))
}

impl Drop for Arena {
    fn drop(&mut self) {
        // In a child the pool may have been caught half changed.
        if !self.is_forked() {
            // SAFETY: done once, here; `pool` is not used again.
            unsafe { ManuallyDrop::drop(&mut self.pool) };
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

#[cfg(all(test, unix))]
mod tests;

//! One piece of an arena's memory, which lives as long as anything that may look at it.

use std::{
    mem::{ManuallyDrop, size_of},
    ptr::NonNull,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use zeroize::Zeroize;

use super::Arena;
use crate::{epoch::process_epoch, map::Mapping, raw::RawSlot};

/// What keeps the bytes of a mapping from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    Secret,
    Locked,
    Unlocked,
}

/// The figures of a report. Apart from the pool, so that a report takes no lock and a chunk that outlives its arena can
/// say that it is gone.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) slots_used: AtomicUsize,
    pub(super) slots_capacity: AtomicUsize,
    pub(super) secret_bytes: AtomicUsize,
    pub(super) locked_bytes: AtomicUsize,
    pub(super) unlocked_bytes: AtomicUsize,
    pub(super) dumpable_bytes: AtomicUsize,
    pub(super) kept_on_fork_bytes: AtomicUsize,
}

impl Counts {
    fn bytes(&self, protection: Protection) -> &AtomicUsize {
        match protection {
            Protection::Secret => &self.secret_bytes,
            Protection::Locked => &self.locked_bytes,
            Protection::Unlocked => &self.unlocked_bytes,
        }
    }
}

/// Slots on pages of their own. Held by the pool and by each handle to one of its slots: a handle may look at its slot at
/// any time, so the memory goes when the last of them has gone, and not when the pool lets go of it.
pub(super) struct Chunk {
    /// Not dropped in a forked child: secret memory is not mapped there, and what is there instead is not ours to unmap.
    mapping: ManuallyDrop<Mapping>,
    protection: Protection,
    is_dumpable: bool,
    is_kept_on_fork: bool,
    /// All slots were wiped when the pool let go of it.
    is_clean: AtomicBool,
    pub(super) epoch: u64,
    /// Its number in the pool.
    pub(super) number: usize,
    /// Weak: the pool holds this chunk.
    pub(super) arena: Weak<Arena>,
    counts: Arc<Counts>,
}

// SAFETY: what is shared is the mapping, which holds `RawSlot`s, atomics only. Bytes are touched otherwise by the last
// owner alone.
unsafe impl Sync for Chunk {}

impl Chunk {
    pub(super) fn new(mapping: Mapping, protection: Protection, number: usize, arena: &Arena) -> Self {
        // Secret memory is never dumped, and never mapped in a child.
        let is_private = protection != Protection::Secret;
        let chunk = Self {
            is_dumpable: is_private && mapping.keep_out_of_core_dumps().is_err(),
            is_kept_on_fork: is_private && mapping.wipe_on_fork().is_err(),
            mapping: ManuallyDrop::new(mapping),
            protection,
            is_clean: AtomicBool::new(false),
            epoch: arena.epoch,
            number,
            arena: Weak::clone(&arena.this),
            counts: Arc::clone(&arena.counts),
        };
        chunk.count(|count, bytes| count.fetch_add(bytes, Ordering::Relaxed));
        chunk
    }

    pub(super) fn slots_in(bytes: usize) -> usize {
        bytes / size_of::<RawSlot>()
    }

    pub(super) fn slots(&self) -> usize {
        Self::slots_in(self.mapping.len())
    }

    pub(super) fn bytes_of(slots: usize) -> usize {
        slots * size_of::<RawSlot>()
    }

    #[cfg(test)]
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        let start = self.mapping.start().as_ptr().addr();
        start..start + self.mapping.len()
    }

    /// The slot of this number, valid as long as the chunk.
    pub(super) fn slot(&self, number: usize) -> NonNull<RawSlot> {
        assert!(number < self.slots());
        // SAFETY: the slot lies within the mapping, whose page alignment suits a `RawSlot`.
        unsafe { self.mapping.start().cast::<RawSlot>().add(number) }
    }

    pub(super) fn number_of(&self, slot: NonNull<RawSlot>) -> usize {
        (slot.as_ptr().addr() - self.mapping.start().as_ptr().addr()) / size_of::<RawSlot>()
    }

    pub(super) fn is_forked(&self) -> bool {
        process_epoch() != self.epoch
    }

    /// Says that every slot has been wiped and none will be used again.
    pub(super) fn retire(&self) {
        self.is_clean.store(true, Ordering::Relaxed);
    }

    fn count(&self, change: impl Fn(&AtomicUsize, usize) -> usize) {
        let bytes = self.mapping.len();
        change(self.counts.bytes(self.protection), bytes);
        if self.is_dumpable {
            change(&self.counts.dumpable_bytes, bytes);
        }
        if self.is_kept_on_fork {
            change(&self.counts.kept_on_fork_bytes, bytes);
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // In a child there is nothing to overwrite, or nothing that is ours. What is mapped costs address space only.
        if self.is_forked() {
            return;
        }
        if !*self.is_clean.get_mut() {
            let (start, len) = (self.mapping.start(), self.mapping.len());
            // SAFETY: mapped, and nobody else is left to look at it: handles own a share of this chunk.
            unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }.zeroize();
        }
        self.count(|count, bytes| count.fetch_sub(bytes, Ordering::Relaxed));
        // SAFETY: not used again; this is the end of its owner.
        unsafe { ManuallyDrop::drop(&mut self.mapping) };
    }
}

//! Handles to stored keys.

use std::{fmt, ptr::NonNull, sync::Arc};

use zeroize::Zeroize;

use super::chunk::Chunk;
use crate::raw::RawSlot;

/// A handle to one stored key.
///
/// Handles are clones of each other and dropping one, or all, does *not* wipe the key: its owner calls [`wipe`](Self::wipe).
/// A key nobody wiped stays until the arena goes, and until the last handle to a key of the same chunk goes. A handle keeps
/// that chunk's memory from going back to the system, so a stale one should not be kept for long.
#[derive(Clone)]
pub struct Slot {
    /// Keeps the memory at `place`.
    chunk: Arc<Chunk>,
    place: NonNull<RawSlot>,
    generation: u64,
}

// SAFETY: `place` stands for a reference into `chunk`, and a `RawSlot` is atomics only, hence `Sync`.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// The caller has taken slot `number` of `chunk` from the pool.
    pub(super) fn new(chunk: Arc<Chunk>, number: usize, generation: u64) -> Self {
        Self { place: chunk.slot(number), chunk, generation }
    }

    /// To be called once, by whoever took the slot.
    pub(super) fn publish(&self, key: &[u8; 32]) {
        self.raw().publish(self.generation, key);
    }

    /// Runs `f` on a copy of the key, which is overwritten before this returns, also when a panic of `f` unwinds.
    ///
    /// `None`, without running `f`: the key was wiped, or this is a forked child of the process that stored it. The copy
    /// is whole or not made; a wipe that happens while `f` runs leaves this copy as it is. Takes no lock and never waits.
    pub fn with_key<R>(&self, f: impl FnOnce(&[u8; 32]) -> R) -> Option<R> {
        if self.chunk.is_forked() {
            return None;
        }
        // Filled in place: a copy returned by value would leave its bytes behind on the stack.
        let mut key = Copied([0; 32]);
        self.raw().read(self.generation, &mut key.0).then(|| f(&key.0))
    }

    /// Overwrites the key now and frees its slot; returns whether this call did it.
    ///
    /// On `true` the bytes are zero. On `false` the key was wiped before, or another thread is a few instructions away from
    /// done with it, or this is a forked child, which changes nothing.
    pub fn wipe(&self) -> bool {
        if self.chunk.is_forked() || !self.raw().claim_and_wipe(self.generation) {
            return false;
        }
        if let Some(arena) = self.chunk.arena.upgrade() {
            arena.give_back(&self.chunk, self.chunk.number_of(self.place));
        }
        true
    }

    /// Whether the key is still there, at this moment: only [`with_key`](Self::with_key) can rely on it.
    pub fn is_live(&self) -> bool {
        !self.chunk.is_forked() && self.raw().holds(self.generation)
    }

    pub(super) fn raw(&self) -> &RawSlot {
        // SAFETY: the place lies in `chunk`, which is unmapped only when the last `Arc` of it is dropped.
        unsafe { self.place.as_ref() }
    }
}

/// A key for as long as it is used.
struct Copied([u8; 32]);

impl Drop for Copied {
    fn drop(&mut self) {
        // As a slice: an array is overwritten byte by byte.
        self.0.as_mut_slice().zeroize();
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

#[cfg(test)]
impl Slot {
    pub(super) fn place(&self) -> NonNull<RawSlot> {
        self.place
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

//! A state of the kernel's generator for each thread that asks for random bytes.
//!
//! The kernel's code keeps a state safe from signal handlers, forks and snapshots; what it cannot know is whether two
//! threads use one at once. So a thread takes one for itself, and its end gives the state back for the next thread.
//!
//! In a forked child the states are empty, which their generator notices. The child's one thread keeps its state; those of
//! threads that the child does not have are lost to it, a few hundred bytes each.

use std::{
    cell::{Cell, UnsafeCell},
    ptr::NonNull,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::function::{self, Function};
use crate::{epoch::process_epoch, map::page_bytes};

/// Threads write to their states all the time: two in a cache line would slow each other down.
const CACHE_LINE_BYTES: usize = 64;

/// Fills `bytes`; `false` if it could not, with `bytes` in any state.
pub(in crate::random) fn fill(bytes: &mut [u8]) -> bool {
    let Some(function) = function::get() else { return false };
    // Fails while the thread ends and its state is already given back.
    let Ok(Some(state)) = OWN.try_with(|own| own.state(function)) else { return false };
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: the state is this thread's, from a page that was mapped for states and at a place within it.
        let written = unsafe { function.call(rest, state) };
        // A short answer is followed by the rest. An error, none at all, or more than there was room for is not trusted.
        match usize::try_from(written) {
            Ok(written) if (1..=rest.len()).contains(&written) => rest = &mut rest[written..],
            _ => return false,
        }
    }
    true
}

thread_local! {
    static OWN: Own = const { Own(Cell::new(None)) };
}

/// The state of a thread, if it has taken one.
struct Own(Cell<Option<NonNull<u8>>>);

impl Own {
    fn state(&self, function: &Function) -> Option<NonNull<u8>> {
        if self.0.get().is_none() {
            self.0.set(FREE.take(function));
        }
        self.0.get()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(state) = self.0.get() {
            FREE.give_back(state);
        }
    }
}

static FREE: Free =
    Free { holder: AtomicU64::new(0), states: UnsafeCell::new(Vec::new()), mapped: AtomicUsize::new(0) };

/// The states that no thread has, under a lock that a fork cannot leave locked.
struct Free {
    /// The epoch of the process whose thread holds the lock; 0 if none does. A child finds a parent's thread here that it
    /// does not have, and takes the lock over.
    holder: AtomicU64,
    states: UnsafeCell<Vec<NonNull<u8>>>,
    mapped: AtomicUsize,
}

// SAFETY: the list is touched under the lock only, and a state belongs to whoever took it from the list.
unsafe impl Sync for Free {}

/// Unlocks when dropped.
struct Locked<'a>(&'a Free);

impl Free {
    /// `None` if another thread of this process holds the lock, or this one does, interrupted by a signal.
    fn try_lock(&self) -> Option<Locked<'_>> {
        let epoch = process_epoch();
        match self.holder.compare_exchange(0, epoch, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Some(Locked(self)),
            Err(holder) if holder == epoch => None,
            Err(parent) => {
                self.holder.compare_exchange(parent, epoch, Ordering::Acquire, Ordering::Relaxed).ok()?;
                // The parent's thread may have been in the middle of a change: the list is neither read nor dropped.
                // SAFETY: this thread now holds the lock.
                unsafe { self.states.get().write(Vec::new()) };
                Some(Locked(self))
            }
        }
    }

    /// A state for this thread alone; `None` if the lock is taken or no memory is to be had, which may pass.
    #[cold]
    fn take(&self, function: &Function) -> Option<NonNull<u8>> {
        let mut locked = self.try_lock()?;
        if let Some(state) = locked.states().pop() {
            return Some(state);
        }
        let stride = function.state_bytes.next_multiple_of(CACHE_LINE_BYTES).min(page_bytes());
        let count = page_bytes() / stride;
        let mapped = self.mapped.load(Ordering::Relaxed) + count;
        // Room for all there are, so that giving back never allocates.
        locked.states().try_reserve_exact(mapped).ok()?;
        let page = function.map_page()?;
        self.mapped.store(mapped, Ordering::Relaxed);
        // SAFETY: `index < count`, so that the state begins and ends on the page.
        locked.states().extend((0..count).map(|index| unsafe { page.add(index * stride) }));
        locked.states().pop()
    }

    fn give_back(&self, state: NonNull<u8>) {
        loop {
            if let Some(mut locked) = self.try_lock() {
                // In a child that took the lock over the list may lack room, and the state is lost.
                if locked.states().try_reserve(1).is_ok() {
                    locked.states().push(state);
                }
                return;
            }
            // Held for a moment: no one waits for anything, or runs code of a user's, while holding it.
            std::thread::yield_now();
        }
    }
}

impl Locked<'_> {
    fn states(&mut self) -> &mut Vec<NonNull<u8>> {
        // SAFETY: the lock is held, and `self` is borrowed as long as the list.
        unsafe { &mut *self.0.states.get() }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.holder.store(0, Ordering::Release);
    }
}

/// How many states this process has mapped.
#[cfg(test)]
pub(in crate::random) fn mapped() -> usize {
    FREE.mapped.load(Ordering::Relaxed)
}

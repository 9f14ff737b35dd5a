//! A value of which every process has its own, forked children included.

use std::{
    fmt,
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use crate::epoch::process_epoch;

/// A value for this process; a forked child makes a fresh one and leaves its parent's alone.
///
/// ```
/// use keystrata_memory::ProcessLocal;
///
/// let list = ProcessLocal::new(|| vec![1, 2, 3]);
/// assert_eq!(list.get().len(), 3);
/// ```
///
/// A parent's value in a child may hold a lock that nobody there will release, and handles to memory that was wiped at
/// the fork. So the child neither uses nor drops it: it stays in memory, unreachable, until the child ends.
///
/// The closure is shared: a child runs and drops what it captured, so it should capture plain settings.
pub struct ProcessLocal<T> {
    init: Box<dyn Fn() -> T + Send + Sync>,
    /// The newest node first. This process's node is the first or there is none.
    first: AtomicPtr<Node<T>>,
    owns: PhantomData<OnceLock<T>>,
}

struct Node<T> {
    epoch: u64,
    /// Touched only by the process of `epoch`: a fork may catch it half filled.
    value: OnceLock<T>,
    /// The ancestors' nodes, kept reachable so that a leak checker knows them.
    _older: *mut Node<T>,
}

impl<T: Send + Sync> ProcessLocal<T> {
    /// Runs `init` now, and once more in each forked child that asks for the value.
    pub fn new(init: impl Fn() -> T + Send + Sync + 'static) -> Self {
        let node = Node { epoch: process_epoch(), value: OnceLock::from(init()), _older: std::ptr::null_mut() };
        Self { init: Box::new(init), first: AtomicPtr::new(Box::into_raw(Box::new(node))), owns: PhantomData }
    }

    /// Returns the value of this process.
    ///
    /// The first call in a forked child makes it, once, whichever thread comes first; the others wait for it.
    pub fn get(&self) -> &T {
        self.node(process_epoch()).value.get_or_init(&self.init)
    }

    fn node(&self, epoch: u64) -> &Node<T> {
        let mut first = self.first.load(Ordering::Acquire);
        loop {
            // SAFETY: `first` is never null, and nodes are freed only when `self` is dropped.
            let node = unsafe { &*first };
            if node.epoch == epoch {
                return node;
            }
            // Pushing an empty node and filling it afterwards keeps the list free of locks, so no fork can catch a lock
            // held that the child will need.
            let fresh = Box::into_raw(Box::new(Node { epoch, value: OnceLock::new(), _older: first }));
            match self.first.compare_exchange(first, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => first = fresh,
                Err(theirs) => {
                    // SAFETY: made by `Box::into_raw` above and not published.
                    drop(unsafe { Box::from_raw(fresh) });
                    first = theirs;
                }
            }
        }
    }
}

impl<T> Drop for ProcessLocal<T> {
    fn drop(&mut self) {
        let first = *self.first.get_mut();
        // SAFETY: `first` is never null and no reference outlives `self`.
        let is_ours = unsafe { (*first).epoch } == process_epoch();
        if is_ours {
            // SAFETY: made by `Box::into_raw`, published once, and this is the only place that frees a published node.
            drop(unsafe { Box::from_raw(first) });
        }
        // Older nodes are ancestors' and are left as they are.
    }
}

impl<T> fmt::Debug for ProcessLocal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessLocal").finish_non_exhaustive()
    }
}

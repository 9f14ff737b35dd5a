//! Which load waits for which, so that none waits, in the end, for itself.
//!
//! The topology is checked for cycles, but which KEK unwraps another is what a record says, and whoever writes the store may
//! let two name each other. Each of their loads would wait for the other's for ever.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The loads that wait for others.
pub(super) struct Waits<N>(Mutex<HashMap<N, Vec<N>>>);

impl<N: Clone + Eq + Hash> Waits<N> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    fn edges(&self) -> MutexGuard<'_, HashMap<N, Vec<N>>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `waiter` waits for `other` until the guard is dropped. `None` if `other` waits for `waiter`.
    pub(super) fn begin(self: &Arc<Self>, waiter: N, other: N) -> Option<Wait<N>> {
        let mut edges = self.edges();
        let mut reached = vec![other.clone()];
        let mut next = 0;
        while let Some(at) = reached.get(next) {
            if *at == waiter {
                return None;
            }
            let further: Vec<N> =
                edges.get(at).into_iter().flatten().filter(|n| !reached.contains(n)).cloned().collect();
            reached.extend(further);
            next += 1;
        }
        edges.entry(waiter.clone()).or_default().push(other.clone());
        drop(edges);
        Some(Wait { waits: Arc::clone(self), waiter, other })
    }
}

/// That one load waits for another.
pub(super) struct Wait<N: Clone + Eq + Hash> {
    waits: Arc<Waits<N>>,
    waiter: N,
    other: N,
}

impl<N: Clone + Eq + Hash> Drop for Wait<N> {
    fn drop(&mut self) {
        let mut edges = self.waits.edges();
        if let Entry::Occupied(mut others) = edges.entry(self.waiter.clone()) {
            let one = others.get().iter().position(|other| *other == self.other);
            if let Some(one) = one {
                others.get_mut().swap_remove(one);
            }
            if others.get().is_empty() {
                others.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_would_close_a_circle_is_refused() {
        let waits = Waits::new();
        let begin = |a, b| waits.begin(a, b);
        let (_one, two, _three) = (begin(1, 2).unwrap(), begin(2, 3).unwrap(), begin(0, 2).unwrap());
        assert!(begin(3, 1).is_none() && begin(3, 2).is_none() && begin(1, 1).is_none());
        // Two loads of one name may wait for the same.
        let twice = begin(2, 3).unwrap();
        drop(two);
        assert!(begin(3, 1).is_none());
        drop(twice);
        drop(begin(3, 1).unwrap());
        assert_eq!(waits.edges().len(), 2);
    }
}

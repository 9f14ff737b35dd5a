//! What a KEK that another KEK unwrapped rests on: it falls with whatever is above it.
//!
//! A path whose KEKs unwrap others has a *warrant*, which an invalidation of that path voids. A KEK below holds the
//! warrants of all that are above it, its *lineage*. Who wants to unwrap a KEK takes the warrant first, then looks for the
//! parent's KEK, and shows the lineage when the new KEK is put in. An invalidation goes the other way: it overwrites the
//! path's own KEKs, then voids the warrant, then looks through the index. So whichever way the two interleave, a KEK whose
//! parent was overwritten is either not put in or found there.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use keystrata_primitives::KeyPath;

/// That the KEKs of one path unwrap others, until the path is invalidated.
#[derive(Debug, Default)]
pub(crate) struct Warrant {
    is_void: AtomicBool,
    /// How many lineages it is in. A load that has not unwrapped anything yet holds a warrant and has no lineage.
    lineages: AtomicUsize,
}

/// The warrants of all that are above a KEK, nearest first.
pub(crate) struct Lineage(Box<[Arc<Warrant>]>);

impl Lineage {
    fn new<'a>(warrants: impl Iterator<Item = &'a Arc<Warrant>>) -> Self {
        let count = |warrant: &Arc<Warrant>| {
            // Before anything rests on it: who voids the warrant sees this, or is seen when a KEK is put in.
            warrant.lineages.fetch_add(1, Ordering::SeqCst);
            Arc::clone(warrant)
        };
        Self(warrants.map(count).collect())
    }

    /// Whether something above was invalidated since.
    pub(crate) fn is_void(&self) -> bool {
        self.0.iter().any(|warrant| warrant.is_void.load(Ordering::SeqCst))
    }

    fn is(&self, nearest: &Arc<Warrant>, above: &[Arc<Warrant>]) -> bool {
        let is_same = |(a, b): (&Arc<Warrant>, &Arc<Warrant>)| Arc::ptr_eq(a, b);
        let Some((first, rest)) = self.0.split_first() else { return false };
        Arc::ptr_eq(first, nearest) && rest.len() == above.len() && rest.iter().zip(above).all(is_same)
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        for warrant in &self.0 {
            warrant.lineages.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lineage").field("levels", &self.0.len()).field("is_void", &self.is_void()).finish()
    }
}

/// Which paths have a warrant. Those that nothing rests on any more are let go of now and then.
#[derive(Default)]
pub(super) struct Warrants(Mutex<Listed>);

#[derive(Default)]
struct Listed {
    by_path: HashMap<KeyPath, Entry>,
    /// How many there may be before those of no use are looked for.
    tidy_at: usize,
}

/// One for all KEKs below: a thousand accounts of a group hold the same lineage.
#[derive(Default)]
struct Entry {
    warrant: Weak<Warrant>,
    lineage: Weak<Lineage>,
}

impl Warrants {
    fn listed(&self) -> MutexGuard<'_, Listed> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The warrant of this path, to be taken before its KEK is looked for.
    pub(super) fn of(&self, path: &KeyPath) -> Arc<Warrant> {
        let mut listed = self.listed();
        if listed.by_path.len() >= listed.tidy_at.max(64) {
            listed.by_path.retain(|_, entry| entry.warrant.strong_count() > 0);
            listed.tidy_at = listed.by_path.len() * 2;
        }
        let entry = listed.by_path.entry(path.clone()).or_default();
        entry.warrant.upgrade().unwrap_or_else(|| {
            let warrant = Arc::<Warrant>::default();
            entry.warrant = Arc::downgrade(&warrant);
            warrant
        })
    }

    /// What a KEK rests on that a KEK of `path` unwraps, which itself rests on `above`.
    pub(super) fn lineage(&self, path: &KeyPath, warrant: &Arc<Warrant>, above: Option<&Lineage>) -> Arc<Lineage> {
        let above = above.map_or(&[][..], |above| &above.0);
        let mut listed = self.listed();
        let known = listed.by_path.get(path).and_then(|entry| entry.lineage.upgrade());
        if let Some(known) = known.filter(|known| known.is(warrant, above)) {
            return known;
        }
        let new = Arc::new(Lineage::new(std::iter::once(warrant).chain(above)));
        if let Some(entry) = listed.by_path.get_mut(path) {
            entry.lineage = Arc::downgrade(&new);
        }
        new
    }

    /// Voids the warrants of the paths that `is_it` is true of; `true` if something may rest on one of them.
    pub(super) fn void(&self, is_it: impl Fn(&KeyPath) -> bool) -> bool {
        self.void_listed(|listed| listed.by_path.extract_if(|path, _| is_it(path)).map(|(_, entry)| entry).collect())
    }

    /// [`void`](Self::void) for one path.
    pub(super) fn void_one(&self, path: &KeyPath) -> bool {
        self.void_listed(|listed| listed.by_path.remove(path).into_iter().collect())
    }

    fn void_listed(&self, take: impl FnOnce(&mut Listed) -> Vec<Entry>) -> bool {
        let taken = take(&mut self.listed());
        let live = taken.iter().filter_map(|entry| entry.warrant.upgrade());
        let rests = |warrant: Arc<Warrant>| {
            warrant.is_void.store(true, Ordering::SeqCst);
            warrant.lineages.load(Ordering::SeqCst) > 0
        };
        live.map(rests).filter(|rests| *rests).count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> KeyPath {
        KeyPath::account(name).unwrap()
    }

    #[test]
    fn a_lineage_falls_with_each_path_above_and_is_shared() {
        let warrants = Warrants::default();
        let top = warrants.of(&path("top"));
        let under_top = warrants.lineage(&path("top"), &top, None);
        let middle = warrants.of(&path("middle"));
        let below = warrants.lineage(&path("middle"), &middle, Some(&under_top));
        let again = warrants.lineage(&path("middle"), &warrants.of(&path("middle")), Some(&under_top));
        assert!(Arc::ptr_eq(&below, &again) && !below.is_void());
        assert!(!Arc::ptr_eq(&below, &warrants.lineage(&path("middle"), &middle, None)), "it rests on less");
        assert!(!warrants.void_one(&path("other")));
        assert!(warrants.void_one(&path("top")));
        assert!(below.is_void() && under_top.is_void());
        let anew = warrants.of(&path("top"));
        assert!(!Arc::ptr_eq(&top, &anew) && !warrants.lineage(&path("top"), &anew, None).is_void());
    }

    #[test]
    fn what_nothing_rests_on_is_let_go_of() {
        let warrants = Warrants::default();
        for n in 0..10_000 {
            warrants.of(&path(&n.to_string()));
        }
        assert!(warrants.listed().by_path.len() <= 64);
    }
}

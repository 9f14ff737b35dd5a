//! One part of the index: which KEKs some of the accounts have, by name and by when they are due. No key bytes are read
//! here, no clock is asked and nothing waits: all it does is bookkeeping under one lock.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    mem,
    sync::{Arc, Weak, atomic::Ordering},
};

use hashbrown::{HashTable, hash_table::Entry};
use keystrata_primitives::{KekId, KeyPath};

use super::{account::AccountState, kek::CachedKek};
use crate::clock::Nanos;

/// How many of the KEKs that are due next eviction looks at for one that nobody used.
const CANDIDATES: usize = 8;

/// When a KEK is due by boot time, and its address, which tells equal ones apart. It follows from the KEK and the shard's
/// offset, so that it need not be kept with either.
type Due = (u64, usize);

#[derive(Default)]
pub(super) struct Shard {
    accounts: HashMap<KeyPath, Weak<AccountState>>,
    keks: HashTable<Arc<CachedKek>>,
    by_due: BTreeMap<Due, Held>,
    /// What real time is ahead of boot time, as `by_due` is in order by.
    offset: i64,
    hasher: RandomState,
    pub(super) is_closed: bool,
}

/// A KEK and the account that it belongs to, which lives as long.
///
/// What was taken out is to be dropped when the shard is unlocked: the last of an account takes it off the list.
pub(super) struct Held {
    pub(super) kek: Arc<CachedKek>,
    account: Arc<AccountState>,
}

impl Held {
    fn is_void(&self) -> bool {
        self.kek.lineage().is_some_and(|lineage| lineage.is_void())
    }

    /// The account lets go of a KEK that is out of the index.
    fn forgotten(self) -> Self {
        let is_primary = self.account.primary.load().as_ref().is_some_and(|primary| Arc::ptr_eq(primary, &self.kek));
        if is_primary {
            self.account.primary.store(None);
        }
        self
    }
}

/// Which of the two clocks says when a KEK is due, as boot time.
///
/// `offset` is what real time is ahead of boot time: while it stands, one order by boot time holds for both.
fn due_at(end: Nanos, offset: i64) -> u64 {
    end.boot.min(end.real.saturating_sub_signed(offset))
}

fn due(kek: &Arc<CachedKek>, offset: i64) -> Due {
    (due_at(kek.end(), offset), Arc::as_ptr(kek) as usize)
}

impl Shard {
    pub(super) fn new(offset: i64) -> Self {
        Self { offset, ..Self::default() }
    }

    pub(super) fn account(&self, path: &KeyPath) -> Option<Arc<AccountState>> {
        self.accounts.get(path).and_then(Weak::upgrade)
    }

    pub(super) fn add_account(&mut self, account: &Arc<AccountState>) {
        self.accounts.insert(account.path.clone(), Arc::downgrade(account));
    }

    /// Takes an account off the list that is being dropped, unless another of its name took its place.
    pub(super) fn drop_account(&mut self, path: &KeyPath, dropped: *const AccountState) {
        if self.accounts.get(path).is_some_and(|listed| std::ptr::eq(listed.as_ptr(), dropped)) {
            self.accounts.remove(path);
        }
    }

    pub(super) fn get(&self, path: &KeyPath, id: KekId) -> Option<Arc<CachedKek>> {
        let hash = self.hasher.hash_one(id);
        self.keks.find(hash, |kek| is_named(kek, path, id)).map(Arc::clone)
    }

    /// Puts a KEK in; the one of the same name that it replaces comes back. If it replaces the primary at hand, it is the
    /// primary at hand. Gives the time when it is due.
    pub(super) fn insert(&mut self, kek: &Arc<CachedKek>, account: &Arc<AccountState>) -> (u64, Option<Held>) {
        let (path, id) = (&account.path, kek.id());
        let hasher = &self.hasher;
        let entry =
            self.keks.entry(hasher.hash_one(id), |held| is_named(held, path, id), |held| hasher.hash_one(held.id()));
        let replaced = match entry {
            Entry::Occupied(mut held) => {
                let old = mem::replace(held.get_mut(), Arc::clone(kek));
                self.by_due.remove(&due(&old, self.offset))
            }
            Entry::Vacant(place) => {
                place.insert(Arc::clone(kek));
                None
            }
        };
        let due = due(kek, self.offset);
        self.by_due.insert(due, Held { kek: Arc::clone(kek), account: Arc::clone(account) });
        if account.primary.load().as_ref().is_some_and(|primary| primary.id() == id) {
            account.primary.store(Some(Arc::clone(kek)));
        }
        (due.0, replaced)
    }

    fn take(&mut self, due: Due) -> Option<Held> {
        let held = self.by_due.remove(&due)?;
        let hash = self.hasher.hash_one(held.kek.id());
        if let Ok(entry) = self.keks.find_entry(hash, |listed| Arc::ptr_eq(listed, &held.kek)) {
            entry.remove();
        }
        Some(held.forgotten())
    }

    /// Takes out `kek`, unless another took its place.
    pub(super) fn remove(&mut self, kek: &Arc<CachedKek>) -> Option<Held> {
        self.take(due(kek, self.offset))
    }

    /// Takes out one KEK to make room: of those that are due next, the first that was not used since this last passed it
    /// over, and never `spared`.
    pub(super) fn evict(&mut self, spared: Option<&Arc<CachedKek>>) -> Option<Held> {
        let is_spared = |held: &Held| spared.is_some_and(|spared| Arc::ptr_eq(spared, &held.kek));
        let mut candidates = self.by_due.iter().filter(|(_, held)| !is_spared(held));
        let next = candidates.next().map(|(due, held)| (*due, held.kek.was_used.swap(false, Ordering::Relaxed)));
        let (next, was_used) = next?;
        let unused = was_used.then(|| {
            let mut others = candidates.take(CANDIDATES - 1);
            others.find(|(_, held)| !held.kek.was_used.swap(false, Ordering::Relaxed)).map(|(due, _)| *due)
        });
        self.take(unused.flatten().unwrap_or(next))
    }

    /// The KEKs that are due at `boot`, left where they are.
    pub(super) fn due(&self, boot: u64) -> Vec<Arc<CachedKek>> {
        self.by_due.iter().take_while(|(due, _)| due.0 <= boot).map(|(_, held)| Arc::clone(&held.kek)).collect()
    }

    /// Takes out at most `limit` KEKs that are due at `boot`, and says when the next one is.
    pub(super) fn take_due(&mut self, boot: u64, limit: usize, out: &mut Vec<Held>) -> Option<u64> {
        while let Some((&due, _)) = self.by_due.first_key_value() {
            if due.0 > boot || out.len() >= limit {
                return Some(due.0);
            }
            out.extend(self.take(due));
        }
        None
    }

    /// Takes out the KEKs of one account that fall, and gives the loads under way nothing to install.
    pub(super) fn take_account(
        &mut self,
        path: &KeyPath,
        falls: impl Fn(&CachedKek) -> bool,
    ) -> (Option<Arc<AccountState>>, Vec<Held>) {
        let account = self.account(path);
        if let Some(account) = &account {
            account.epoch.fetch_add(1, Ordering::Relaxed); // under the lock
            if account.primary.load().as_ref().is_some_and(|primary| falls(primary)) {
                account.primary.store(None);
            }
        }
        let is_taken = |held: &Held| held.account.path == *path && falls(&held.kek);
        let of_account: Vec<Due> = self.by_due.iter().filter(|(_, held)| is_taken(held)).map(|(due, _)| *due).collect();
        (account, of_account.into_iter().filter_map(|due| self.take(due)).collect())
    }

    pub(super) fn of_account(&self, path: &KeyPath) -> impl Iterator<Item = &CachedKek> {
        self.by_due.values().filter(move |held| held.account.path == *path).map(|held| &*held.kek)
    }

    /// The KEKs whose lineage is void, left where they are.
    pub(super) fn void(&self) -> Vec<Arc<CachedKek>> {
        self.by_due.values().filter(|held| held.is_void()).map(|held| Arc::clone(&held.kek)).collect()
    }

    /// Takes out all KEKs whose lineage is void.
    pub(super) fn take_void(&mut self) -> Vec<Held> {
        let void: Vec<Due> = self.by_due.iter().filter(|(_, held)| held.is_void()).map(|(due, _)| *due).collect();
        void.into_iter().filter_map(|due| self.take(due)).collect()
    }

    /// The accounts inside `outer`, of which there may be KEKs or loads.
    pub(super) fn accounts_inside(&self, outer: &KeyPath) -> Vec<KeyPath> {
        self.accounts.keys().filter(|path| is_inside(path, outer)).cloned().collect()
    }

    /// Takes out everything.
    pub(super) fn take_all(&mut self) -> Vec<Held> {
        self.keks.clear();
        mem::take(&mut self.by_due).into_values().map(Held::forgotten).collect()
    }

    /// Puts all KEKs in order anew, after real time was set.
    pub(super) fn reorder(&mut self, offset: i64) {
        self.offset = offset;
        let held = mem::take(&mut self.by_due).into_values();
        self.by_due = held.map(|held| (due(&held.kek, offset), held)).collect();
    }

    #[cfg(test)]
    pub(super) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    pub(super) fn keks(&self) -> impl Iterator<Item = &CachedKek> {
        self.by_due.values().map(|held| &*held.kek)
    }
}

/// Whether a path begins with all segments of `outer` and goes on.
pub(super) fn is_inside(path: &KeyPath, outer: &KeyPath) -> bool {
    // The encoding is the number of segments, 4 bytes, and then each with its length before it.
    fn segments(path: &KeyPath) -> &[u8] {
        path.as_bytes().get(4..).unwrap_or_default()
    }
    segments(path).len() > segments(outer).len() && segments(path).starts_with(segments(outer))
}

fn is_named(kek: &CachedKek, path: &KeyPath, id: KekId) -> bool {
    kek.id() == id && kek.identity.path == *path
}

//! Which KEKs are held, by name and by deadline. No key bytes, no clock, no thread: all it does is bookkeeping.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use keystrata_primitives::{KekId, KeyPath};

use super::CachedKek;
use crate::clock::Moment;

/// How many due KEKs one look takes out at most, so that callers wait microseconds for the lock, not milliseconds.
const BATCH: usize = 512;

/// A clock set by less than this moves no deadline far enough to be looked for; use is refused at the exact time anyway.
const JUMP: Duration = Duration::from_millis(500);

type Name = (KeyPath, KekId);
/// Boot time of the deadline, and a number that tells equal ones apart.
type Due = (Duration, u64);

pub(super) struct Index {
    capacity: usize,
    by_name: HashMap<Name, (Due, Arc<CachedKek>)>,
    by_deadline: BTreeMap<Due, Name>,
    next_number: u64,
    /// Until when the sweeper sleeps; `None` while it waits for an alarm alone.
    sweeper_sleeps_until: Option<Moment>,
    /// The last known distance between the two clocks, and whether it moved since the last sweep.
    real_offset: Option<Duration>,
    has_jumped: bool,
    is_closed: bool,
}

pub(super) struct Inserted {
    /// KEKs that are out of the index and must be overwritten.
    pub(super) displaced: Vec<Arc<CachedKek>>,
    /// Whether the sweeper would oversleep the new deadline.
    pub(super) is_due_before_sweeper_wakes: bool,
}

/// What the sweeper does next.
pub(super) enum Sweep {
    /// Overwrite these and look again at once.
    Overwrite(Vec<Arc<CachedKek>>),
    /// Nothing is due before this moment, or at all.
    WaitUntil(Option<Moment>),
    Closed,
}

impl Index {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            by_name: HashMap::new(),
            by_deadline: BTreeMap::new(),
            next_number: 0,
            sweeper_sleeps_until: None,
            real_offset: None,
            has_jumped: false,
            is_closed: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn get(&self, path: &KeyPath, id: KekId) -> Option<Arc<CachedKek>> {
        self.by_name.get(&(path.clone(), id)).map(|(_, kek)| Arc::clone(kek))
    }

    pub(super) fn insert(&mut self, kek: Arc<CachedKek>, now: Moment) -> Inserted {
        let mut displaced = Vec::new();
        self.look_for_jump(now);
        if self.is_closed {
            displaced.push(kek);
            return Inserted { displaced, is_due_before_sweeper_wakes: false };
        }
        let name = (kek.identity.path.clone(), kek.identity.id);
        displaced.extend(self.take(&name));
        if self.by_name.len() >= self.capacity {
            displaced.extend(self.take_nearest());
        }
        let deadline = kek.deadline;
        let due = (deadline.boot, self.next_number);
        self.next_number += 1;
        self.by_deadline.insert(due, name.clone());
        self.by_name.insert(name, (due, kek));
        let is_due_before_sweeper_wakes = self.sweeper_sleeps_until.is_none_or(|wakes| deadline.boot < wakes.boot);
        Inserted { displaced, is_due_before_sweeper_wakes }
    }

    fn take(&mut self, name: &Name) -> Option<Arc<CachedKek>> {
        let (due, kek) = self.by_name.remove(name)?;
        self.by_deadline.remove(&due);
        Some(kek)
    }

    /// Takes out the KEK whose deadline is nearest.
    pub(super) fn take_nearest(&mut self) -> Option<Arc<CachedKek>> {
        let nearest = self.by_deadline.first_key_value().map(|(_, name)| name.clone())?;
        self.take(&nearest)
    }

    /// Takes `kek` out, unless another took its place.
    pub(super) fn remove(&mut self, kek: &Arc<CachedKek>) {
        let name = (kek.identity.path.clone(), kek.identity.id);
        if self.by_name.get(&name).is_some_and(|(_, held)| Arc::ptr_eq(held, kek)) {
            self.take(&name);
        }
    }

    /// Real time may be set and set back between two sweeps, so inserting looks too.
    fn look_for_jump(&mut self, now: Moment) {
        let offset = now.real.saturating_sub(now.boot);
        self.has_jumped |= self.real_offset.is_some_and(|before| before.abs_diff(offset) > JUMP);
        self.real_offset = Some(offset);
    }

    /// Takes out what is due at `now`, a batch at a time.
    pub(super) fn sweep(&mut self, now: Moment) -> Sweep {
        if self.is_closed {
            return Sweep::Closed;
        }
        self.look_for_jump(now);
        let due: Vec<Name> = if std::mem::take(&mut self.has_jumped) {
            // After a jump of real time the order by boot time no longer tells who is due first.
            let is_due = |name: &&Name| self.by_name.get(*name).is_some_and(|(_, kek)| now.has_reached(kek.deadline));
            self.by_deadline.values().filter(is_due).cloned().collect()
        } else {
            let is_due = |name: &&Name| self.by_name.get(*name).is_none_or(|(_, kek)| now.has_reached(kek.deadline));
            self.by_deadline.values().take_while(is_due).take(BATCH).cloned().collect()
        };
        if !due.is_empty() {
            return Sweep::Overwrite(due.iter().filter_map(|name| self.take(name)).collect());
        }
        let next = self.by_deadline.first_key_value().and_then(|(_, name)| self.by_name.get(name));
        self.sweeper_sleeps_until = next.map(|(_, kek)| kek.deadline);
        Sweep::WaitUntil(self.sweeper_sleeps_until)
    }

    /// Takes out everything, for good.
    pub(super) fn close(&mut self) -> Vec<Arc<CachedKek>> {
        self.is_closed = true;
        self.by_deadline.clear();
        self.by_name.drain().map(|(_, (_, kek))| kek).collect()
    }
}

//! The thread that overwrites KEKs at their deadline.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use super::Shared;
use crate::clock::{Moment, Nanos, nanos};

/// How many due KEKs one look into a shard takes out at most, so that callers wait microseconds for the lock.
const BATCH: usize = 512;

/// The least time between two rounds: with a million KEKs some are due every fraction of a millisecond. So a key may stay
/// this much longer than its deadline; its use is refused at the exact time anyway.
const ROUND: Duration = Duration::from_millis(100);

/// A clock set by less than this moves no deadline far enough to put them in order anew.
const JUMP: Duration = Duration::from_millis(500);

/// What those who put KEKs in tell the sweeper, without a lock.
#[derive(Debug)]
pub(super) struct Agenda {
    /// By boot time: when the sweeper will look again, and the earliest deadline put in since it began to look.
    sleeps_until: AtomicU64,
    earliest: AtomicU64,
    /// What real time is ahead of boot time, as the index is in order by.
    offset: AtomicI64,
}

impl Agenda {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            sleeps_until: AtomicU64::new(u64::MAX),
            earliest: AtomicU64::new(u64::MAX),
            offset: AtomicI64::new(offset(now)),
        }
    }

    pub(super) fn offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Notes that something is due at `due`; `true` if the sweeper would oversleep it.
    pub(super) fn note(&self, due: u64) -> bool {
        // Sequentially consistent, like the sweeper's store and load: one of the two sees the other's.
        self.earliest.fetch_min(due, Ordering::SeqCst);
        due < self.sleeps_until.load(Ordering::SeqCst)
    }

    /// Whether real time was set since the index was put in order.
    pub(super) fn has_jumped(&self, now: Moment) -> bool {
        offset(now).abs_diff(self.offset()) > nanos(JUMP)
    }
}

/// Negative where real time was never set.
fn offset(now: Moment) -> i64 {
    let (real, boot) = (nanos(now.real).cast_signed(), nanos(now.boot).cast_signed());
    real.saturating_sub(boot)
}

/// Runs until the cache is closed.
pub(super) fn run(shared: &Shared) {
    let _ended = Ended(shared);
    let agenda = &shared.agenda;
    while !shared.is_closed() {
        let now = shared.clock.now();
        // A swap, not a store: what was put in before is seen from now on, also where no lock of it is taken.
        agenda.earliest.swap(u64::MAX, Ordering::SeqCst);
        if agenda.has_jumped(now) {
            agenda.offset.store(offset(now), Ordering::Relaxed);
            for index in 0..shared.shard_count() {
                let mut locked = shared.shard_at(index);
                locked.reorder(agenda.offset());
                shared.first_due[index].store(0, Ordering::Relaxed);
            }
        }
        let next = sweep(shared, now);
        agenda.sleeps_until.store(next, Ordering::SeqCst);
        let next = next.min(agenda.earliest.load(Ordering::SeqCst));
        counted(|| shared.signals.publish(&shared.arena.report(), shared.len()));
        // By boot time alone: real time is seen to have jumped at the next look, and there is one every second.
        let round = nanos(now.boot).saturating_add(nanos(ROUND));
        let wakes = Moment { boot: Duration::from_nanos(next.max(round)), real: Duration::MAX };
        shared.clock.wait(&shared.alarm, (next != u64::MAX).then_some(wakes));
    }
    // All is overwritten by now, and nothing is counted afterwards.
    counted(|| shared.signals.publish(&shared.arena.report(), shared.len()));
}

/// A recorder of metrics is somebody else's code. A panic of it, which says so itself, must not end the thread that
/// overwrites keys.
pub(super) fn counted(count: impl FnOnce()) {
    let _ = panic::catch_unwind(AssertUnwindSafe(count));
}

/// Overwrites what is due, and says when something is due next.
pub(super) fn sweep(shared: &Shared, now: Moment) -> u64 {
    let boot = Nanos::from(now).boot;
    // All keys first: taking what goes with them out of the index, and giving it back, takes ten times as long.
    let is_due = |index: &usize| shared.first_due(*index) <= boot;
    for index in (0..shared.shard_count()).filter(is_due) {
        let due = shared.shard_at(index).due(boot);
        for kek in &due {
            kek.overwrite();
        }
    }
    let mut next = u64::MAX;
    let mut overwritten = Vec::new();
    for index in 0..shared.shard_count() {
        while is_due(&index) {
            let from = overwritten.len();
            {
                let mut locked = shared.shard_at(index);
                let next_here = locked.take_due(boot, from + BATCH, &mut overwritten);
                shared.first_due[index].store(next_here.unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            // Outside the lock: callers of other accounts do not wait for it.
            shared.overwrite_expired(&overwritten[from..]);
        }
        next = next.min(shared.first_due(index));
    }
    // What was taken out otherwise has left its time in `first_due`; an empty cache is not to wake for that.
    if shared.len() == 0 { u64::MAX } else { next }
}

/// Tells the clock, also when it is the clock that panicked.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.clock.forget_sleeper(&self.0.alarm);
    }
}

//! What the engine counts: for [`Stats`], and for whatever recorder the `metrics` crate has.
//!
//! Labels are bounded: no account, no KEK id. The names are listed at [`Stats`].

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use keystrata_memory::MemoryReport;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::error::KeyError;

/// What happened in this process since the hierarchy was built. The same counts are metrics.
///
/// | field | metric | counts |
/// |---|---|---|
/// | `hits` | `keystrata_kek_hits_total` | operations that found their KEK in memory |
/// | `misses` | `keystrata_kek_misses_total` | operations that had to wait for one |
/// | `shared_waits` | `keystrata_kek_shared_waits_total` | waits for a load that another began |
/// | `loads` | `keystrata_kek_loads_total{outcome="ok"}` | KEKs that the root key unwrapped or generated |
/// | `failed_loads` | `keystrata_kek_loads_total{outcome=…}` | the others: `throttled`, `denied`, `unavailable`, `overloaded`, `corrupt`, `late`, `other` |
/// | `child_loads` | `keystrata_kek_child_loads_total{outcome="ok"}` | KEKs that another KEK unwrapped or wrapped, without a call |
/// | `failed_child_loads` | `keystrata_kek_child_loads_total{outcome=…}` | the others: `corrupt`, `other` |
/// | `refreshes` | `keystrata_kek_refreshes_total` | loads begun ahead of a deadline |
/// | `expiries` | `keystrata_kek_expiries_total` | KEKs overwritten at their deadline |
/// | `evictions` | `keystrata_kek_evictions_total` | KEKs overwritten to make room |
/// | `invalidations` | `keystrata_kek_invalidations_total` | calls to invalidate, and refusals by the KMS or the store that did |
/// | `denials` | `keystrata_kek_denials_total` | denials by the KMS |
/// | `remembered` | `keystrata_kek_remembered_refusals_total` | refusals answered from memory, without a call |
/// | `wiped` | `keystrata_kek_wiped_total` | KEKs overwritten for whatever reason |
/// | `stale_uses` | `keystrata_kek_stale_uses_total` | times that a KEK was let beyond its deadline |
/// | `rotations` | `keystrata_kek_rotations_total` | new primaries made in place of an old one |
/// | `failovers` | `keystrata_kek_failovers_total{cause=…}` | unwraps that went on to the next root key since one was `throttled`, `unavailable` or `overloaded` |
/// | `audit_failures` | `keystrata_audit_failures_total` | life-cycle events that the [audit sink](crate::AuditSink) did not record |
/// | `partial_wraps` | `keystrata_kek_partial_wraps_total` | KEKs made without some of their roots, [where that is allowed](crate::RootsBuilder::accept_at_least) |
///
/// Gauges: `keystrata_keks`, `keystrata_memory_slots_used`, `keystrata_memory_slots`, and the bytes of key memory by how
/// they are kept, as in [`MemoryReport`]: `keystrata_memory_secret_bytes`, `keystrata_memory_locked_bytes`,
/// `keystrata_memory_unlocked_bytes`. Histogram: `keystrata_kek_age_at_use_seconds`, the time since the KMS authorised a
/// KEK, at one of 64 hits and at every miss that ends with a KEK in memory.
///
/// Hits and gauges reach the recorder once a second while a KEK is in memory and when the hierarchy ends, the rest at
/// once. A recorder has to be installed before the hierarchy is built.
///
/// A KEK that came too late to be used counts in `loads` and, as `late`, in `failed_loads`; every other call to the root
/// key counts once. Those of [`health`](crate::Hierarchy::health) do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // the table says it
pub struct Stats {
    pub hits: u64,
    pub misses: u64,
    pub shared_waits: u64,
    pub loads: u64,
    pub failed_loads: u64,
    pub child_loads: u64,
    pub failed_child_loads: u64,
    pub refreshes: u64,
    pub expiries: u64,
    pub evictions: u64,
    pub invalidations: u64,
    pub denials: u64,
    pub remembered: u64,
    pub wiped: u64,
    pub stale_uses: u64,
    pub rotations: u64,
    pub failovers: u64,
    pub partial_wraps: u64,
    pub audit_failures: u64,
}

/// One count, here and at the recorder.
pub(crate) struct Count {
    value: AtomicU64,
    counter: Counter,
}

impl Count {
    fn new(counter: Counter) -> Self {
        Self { value: AtomicU64::new(0), counter }
    }

    pub(crate) fn add(&self, more: u64) {
        if more > 0 {
            self.value.fetch_add(more, Ordering::Relaxed);
            self.counter.increment(more);
        }
    }

    fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

pub(crate) struct Signals {
    hits: Striped,
    hits_published: AtomicU64,
    hits_counter: Counter,
    pub(crate) misses: Count,
    pub(crate) shared_waits: Count,
    loads: [Count; Outcome::ALL.len()],
    child_loads: [Count; CHILD_OUTCOMES.len()],
    pub(crate) refreshes: Count,
    pub(crate) expiries: Count,
    pub(crate) evictions: Count,
    pub(crate) invalidations: Count,
    pub(crate) denials: Count,
    pub(crate) remembered: Count,
    pub(crate) wiped: Count,
    pub(crate) stale_uses: Count,
    pub(crate) rotations: Count,
    failovers: [Count; FAILOVERS.len()],
    pub(crate) partial_wraps: Count,
    pub(crate) audit_failures: Count,
    age_at_use: Histogram,
    gauges: [Gauge; 6],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Throttled,
    Denied,
    Unavailable,
    Overloaded,
    Corrupt,
    Late,
    Other,
}

/// What becomes of a KEK under another.
const CHILD_OUTCOMES: [(Outcome, &str); 3] =
    [(Outcome::Other, "other"), (Outcome::Ok, "ok"), (Outcome::Corrupt, "corrupt")];

/// Why a KEK's next root key is asked.
const FAILOVERS: [(Outcome, &str); 3] =
    [(Outcome::Unavailable, "unavailable"), (Outcome::Throttled, "throttled"), (Outcome::Overloaded, "overloaded")];

impl Outcome {
    const ALL: [(Self, &str); 8] = [
        (Self::Ok, "ok"),
        (Self::Throttled, "throttled"),
        (Self::Denied, "denied"),
        (Self::Unavailable, "unavailable"),
        (Self::Overloaded, "overloaded"),
        (Self::Corrupt, "corrupt"),
        (Self::Late, "late"),
        (Self::Other, "other"),
    ];

    fn of<T>(loaded: &Result<T, KeyError>) -> Self {
        loaded.as_ref().map_or_else(Self::of_error, |_| Self::Ok)
    }

    fn of_error(error: &KeyError) -> Self {
        match error {
            KeyError::Throttled(_) => Self::Throttled,
            KeyError::Denied(_) => Self::Denied,
            KeyError::RootUnavailable(_) => Self::Unavailable,
            KeyError::Overloaded(_) => Self::Overloaded,
            KeyError::Corrupt { .. } => Self::Corrupt,
            KeyError::Late { .. } => Self::Late,
            _ => Self::Other,
        }
    }
}

/// Where this outcome is counted; the first stands for those that are not listed.
fn index(listed: &[(Outcome, &str)], outcome: Outcome) -> usize {
    listed.iter().position(|(known, _)| *known == outcome).unwrap_or_default()
}

impl Signals {
    /// With the recorder that is installed now.
    pub(crate) fn new() -> Self {
        let count = |counter| Count::new(counter);
        Self {
            hits: Striped::default(),
            hits_published: AtomicU64::new(0),
            hits_counter: counter!("keystrata_kek_hits_total"),
            misses: count(counter!("keystrata_kek_misses_total")),
            shared_waits: count(counter!("keystrata_kek_shared_waits_total")),
            loads: Outcome::ALL.map(|(_, outcome)| count(counter!("keystrata_kek_loads_total", "outcome" => outcome))),
            child_loads: CHILD_OUTCOMES
                .map(|(_, outcome)| count(counter!("keystrata_kek_child_loads_total", "outcome" => outcome))),
            refreshes: count(counter!("keystrata_kek_refreshes_total")),
            expiries: count(counter!("keystrata_kek_expiries_total")),
            evictions: count(counter!("keystrata_kek_evictions_total")),
            invalidations: count(counter!("keystrata_kek_invalidations_total")),
            denials: count(counter!("keystrata_kek_denials_total")),
            remembered: count(counter!("keystrata_kek_remembered_refusals_total")),
            wiped: count(counter!("keystrata_kek_wiped_total")),
            stale_uses: count(counter!("keystrata_kek_stale_uses_total")),
            rotations: count(counter!("keystrata_kek_rotations_total")),
            failovers: FAILOVERS.map(|(_, cause)| count(counter!("keystrata_kek_failovers_total", "cause" => cause))),
            partial_wraps: count(counter!("keystrata_kek_partial_wraps_total")),
            audit_failures: count(counter!("keystrata_audit_failures_total")),
            age_at_use: histogram!("keystrata_kek_age_at_use_seconds"),
            gauges: [
                gauge!("keystrata_keks"),
                gauge!("keystrata_memory_slots_used"),
                gauge!("keystrata_memory_slots"),
                gauge!("keystrata_memory_secret_bytes"),
                gauge!("keystrata_memory_locked_bytes"),
                gauge!("keystrata_memory_unlocked_bytes"),
            ],
        }
    }

    /// An operation found its KEK in memory. `age` is asked for one in 64.
    pub(crate) fn hit(&self, age: impl FnOnce() -> Duration) {
        if self.hits.add_one().is_multiple_of(64) {
            self.age_at_use.record(age());
        }
    }

    pub(crate) fn use_after_miss(&self, age: Duration) {
        self.age_at_use.record(age);
    }

    /// The root key answered, or could not.
    pub(crate) fn load<T>(&self, loaded: &Result<T, KeyError>) {
        self.loads[Outcome::of(loaded) as usize].add(1);
    }

    /// A KEK's next root key is asked, because of this failure of one before it.
    pub(crate) fn failover(&self, cause: &KeyError) {
        // A parent's record that cannot be read makes it unavailable too.
        self.failovers[index(&FAILOVERS, Outcome::of_error(cause))].add(1);
    }

    /// A parent's KEK unwrapped or wrapped another, or did not.
    pub(crate) fn child_load<T>(&self, loaded: &Result<T, KeyError>) {
        self.child_loads[index(&CHILD_OUTCOMES, Outcome::of(loaded))].add(1);
    }

    /// Tells the recorder what is not told at once.
    #[allow(clippy::cast_precision_loss)] // a gauge
    pub(crate) fn publish(&self, memory: &MemoryReport, keks: usize) {
        let hits = self.hits.sum();
        let published = self.hits_published.fetch_max(hits, Ordering::Relaxed);
        self.hits_counter.increment(hits.saturating_sub(published));
        let bytes = [memory.secret_bytes, memory.locked_bytes, memory.unlocked_bytes];
        let values = [keks, memory.slots_used, memory.slots_capacity].into_iter().chain(bytes);
        for (gauge, value) in self.gauges.iter().zip(values) {
            gauge.set(value as f64);
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (ok, failed) = self.loads.split_first().expect("there are outcomes");
        Stats {
            hits: self.hits.sum(),
            misses: self.misses.get(),
            shared_waits: self.shared_waits.get(),
            loads: ok.get(),
            failed_loads: failed.iter().map(Count::get).sum(),
            child_loads: self.child_loads[index(&CHILD_OUTCOMES, Outcome::Ok)].get(),
            failed_child_loads: {
                let failed = CHILD_OUTCOMES.iter().zip(&self.child_loads).filter(|((of, _), _)| *of != Outcome::Ok);
                failed.map(|(_, count)| count.get()).sum()
            },
            refreshes: self.refreshes.get(),
            expiries: self.expiries.get(),
            evictions: self.evictions.get(),
            invalidations: self.invalidations.get(),
            denials: self.denials.get(),
            remembered: self.remembered.get(),
            wiped: self.wiped.get(),
            stale_uses: self.stale_uses.get(),
            rotations: self.rotations.get(),
            failovers: self.failovers.iter().map(Count::get).sum(),
            partial_wraps: self.partial_wraps.get(),
            audit_failures: self.audit_failures.get(),
        }
    }
}

const STRIPES: usize = 16;

/// A count that threads add to without waiting for each other's caches.
///
/// The first threads of a process have a stripe to themselves and need no locked instruction, which would also wait for
/// all that a seal has just written. The others share one.
#[derive(Default)]
struct Striped {
    own: [Stripe; STRIPES],
    shared: Stripe,
}

#[derive(Default)]
#[repr(align(128))] // two lines: some processors fetch them in pairs
struct Stripe(AtomicU64);

impl Striped {
    /// Gives the stripe's count before.
    fn add_one(&self) -> u64 {
        match own_stripe().and_then(|stripe| self.own.get(stripe)) {
            Some(Stripe(own)) => {
                let count = own.load(Ordering::Relaxed);
                own.store(count + 1, Ordering::Relaxed); // nobody else writes it
                count
            }
            None => self.shared.0.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn sum(&self) -> u64 {
        self.own.iter().chain([&self.shared]).map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}

/// The stripe that only this thread writes, if it has one.
fn own_stripe() -> Option<usize> {
    thread_local!(static MINE: OwnStripe = OwnStripe::take());
    MINE.try_with(|mine| mine.0).ok().flatten()
}

/// One of the stripes, for as long as a thread lives. A child has its own only of the thread that forked; what the others
/// had stays taken there.
struct OwnStripe(Option<usize>);

/// A bit for each stripe that a thread has. No lock, which a fork might catch held.
static TAKEN: AtomicU32 = AtomicU32::new(0);

impl OwnStripe {
    fn take() -> Self {
        let first_free = |taken: u32| (0..STRIPES).find(|stripe| taken & (1 << stripe) == 0);
        let take = |taken| first_free(taken).map(|stripe| taken | (1 << stripe));
        // What the thread that had it before counted is seen by the one that has it now.
        Self(TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, take).ok().and_then(first_free))
    }
}

impl Drop for OwnStripe {
    fn drop(&mut self) {
        if let Some(stripe) = self.0 {
            TAKEN.fetch_and(!(1 << stripe), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_stripes_count_apart_and_add_up() {
        let signals = Signals::new();
        for _ in 0..3 {
            let barrier = std::sync::Barrier::new(2 * STRIPES);
            std::thread::scope(|scope| {
                for _ in 0..2 * STRIPES {
                    scope.spawn(|| {
                        barrier.wait();
                        (0..1_000).for_each(|_| signals.hit(Duration::default));
                    });
                }
            });
        }
        assert_eq!(signals.stats().hits, 3 * 2 * STRIPES as u64 * 1_000);
    }
}

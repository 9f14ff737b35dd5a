//! Virtual time: a clock that the simulation sets, and those who sleep by it.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use keystrata_hierarchy::{
    Clock,
    clock::{Alarm, Moment},
};

/// When a simulation begins, by the engine's clocks. Not zero: times before it must be representable.
const BOOT: Duration = Duration::from_secs(1_000);
const REAL: Duration = Duration::from_secs(1_800_000_000);

/// Nanoseconds since the beginning of the simulation. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimClock(Arc<AtomicU64>);

impl SimClock {
    pub(crate) fn set(&self, nanos: u64) {
        self.0.store(nanos, Ordering::Relaxed);
    }

    pub(crate) fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What a moment of boot time is on this clock.
    pub(crate) fn since_start(boot: Duration) -> u64 {
        u64::try_from(boot.saturating_sub(BOOT).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        let now = Duration::from_nanos(self.nanos());
        Moment { boot: BOOT + now, real: REAL + now }
    }

    fn wait(&self, alarm: &Arc<Alarm>, _until: Option<Moment>) {
        // Engines and timers here have no threads of their own. One that had would wait for the end.
        alarm.wait(None);
    }
}

/// Those who sleep until a time: calls that the KMS or the store has not answered yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sleeps(Arc<Mutex<Sleepers>>);

#[derive(Debug, Default)]
struct Sleepers {
    next: u64,
    waiting: BinaryHeap<Reverse<Sleeper>>,
}

#[derive(Debug)]
struct Sleeper {
    at: u64,
    number: u64,
    waker: Waker,
}

impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Sleeper {}

impl Sleeps {
    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the first wakes.
    pub(crate) fn next(&self) -> u64 {
        self.sleepers().waiting.peek().map_or(u64::MAX, |Reverse(sleeper)| sleeper.at)
    }

    /// Wakes those whose time has come, in its order.
    pub(crate) fn wake(&self, now: u64) {
        loop {
            let mut sleepers = self.sleepers();
            let is_due = sleepers.waiting.peek().is_some_and(|Reverse(sleeper)| sleeper.at <= now);
            let Some(Reverse(sleeper)) = is_due.then(|| sleepers.waiting.pop()).flatten() else { return };
            drop(sleepers);
            sleeper.waker.wake();
        }
    }

    /// Ends `time` from now.
    pub(crate) fn sleep(&self, clock: &SimClock, time: u64) -> Sleep {
        Sleep { sleeps: self.clone(), at: clock.nanos().saturating_add(time), clock: clock.clone(), is_waiting: false }
    }
}

/// The future of [`Sleeps::sleep`], for one task.
pub(crate) struct Sleep {
    sleeps: Sleeps,
    clock: SimClock,
    at: u64,
    is_waiting: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.nanos() >= self.at {
            return Poll::Ready(());
        }
        if !self.is_waiting {
            self.is_waiting = true;
            let mut sleepers = self.sleeps.sleepers();
            let number = sleepers.next;
            sleepers.next += 1;
            let sleeper = Sleeper { at: self.at, number, waker: cx.waker().clone() };
            sleepers.waiting.push(Reverse(sleeper));
        }
        Poll::Pending
    }
}

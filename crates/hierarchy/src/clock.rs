//! Time as a parameter: what deadlines are counted in, and what the sweeper waits on.

mod system;

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use self::system::SystemClock;

/// A moment on two clocks at once.
///
/// Boot time never runs backwards and counts through suspend; real time also sees a hypervisor's pause. A deadline has
/// passed when *either* clock has reached it, so a clock set back never lengthens a key's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since the machine started, time suspended included.
    pub boot: Duration,
    /// Since the Unix epoch, as the system's clock is set.
    pub real: Duration,
}

impl Moment {
    /// This moment `after` later, on both clocks.
    pub fn after(self, after: Duration) -> Self {
        Self { boot: self.boot.saturating_add(after), real: self.real.saturating_add(after) }
    }

    /// Whether `deadline` has been reached on either clock. A deadline itself counts as passed.
    pub fn has_reached(self, deadline: Self) -> bool {
        self.boot >= deadline.boot || self.real >= deadline.real
    }

    /// How long until `deadline`, by the clock that gets there first.
    pub fn until(self, deadline: Self) -> Duration {
        let boot = deadline.boot.saturating_sub(self.boot);
        boot.min(deadline.real.saturating_sub(self.real))
    }
}

/// A moment in nanoseconds, as every cached KEK keeps one: half the size, and a comparison is two instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nanos {
    pub(crate) boot: u64,
    pub(crate) real: u64,
}

impl Nanos {
    /// Whether `deadline` has been reached on either clock, as [`Moment::has_reached`].
    pub(crate) fn has_reached(self, deadline: Self) -> bool {
        self.boot >= deadline.boot || self.real >= deadline.real
    }

    /// What comes first, on each clock.
    pub(crate) fn earlier(self, other: Self) -> Self {
        Self { boot: self.boot.min(other.boot), real: self.real.min(other.real) }
    }

    /// This moment `after` later, on both clocks.
    pub(crate) fn after(self, after: Duration) -> Self {
        let after = nanos(after);
        Self { boot: self.boot.saturating_add(after), real: self.real.saturating_add(after) }
    }

    /// This moment `before` sooner, on both clocks.
    pub(crate) fn before(self, before: u64) -> Self {
        Self { boot: self.boot.saturating_sub(before), real: self.real.saturating_sub(before) }
    }
}

impl From<Moment> for Nanos {
    fn from(moment: Moment) -> Self {
        Self { boot: nanos(moment.boot), real: nanos(moment.real) }
    }
}

/// All of a duration up to 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// Where the engine gets the time from. [`SystemClock`] outside tests.
pub trait Clock: fmt::Debug + Send + Sync {
    /// What time it is.
    fn now(&self) -> Moment;

    /// A moment no earlier than now by boot time and later by a fraction of a second at most, where that is cheaper to
    /// know. What is in time by it is in time; for all else [`now`](Self::now) is asked.
    fn at_latest(&self) -> Moment {
        self.now()
    }

    /// Says that a thread is about to start which will [`wait`](Self::wait) on `alarm` again and again.
    ///
    /// A clock that waits for its sleepers, as the one for tests does, needs to know; the others do not.
    fn expect_sleeper(&self, alarm: &Arc<Alarm>) {
        let _ = alarm;
    }

    /// Says that the thread which waited on `alarm` has ended.
    fn forget_sleeper(&self, alarm: &Arc<Alarm>) {
        let _ = alarm;
    }

    /// Blocks the calling thread until `until`, or until `alarm` rings, or a little less long.
    ///
    /// `None` waits for the alarm alone. Only the sweeper's own thread calls this.
    fn wait(&self, alarm: &Arc<Alarm>, until: Option<Moment>);
}

/// Wakes the sweeper before its time.
#[derive(Debug, Default)]
pub struct Alarm {
    rings: Mutex<bool>,
    changed: Condvar,
}

impl Alarm {
    pub(crate) fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// Ends the present [`Clock::wait`], or the next one if none is under way.
    pub fn ring(&self) {
        *self.rings() = true;
        self.changed.notify_all();
    }

    /// Waits until the alarm rings, at most `timeout`; then it is silent again.
    pub fn wait(&self, timeout: Option<Duration>) {
        let rings = self.rings();
        let mut rings = match timeout {
            None => self.changed.wait_while(rings, |rings| !*rings).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let waited = self.changed.wait_timeout_while(rings, timeout, |rings| !*rings);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *rings = false;
    }

    /// Whether it was ringing; it is silent afterwards.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn silence(&self) -> bool {
        std::mem::take(&mut *self.rings())
    }

    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn is_ringing(&self) -> bool {
        *self.rings()
    }

    /// Waits until the alarm rings, and leaves it ringing.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn wait_until_ringing(&self) {
        let rings = self.changed.wait_while(self.rings(), |rings| !*rings);
        drop(rings.unwrap_or_else(PoisonError::into_inner));
    }

    fn rings(&self) -> MutexGuard<'_, bool> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_deadline_passes_on_whichever_clock_gets_there_first() {
        let start = Moment { boot: SECOND, real: 100 * SECOND };
        let deadline = start.after(10 * SECOND);
        assert!(!start.after(Duration::from_millis(9_999)).has_reached(deadline));
        assert!(start.after(10 * SECOND).has_reached(deadline));
        let paused_by_hypervisor = Moment { boot: 2 * SECOND, real: 200 * SECOND };
        assert!(paused_by_hypervisor.has_reached(deadline));
        let set_back = Moment { boot: 20 * SECOND, real: SECOND };
        assert!(set_back.has_reached(deadline));
        assert_eq!(set_back.until(deadline), Duration::ZERO);
        assert_eq!(start.until(deadline), 10 * SECOND);
    }

    #[test]
    fn an_alarm_that_rang_before_the_wait_ends_it() {
        let alarm = Alarm::shared();
        alarm.ring();
        alarm.wait(None);
        assert!(!alarm.silence());
    }
}

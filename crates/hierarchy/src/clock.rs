//! Time as a parameter: what deadlines are counted in, and what the sweeper waits on.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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

    /// This moment `after` later, on both clocks.
    pub(crate) fn after(self, after: Duration) -> Self {
        let after = nanos(after);
        Self { boot: self.boot.saturating_add(after), real: self.real.saturating_add(after) }
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

/// The operating system's clocks.
///
/// Boot time is `CLOCK_BOOTTIME` on Linux and Android. Elsewhere it is the monotonic clock, which on some systems
/// stands still while the machine is suspended; there the real clock alone sees a suspend.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// A thread's timer stands still while the machine is suspended and knows nothing of a clock that is set. Waking at
    /// least this often bounds how late a deadline that passed meanwhile is noticed.
    pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(1);
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment { boot: boot_time(), real: real_time() }
    }

    fn wait(&self, alarm: &Arc<Alarm>, until: Option<Moment>) {
        alarm.wait(until.map(|until| self.now().until(until).min(Self::LONGEST_WAIT)));
    }
}

/// The time of the last tick, some milliseconds behind. Real time is here for jumps, of an operator or a hypervisor, and
/// those it shows as well as the exact one does, for a quarter of the cost: it is asked at every seal.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn real_time() -> Duration {
    duration(rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn real_time() -> Duration {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(unix)]
fn duration(time: rustix::time::Timespec) -> Duration {
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

#[cfg(unix)]
fn boot_time() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    duration(rustix::time::clock_gettime(CLOCK))
}

#[cfg(not(unix))]
fn boot_time() -> Duration {
    use std::{sync::LazyLock, time::Instant};
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
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

    #[test]
    fn the_system_clock_moves_forward_and_knows_the_year() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(second.boot >= first.boot);
        let exact = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(SystemClock.now().real.abs_diff(exact) < Duration::from_secs(60));
    }

    #[test]
    fn a_wait_on_the_system_clock_ends_without_an_alarm() {
        let alarm = Alarm::shared();
        let deadline = SystemClock.now().after(Duration::from_millis(1));
        while !SystemClock.now().has_reached(deadline) {
            SystemClock.wait(&alarm, Some(deadline));
        }
    }
}

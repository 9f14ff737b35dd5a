//! The operating system's clocks.

use std::{sync::Arc, time::Duration};

use super::{Alarm, Clock, Moment};

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

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn at_latest(&self) -> Moment {
        ticks::at_latest()
    }

    fn wait(&self, alarm: &Arc<Alarm>, until: Option<Moment>) {
        alarm.wait(until.map(|until| self.now().until(until).min(Self::LONGEST_WAIT)));
    }
}

/// The time of the last tick, some milliseconds behind. Real time is here for jumps, of an operator or a hypervisor, and
/// those it shows as well as the exact one does, for a quarter of the cost.
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

/// Boot time from the clocks of the last tick.
///
/// The exact boot time costs a read of the processor's time stamp that waits for all loads before it: a fifth of what a
/// hit adds to a seal. Linux has no clock of the last tick that counts through suspend, but two that do not differ
/// otherwise: monotonic time stands still in a suspend and real time does not. So while the two keep their distance there
/// was no suspend, and monotonic time plus what boot time was ahead is boot time; when the distance changes, by a suspend
/// or because somebody set the clock, the exact one is asked.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod ticks {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use rustix::time::{ClockId, Timespec, clock_gettime};

    use super::Moment;

    /// How far real time may drift from monotonic time unnoticed: more than the tick that may come between the reading of
    /// the two, of 10 ms at most.
    const DRIFT: u64 = 50_000_000;
    /// How far behind a clock of the last tick may be, and what may be unnoticed.
    const BEHIND: u64 = 10_000_000 + DRIFT;

    static SYSTEM: Ticks = Ticks { boot_ahead: AtomicU64::new(0), real_ahead: AtomicU64::new(0) };

    pub(super) fn at_latest() -> Moment {
        SYSTEM.at_latest(|clock| {
            let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
            tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(tv_nsec.cast_unsigned())
        })
    }

    /// How far the other clocks were ahead of the monotonic one when the exact boot time was asked last.
    struct Ticks {
        /// Suspends make it greater, and nothing makes it less.
        boot_ahead: AtomicU64,
        /// Zero, a distance that no two clocks have, before the first time.
        real_ahead: AtomicU64,
    }

    impl Ticks {
        fn at_latest(&self, time_of: impl Fn(ClockId) -> u64) -> Moment {
            let (monotonic, real) = (time_of(ClockId::MonotonicCoarse), time_of(ClockId::RealtimeCoarse));
            let distance = real.wrapping_sub(monotonic);
            if distance.abs_diff(self.real_ahead.load(Ordering::Acquire)) > DRIFT {
                self.ask(distance, &time_of);
            }
            let boot = monotonic.saturating_add(self.boot_ahead.load(Ordering::Relaxed)).saturating_add(BEHIND);
            Moment { boot: Duration::from_nanos(boot), real: Duration::from_nanos(real) }
        }

        /// Finds out how far boot time is ahead. Real time was seen to be ahead by `distance` before that.
        #[cold]
        fn ask(&self, distance: u64, time_of: &impl Fn(ClockId) -> u64) {
            // In this order, so that time lost in between makes boot time later, never earlier.
            let monotonic = time_of(ClockId::Monotonic);
            let boot_ahead = time_of(ClockId::Boottime).saturating_sub(monotonic);
            // Whoever sees the distance that was taken before sees at least this much.
            self.boot_ahead.fetch_max(boot_ahead, Ordering::Relaxed);
            self.real_ahead.store(distance, Ordering::Release);
        }
    }

    #[cfg(test)]
    mod tests {
        use std::cell::{Cell, RefCell};

        use super::*;

        const SECOND: u64 = 1_000_000_000;

        /// A machine's clocks.
        struct Machine {
            monotonic: Cell<u64>,
            suspended: Cell<u64>,
            set_by: Cell<u64>,
            reads: RefCell<Vec<ClockId>>,
        }

        impl Machine {
            fn new() -> Self {
                let at = Cell::new;
                Self {
                    monotonic: at(1_000 * SECOND),
                    suspended: at(3 * SECOND),
                    set_by: at(1_700_000_000 * SECOND),
                    reads: RefCell::default(),
                }
            }

            fn boot(&self) -> u64 {
                self.monotonic.get() + self.suspended.get()
            }

            /// What the clocks of the last tick show is 9 ms old.
            fn read(&self, clock: ClockId) -> u64 {
                self.reads.borrow_mut().push(clock);
                let coarse = self.monotonic.get() - 9_000_000;
                match clock {
                    ClockId::MonotonicCoarse => coarse,
                    ClockId::RealtimeCoarse => coarse + self.suspended.get() + self.set_by.get(),
                    ClockId::Monotonic => self.monotonic.get(),
                    ClockId::Boottime => self.boot(),
                    other => panic!("{other:?} was not expected"),
                }
            }

            /// Boot time by the ticks is never behind, nor much ahead. Says whether the exact one was asked.
            fn check(&self, ticks: &Ticks) -> bool {
                self.reads.borrow_mut().clear();
                let boot = ticks.at_latest(|clock| self.read(clock)).boot;
                let exact = Duration::from_nanos(self.boot());
                assert!(boot >= exact, "{boot:?} is before {exact:?}");
                assert!(boot.saturating_sub(exact) <= Duration::from_nanos(BEHIND), "{boot:?} is long after {exact:?}");
                self.reads.borrow().contains(&ClockId::Boottime)
            }
        }

        fn ticks() -> Ticks {
            Ticks { boot_ahead: AtomicU64::new(0), real_ahead: AtomicU64::new(0) }
        }

        #[test]
        fn the_exact_clock_is_asked_at_first_and_after_a_suspend_or_a_set_clock() {
            let (machine, ticks) = (Machine::new(), ticks());
            assert!(machine.check(&ticks));
            for _ in 0..3 {
                machine.monotonic.set(machine.monotonic.get() + SECOND);
                assert!(!machine.check(&ticks));
            }
            machine.suspended.set(machine.suspended.get() + 3_600 * SECOND);
            assert!(machine.check(&ticks), "a suspend");
            assert!(!machine.check(&ticks));
            machine.set_by.set(machine.set_by.get() - 600 * SECOND);
            assert!(machine.check(&ticks), "a clock set back");
            assert!(!machine.check(&ticks));
            machine.set_by.set(0);
            assert!(machine.check(&ticks), "to 1970");
        }

        #[test]
        fn suspends_too_short_to_notice_add_up_to_one_that_is_noticed() {
            let (machine, ticks) = (Machine::new(), ticks());
            machine.check(&ticks);
            let asked = (0..100).filter(|_| {
                machine.suspended.set(machine.suspended.get() + 8_000_000);
                machine.check(&ticks)
            });
            assert!(asked.count() >= 12);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_moves_forward_and_knows_the_year() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(second.boot >= first.boot);
        let exact = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(SystemClock.now().real.abs_diff(exact) < Duration::from_secs(60));
    }

    #[test]
    fn the_cheap_time_is_never_behind_the_exact_one() {
        for _ in 0..100_000 {
            let before = SystemClock.now();
            let latest = SystemClock.at_latest();
            assert!(latest.boot >= before.boot, "{latest:?} is before {before:?}");
        }
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

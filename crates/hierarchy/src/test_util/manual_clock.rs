//! A clock that stands still until it is told to move.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use crate::clock::{Alarm, Clock, Moment, SystemClock};

/// A [`Clock`] that a test turns. Clones are the same clock.
///
/// [`advance`](Self::advance) returns when every sweeper that had something to do has done it, so a test needs no sleep
/// and no second look. A sweeper wakes as it would on the [system's clocks](crate::SystemClock): at its deadline by boot
/// time, once a second of boot time while it has one, and when a key comes in that it would oversleep. A jump of real time
/// alone wakes nobody.
#[derive(Clone, Debug)]
pub struct ManualClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Debug)]
struct State {
    now: Moment,
    sleepers: Vec<Sleeper>,
}

#[derive(Debug)]
struct Sleeper {
    alarm: Weak<Alarm>,
    /// By boot time; `None` while it waits for the alarm alone.
    wakes: Option<Duration>,
    is_waiting: bool,
}

impl ManualClock {
    /// A clock that shows a fixed moment, the same in every run.
    pub fn new() -> Self {
        let now = Moment { boot: Duration::from_secs(1_000), real: Duration::from_secs(1_800_000_000) };
        let state = Mutex::new(State { now, sleepers: Vec::new() });
        Self { shared: Arc::new(Shared { state, settled: Condvar::new() }) }
    }

    /// Lets `by` pass, then waits for the sweepers that this woke.
    pub fn advance(&self, by: Duration) {
        self.turn(|now| *now = now.after(by));
    }

    /// Sets real time alone, forwards or backwards, as an operator or a hypervisor might.
    pub fn set_real(&self, real: Duration) {
        self.turn(|now| now.real = real);
    }

    /// How many sweepers live by this clock.
    pub fn sleepers(&self) -> usize {
        self.state().sleepers.len()
    }

    fn turn(&self, change: impl FnOnce(&mut Moment)) {
        let mut state = self.state();
        change(&mut state.now);
        let now = state.now;
        for sleeper in &mut state.sleepers {
            if sleeper.is_due(now)
                && let Some(alarm) = sleeper.alarm.upgrade()
            {
                sleeper.is_waiting = false;
                alarm.ring();
            }
        }
        let is_busy = |state: &mut State| state.sleepers.iter().any(|sleeper| !sleeper.is_settled(now));
        let settled = self.shared.settled.wait_while(state, is_busy);
        drop(settled.unwrap_or_else(PoisonError::into_inner));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn sleeper(&mut self, alarm: &Arc<Alarm>) -> &mut Sleeper {
        let known = self.sleepers.iter().position(|sleeper| sleeper.alarm.as_ptr() == Arc::as_ptr(alarm));
        let index = known.unwrap_or_else(|| {
            self.sleepers.push(Sleeper { alarm: Arc::downgrade(alarm), wakes: None, is_waiting: false });
            self.sleepers.len() - 1
        });
        &mut self.sleepers[index]
    }
}

impl Sleeper {
    fn is_due(&self, now: Moment) -> bool {
        self.wakes.is_some_and(|wakes| now.boot >= wakes)
    }

    /// Whether it sleeps, and rightly so.
    fn is_settled(&self, now: Moment) -> bool {
        self.is_waiting && !self.is_due(now) && !self.alarm.upgrade().is_some_and(|alarm| alarm.is_ringing())
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        self.state().now
    }

    fn expect_sleeper(&self, alarm: &Arc<Alarm>) {
        self.state().sleeper(alarm).is_waiting = false;
    }

    fn forget_sleeper(&self, alarm: &Arc<Alarm>) {
        self.state().sleepers.retain(|sleeper| sleeper.alarm.as_ptr() != Arc::as_ptr(alarm));
        self.shared.settled.notify_all();
    }

    fn wait(&self, alarm: &Arc<Alarm>, until: Option<Moment>) {
        {
            let mut state = self.state();
            let now = state.now;
            if alarm.silence() || until.is_some_and(|until| now.has_reached(until)) {
                return;
            }
            let sleeper = state.sleeper(alarm);
            sleeper.wakes = until.map(|until| now.boot + now.until(until).min(SystemClock::LONGEST_WAIT));
            sleeper.is_waiting = true;
        }
        self.shared.settled.notify_all();
        alarm.wait_until_ringing();
        // Both under the lock: whoever turns the clock finds it ringing or no longer waiting.
        let mut state = self.state();
        alarm.silence();
        state.sleeper(alarm).is_waiting = false;
    }
}

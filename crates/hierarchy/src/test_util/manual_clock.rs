//! A clock that stands still until it is told to move.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use crate::clock::{Alarm, Clock, Moment};

/// A [`Clock`] that a test turns. Clones are the same clock.
///
/// [`advance`](Self::advance) returns when every sweeper that had something to do has done it, so a test needs no sleep
/// and no second look.
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
    until: Option<Moment>,
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

    fn turn(&self, change: impl FnOnce(&mut Moment)) {
        let mut state = self.state();
        change(&mut state.now);
        let now = state.now;
        for sleeper in &mut state.sleepers {
            if let Some(alarm) = sleeper.alarm.upgrade() {
                // All of them: a sweeper looks for a jump of real time at each wake.
                sleeper.is_waiting = false;
                alarm.ring();
            }
        }
        let is_busy = |state: &mut State| {
            state.sleepers.retain(|sleeper| sleeper.alarm.strong_count() > 0);
            state.sleepers.iter().any(|sleeper| !sleeper.is_settled(now))
        };
        while is_busy(&mut state) {
            // A dropped engine's sweeper does not come back to say so: look again now and then.
            let waited = self.shared.settled.wait_timeout(state, Duration::from_millis(5));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
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
            self.sleepers.push(Sleeper { alarm: Arc::downgrade(alarm), until: None, is_waiting: false });
            self.sleepers.len() - 1
        });
        &mut self.sleepers[index]
    }
}

impl Sleeper {
    /// Whether it sleeps, and rightly so. It is found waiting only if it has looked at the clock since the last turn.
    fn is_settled(&self, now: Moment) -> bool {
        self.is_waiting && self.until.is_none_or(|until| !now.has_reached(until))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        self.state().now
    }

    fn expect_sleeper(&self, alarm: &Arc<Alarm>) {
        self.state().sleeper(alarm);
    }

    fn wait(&self, alarm: &Arc<Alarm>, until: Option<Moment>) {
        {
            let mut state = self.state();
            // Under the lock: a turn of the clock after the sweeper's look must not find it waiting.
            if alarm.silence() || until.is_some_and(|until| state.now.has_reached(until)) {
                return;
            }
            let sleeper = state.sleeper(alarm);
            sleeper.until = until;
            sleeper.is_waiting = true;
        }
        self.shared.settled.notify_all();
        alarm.wait(None);
        self.state().sleeper(alarm).is_waiting = false;
    }
}

//! Waking at the right time: one thread for all who wait, by the engine's clock and under no async runtime.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use keystrata_hierarchy::{
    Clock, SystemClock,
    clock::{Alarm, Moment},
};
use keystrata_memory::ProcessLocal;

/// What budgets, retries and deadlines wait on. Clones are the same timer.
///
/// It counts boot time of its [`Clock`]: that never runs backwards, and setting the system's time moves nothing. One
/// thread does all the waking. It is started when somebody first waits, and again in a forked child, where nobody waits any
/// more who waited in the parent.
#[derive(Clone)]
pub struct Timer {
    clock: Arc<dyn Clock>,
    local: Arc<ProcessLocal<Local>>,
}

/// No thread could be started, so nobody would be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no thread could be started to wake those who wait: raise the limit on threads")]
pub(crate) struct NoThread;

/// A place in the list of those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appointment {
    at: Duration,
    number: u64,
}

impl Timer {
    /// The one of this process, on the [system's clock](SystemClock).
    pub fn system() -> Self {
        static SYSTEM: OnceLock<Timer> = OnceLock::new();
        SYSTEM.get_or_init(|| Self::on(SystemClock)).clone()
    }

    /// One of its own on `clock`, for tests: a manual clock then decides when everybody wakes.
    ///
    /// Its thread ends with the last clone.
    pub fn on(clock: impl Clock + 'static) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let captured = Arc::clone(&clock);
        let local = Arc::new(ProcessLocal::new(move || Local(Shared::new(Arc::clone(&captured)))));
        Self { clock, local }
    }

    /// One on `clock` without a thread: nobody wakes but by [`turn`](Self::turn). For simulations in virtual time, in which
    /// what happens has to follow from the seed alone.
    #[cfg(any(test, feature = "test-util"))]
    pub fn turned_by_hand(clock: impl Clock + 'static) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let captured = Arc::clone(&clock);
        let shared = move || {
            let shared = Shared::new(Arc::clone(&captured));
            shared.state().is_started = true;
            Local(shared)
        };
        Self { clock, local: Arc::new(ProcessLocal::new(shared)) }
    }

    /// Wakes all whose time has come, and gives their number. For one that is [turned by hand](Self::turned_by_hand).
    #[cfg(any(test, feature = "test-util"))]
    pub fn turn(&self) -> usize {
        let shared = &self.local.get().0;
        let mut woken = 0;
        while let Look::Due(wakers) = shared.look(shared.clock.now().boot) {
            woken += wakers.len();
            wakers.into_iter().for_each(Waker::wake);
        }
        woken
    }

    /// When the time of the next one comes, by boot time. For one that is [turned by hand](Self::turned_by_hand).
    #[cfg(any(test, feature = "test-util"))]
    pub fn next(&self) -> Option<Duration> {
        self.local.get().0.state().waiting.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now().boot
    }

    /// Ends at `at`, or at once if no thread can be started.
    pub(crate) fn sleep_until(&self, at: Duration) -> Sleep<'_> {
        Sleep { timer: self, at, registered: None }
    }

    /// Wakes `waker` once, at `at` or a little later, unless it is cancelled.
    pub(crate) fn schedule(&self, at: Duration, waker: Waker) -> Result<Appointment, NoThread> {
        self.local.get().0.schedule(at, waker)
    }

    /// Does nothing if the time has come already.
    pub(crate) fn cancel(&self, appointment: Appointment) {
        let cancelled = self.local.get().0.state().waiting.remove(&(appointment.at, appointment.number));
        drop(cancelled); // what a waker does when it is dropped is none of the lock's business
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timer").field(&self.clock).finish()
    }
}

/// The part that belongs to one process.
struct Local(Arc<Shared>);

impl Drop for Local {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.alarm.ring();
    }
}

struct Shared {
    clock: Arc<dyn Clock>,
    alarm: Arc<Alarm>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<(Duration, u64), Waker>,
    next_number: u64,
    /// When the thread looks again by itself; `None`: not before it is rung.
    looks_at: Option<Duration>,
    is_started: bool,
    is_closed: bool,
}

impl Shared {
    fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, alarm: Arc::default(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(self: &Arc<Self>, at: Duration, waker: Waker) -> Result<Appointment, NoThread> {
        let mut state = self.state();
        if !state.is_started {
            self.start()?;
            state.is_started = true;
        }
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.insert((at, number), waker);
        // Deadlines that are put off again and again mostly lie behind the moment at which the thread looks anyway.
        let is_too_early = state.looks_at.is_none_or(|looks_at| at < looks_at);
        if is_too_early {
            state.looks_at = Some(at);
        }
        drop(state);
        if is_too_early {
            self.alarm.ring();
        }
        Ok(Appointment { at, number })
    }

    fn start(self: &Arc<Self>) -> Result<(), NoThread> {
        let shared = Arc::clone(self);
        self.clock.expect_sleeper(&self.alarm);
        let thread = std::thread::Builder::new().name("keystrata-timer".into());
        let started = thread.spawn(move || {
            shared.run();
            shared.clock.forget_sleeper(&shared.alarm);
        });
        started.map(drop).map_err(|error| {
            tracing::error!(%error, "cannot start the thread that wakes whoever waits for a root key");
            self.clock.forget_sleeper(&self.alarm);
            NoThread
        })
    }

    fn run(&self) {
        loop {
            // A clock is somebody else's code: not to be called under the lock.
            let now = self.clock.now();
            match self.look(now.boot) {
                Look::Due(wakers) => {
                    for waker in wakers {
                        // One runtime's waker that panics must not leave all others asleep for ever.
                        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
                    }
                }
                Look::WaitUntil(next) => self.clock.wait(&self.alarm, next.map(|next| moment_at(now, next))),
                Look::Closed => return,
            }
        }
    }

    fn look(&self, now: Duration) -> Look {
        let mut state = self.state();
        if state.is_closed {
            return Look::Closed;
        }
        let mut due = Vec::new();
        while let Some(first) = state.waiting.first_entry()
            && first.key().0 <= now
        {
            due.push(first.remove());
        }
        if due.is_empty() {
            state.looks_at = state.waiting.first_key_value().map(|((at, _), _)| *at);
            Look::WaitUntil(state.looks_at)
        } else {
            state.looks_at = Some(now); // it comes back as soon as these are woken
            Look::Due(due)
        }
    }
}

enum Look {
    Due(Vec<Waker>),
    WaitUntil(Option<Duration>),
    Closed,
}

fn moment_at(now: Moment, boot: Duration) -> Moment {
    now.after(boot.saturating_sub(now.boot))
}

/// The future of [`Timer::sleep_until`]. Dropping it gives its place in the list back.
pub(crate) struct Sleep<'a> {
    timer: &'a Timer,
    at: Duration,
    registered: Option<(Appointment, Waker)>,
}

impl Future for Sleep<'_> {
    type Output = Result<(), NoThread>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.timer.now() >= self.at {
            return Poll::Ready(Ok(()));
        }
        if self.registered.as_ref().is_none_or(|(_, waker)| !waker.will_wake(cx.waker())) {
            self.cancel();
            match self.timer.schedule(self.at, cx.waker().clone()) {
                Ok(appointment) => self.registered = Some((appointment, cx.waker().clone())),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }
}

impl Sleep<'_> {
    fn cancel(&mut self) {
        if let Some((appointment, _)) = self.registered.take() {
            self.timer.cancel(appointment);
        }
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use keystrata_hierarchy::test_util::ManualClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Count {
        fn so_far(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_sleep_ends_at_its_time_and_not_before() {
        let clock = ManualClock::new();
        let timer = Timer::on(clock.clone());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let mut sleep = pin!(timer.sleep_until(timer.now() + 10 * SECOND));
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_millis(9_999));
        assert_eq!(count.so_far(), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(count.so_far(), 1);
        assert_eq!(sleep.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
    }

    #[test]
    fn an_earlier_sleep_overtakes_and_a_dropped_one_wakes_nobody() {
        let clock = ManualClock::new();
        let timer = Timer::on(clock.clone());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let mut late = Box::pin(timer.sleep_until(timer.now() + 60 * SECOND));
        let mut early = Box::pin(timer.sleep_until(timer.now() + SECOND));
        assert!(late.as_mut().poll(&mut cx).is_pending());
        assert!(early.as_mut().poll(&mut cx).is_pending());
        clock.advance(SECOND);
        assert_eq!(count.so_far(), 1);
        drop((late, early));
        clock.advance(100 * SECOND);
        assert_eq!(count.so_far(), 1);
    }

    #[test]
    fn a_waker_that_panics_leaves_the_others_their_wake() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                std::panic::resume_unwind(Box::new("a runtime that went wrong"));
            }
        }
        let clock = ManualClock::new();
        let timer = Timer::on(clock.clone());
        let count = Arc::new(Count::default());
        let at = timer.now() + SECOND;
        timer.schedule(at, Waker::from(Arc::new(Panics))).unwrap();
        timer.schedule(at, Waker::from(Arc::clone(&count))).unwrap();
        clock.advance(SECOND);
        assert_eq!(count.so_far(), 1);
    }

    #[test]
    fn one_that_is_turned_by_hand_wakes_nobody_before() {
        let clock = ManualClock::new();
        let timer = Timer::turned_by_hand(clock.clone());
        let count = Arc::new(Count::default());
        let at = timer.now() + SECOND;
        timer.schedule(at, Waker::from(Arc::clone(&count))).unwrap();
        assert_eq!((timer.turn(), timer.next(), clock.sleepers()), (0, Some(at), 0));
        clock.advance(SECOND);
        assert_eq!(count.so_far(), 0);
        assert_eq!((timer.turn(), timer.next(), count.so_far()), (1, None, 1));
    }

    #[test]
    fn the_thread_ends_with_the_last_clone() {
        let clock = ManualClock::new();
        let timer = Timer::on(clock.clone());
        timer.schedule(timer.now() + SECOND, Waker::noop().clone()).unwrap();
        assert_eq!(clock.sleepers(), 1);
        drop(timer.clone());
        drop(timer);
        while clock.sleepers() > 0 {
            std::thread::yield_now();
        }
    }
}

//! From the queue to futures: waiting, being called, leaving.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Poll, Wake, Waker},
    time::Duration,
};

use keystrata_hierarchy::{RootContext, RootKeyError, Urgency};

use super::{
    BudgetStats,
    queue::{Entered, Queue, Refusal, Rules},
};
use crate::{
    breaker::Gate,
    signals::BudgetSignals,
    timer::{Appointment, NoThread, Timer},
};

/// A queue and the timer that moves it on, shared by all who wait.
pub(super) struct Core {
    signals: BudgetSignals,
    is_adaptive: bool,
    max_wait: Duration,
    timer: Timer,
    state: Mutex<State>,
    waker: Waker,
}

struct State {
    queue: Queue,
    /// When the timer dispatches next.
    appointment: Option<(Duration, Appointment)>,
}

/// Woken by the timer, it dispatches.
struct Dispatcher(Weak<Core>);

impl Wake for Dispatcher {
    fn wake(self: Arc<Self>) {
        if let Some(core) = self.0.upgrade() {
            let _ = core.act(|state, _| state.appointment = None);
        }
    }
}

impl Core {
    pub(super) fn new(name: &str, rules: Rules, timer: Timer) -> Arc<Self> {
        let (max_wait, now) = (rules.max_wait, timer.now());
        Arc::new_cyclic(|me| Self {
            signals: BudgetSignals::new(name),
            is_adaptive: rules.is_adaptive,
            max_wait,
            timer,
            state: Mutex::new(State { queue: Queue::new(rules, now), appointment: None }),
            waker: Waker::from(Arc::new(Dispatcher(Weak::clone(me)))),
        })
    }

    /// One step of the queue, and what follows from it.
    fn act<T>(&self, step: impl FnOnce(&mut State, Duration) -> T) -> Result<T, NoThread> {
        let now = self.timer.now();
        let mut state = self.state();
        let answer = step(&mut state, now);
        state.queue.dispatch(now);
        let next = state.queue.next_event();
        let is_settled = match (next, &state.appointment) {
            (None, _) => true,
            (Some(next), Some((at, _))) => *at <= next,
            (Some(_), None) => false,
        };
        let mut scheduled = Ok(());
        if let (false, Some(next)) = (is_settled, next) {
            if let Some((_, later)) = state.appointment.take() {
                self.timer.cancel(later);
            }
            match self.timer.schedule(next, self.waker.clone()) {
                Ok(appointment) => state.appointment = Some((next, appointment)),
                Err(error) => scheduled = Err(error),
            }
        }
        let woken = state.queue.take_woken();
        // Under the lock, so that the last one told is the last one true.
        self.signals.waiting(state.queue.waiting());
        drop(state);
        // Outside the lock: a waker is somebody else's code.
        for waker in woken {
            // One runtime's waker that panics must not leave those after it asleep for ever: they hold a token already.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
        scheduled.map(|()| answer)
    }

    /// Waits for a turn, and takes a token.
    pub(super) async fn admit(
        self: &Arc<Self>,
        context: &RootContext,
        gate: Option<&Gate>,
    ) -> Result<(), RootKeyError> {
        let demand = context.demand();
        if !demand.is_wanted() {
            return Err(RootKeyError::Withdrawn);
        }
        let (now, urgency) = (self.timer.now(), demand.urgency());
        let entered = self.state().queue.enter(now, account_of(context), urgency);
        let id = match entered {
            Ok(Entered::Admitted) => {
                self.signals.admitted(urgency, Duration::ZERO);
                return Ok(());
            }
            Ok(Entered::Waiting(id)) => id,
            Err(refusal) => return Err(self.refused(refusal)),
        };
        let place = Held { core: self, id: Some(id) };
        let opened = async {
            match gate {
                Some(gate) => gate.opened().await,
                None => std::future::pending().await,
            }
        };
        self.wait(place, urgency, demand.lifted(), demand.unwanted(), opened).await
    }

    async fn wait(
        self: &Arc<Self>,
        mut place: Held<'_>,
        urgency: Urgency,
        lifted: impl Future<Output = ()>,
        unwanted: impl Future<Output = ()>,
        opened: impl Future<Output = RootKeyError>,
    ) -> Result<(), RootKeyError> {
        let Some(id) = place.id else { return Ok(()) };
        let came = self.timer.now();
        let (mut lifted, mut unwanted, mut opened) = (pin!(lifted), pin!(unwanted), pin!(opened));
        let mut is_lifted = urgency == Urgency::Foreground;
        poll_fn(|cx| {
            if unwanted.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(RootKeyError::Withdrawn));
            }
            if let Poll::Ready(error) = opened.as_mut().poll(cx) {
                return Poll::Ready(Err(error));
            }
            let lifts = !is_lifted && lifted.as_mut().poll(cx).is_ready();
            is_lifted |= lifts;
            let polled = self.act(|State { queue, .. }, now| {
                if lifts {
                    queue.lift(id);
                }
                // A turn may be there already: it is taken in this poll or the next, and none is missed in between.
                queue.dispatch(now);
                queue.poll(now, id, cx.waker())
            });
            match polled {
                Ok(Poll::Ready(Ok(()))) => {
                    place.id = None;
                    let urgency = if is_lifted { Urgency::Foreground } else { Urgency::Background };
                    self.signals.admitted(urgency, self.timer.now().saturating_sub(came));
                    Poll::Ready(Ok(()))
                }
                Ok(Poll::Ready(Err(refusal))) => {
                    place.id = None;
                    Poll::Ready(Err(self.refused(refusal)))
                }
                Ok(Poll::Pending) => Poll::Pending,
                Err(error) => Poll::Ready(Err(RootKeyError::Overloaded {
                    message: error.to_string(),
                    retry_after: Duration::from_secs(1),
                })),
            }
        })
        .await
    }

    fn refused(&self, refusal: Refusal) -> RootKeyError {
        self.signals.refused(refusal.reason);
        refusal.into_error(self.max_wait)
    }

    pub(super) fn report(&self, was_throttled: bool) {
        if !self.is_adaptive {
            return;
        }
        let now = self.timer.now();
        let mut state = self.state();
        let was_cut = state.queue.report(now, was_throttled);
        let per_second = state.queue.per_second();
        drop(state);
        self.signals.rate(per_second);
        if was_cut {
            tracing::warn!(budget = self.signals.name(), per_second, "the KMS throttles: sending fewer calls");
        }
    }

    pub(super) fn stats(&self) -> BudgetStats {
        let state = self.state();
        let counts = state.queue.counts();
        BudgetStats {
            admitted: counts.admitted,
            refused: counts.refused,
            left: counts.left,
            waiting: state.queue.waiting(),
            per_second: state.queue.per_second(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some((_, appointment)) = self.state().appointment.take() {
            self.timer.cancel(appointment);
        }
    }
}

/// A place in the queue, given back on drop unless it was used up.
struct Held<'a> {
    core: &'a Core,
    id: Option<u64>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let _ = self.core.act(|state, _| state.queue.leave(id));
            self.core.signals.left();
        }
    }
}

/// Whose turn a call takes: the tenant's, whatever lies below it.
fn account_of(context: &RootContext) -> &str {
    let path = context.account().unwrap_or_default();
    path.split_once('/').map_or(path, |(tenant, _)| tenant)
}

#[cfg(test)]
mod tests {
    use std::{future::pending, num::NonZeroU32, task::Context};

    use keystrata_hierarchy::test_util::ManualClock;
    use tokio::sync::oneshot;

    use super::*;
    use crate::budget::Budget;

    const PERIOD: Duration = Duration::from_millis(100);

    /// Ten a second, one at once, and that one is gone.
    fn used_up() -> (ManualClock, Arc<Core>) {
        let clock = ManualClock::new();
        let budget = Budget::per_second(NonZeroU32::new(10).unwrap(), NonZeroU32::MIN).timer(Timer::on(clock.clone()));
        let core = Arc::clone(budget.core.get());
        assert_eq!(core.state().queue.enter(core.timer.now(), "a", Urgency::Foreground), Ok(Entered::Admitted));
        (clock, core)
    }

    /// One who waits, and the ends that lift and withdraw the call.
    fn waiter(
        core: &Arc<Core>,
        urgency: Urgency,
    ) -> (impl Future<Output = Result<(), RootKeyError>> + use<>, oneshot::Sender<()>, oneshot::Sender<()>) {
        let (lift, lifted) = oneshot::channel::<()>();
        let (withdraw, withdrawn) = oneshot::channel::<()>();
        let core = Arc::clone(core);
        let waiting = async move {
            let entered = core.state().queue.enter(core.timer.now(), "a", urgency);
            let Ok(Entered::Waiting(id)) = entered else { panic!("{entered:?}") };
            let place = Held { core: &core, id: Some(id) };
            let until = |told: oneshot::Receiver<()>| async move {
                if told.await.is_err() {
                    pending::<()>().await;
                }
            };
            core.wait(place, urgency, until(lifted), until(withdrawn), pending()).await
        };
        (waiting, lift, withdraw)
    }

    fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_background_call_that_is_lifted_goes_first() {
        let (clock, core) = used_up();
        let (first, _keep_first, _) = waiter(&core, Urgency::Background);
        let (second, lift, _keep) = waiter(&core, Urgency::Background);
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        lift.send(()).unwrap();
        assert!(poll(&mut second).is_pending());
        clock.advance(PERIOD);
        assert!(poll(&mut first).is_pending());
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(()))));
        clock.advance(PERIOD);
        assert!(matches!(poll(&mut first), Poll::Ready(Ok(()))));
    }

    #[test]
    fn a_withdrawn_call_gives_its_place_to_the_next() {
        let (clock, core) = used_up();
        let (first, _lift, withdraw) = waiter(&core, Urgency::Foreground);
        let (second, _lift, _keep) = waiter(&core, Urgency::Foreground);
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        withdraw.send(()).unwrap();
        assert!(matches!(poll(&mut first), Poll::Ready(Err(RootKeyError::Withdrawn))));
        assert_eq!(core.stats().waiting, 1);
        clock.advance(PERIOD);
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(()))));
        assert_eq!(core.stats().left, 1);
    }

    #[test]
    fn a_call_that_was_called_and_is_withdrawn_passes_its_turn_on() {
        let (clock, core) = used_up();
        let (first, _lift, withdraw) = waiter(&core, Urgency::Foreground);
        let (second, _lift, _keep) = waiter(&core, Urgency::Foreground);
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        clock.advance(PERIOD); // now the first is called
        withdraw.send(()).unwrap();
        assert!(matches!(poll(&mut first), Poll::Ready(Err(RootKeyError::Withdrawn))));
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(()))));
    }

    #[test]
    fn a_waker_that_panics_leaves_the_others_their_wake() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                std::panic::resume_unwind(Box::new("a runtime that went wrong"));
            }
        }
        #[derive(Default)]
        struct Woken(std::sync::atomic::AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let clock = ManualClock::new();
        let two = NonZeroU32::new(2).unwrap();
        let budget = Budget::per_second(NonZeroU32::new(10).unwrap(), two).timer(Timer::on(clock.clone()));
        let core = Arc::clone(budget.core.get());
        for _ in 0..2 {
            assert_eq!(core.state().queue.enter(core.timer.now(), "a", Urgency::Foreground), Ok(Entered::Admitted));
        }
        let (first, _lift, _keep) = waiter(&core, Urgency::Foreground);
        let (second, _lift, _keep) = waiter(&core, Urgency::Foreground);
        let (mut first, mut second, woken) = (Box::pin(first), Box::pin(second), Arc::new(Woken::default()));
        let (panics, wakes) = (Waker::from(Arc::new(Panics)), Waker::from(Arc::clone(&woken)));
        assert!(first.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
        assert!(second.as_mut().poll(&mut Context::from_waker(&wakes)).is_pending());
        clock.advance(2 * PERIOD); // both at once
        assert!(woken.0.load(std::sync::atomic::Ordering::SeqCst));
    }

    #[test]
    fn one_tenant_is_one_account_however_many_services_it_has() {
        use keystrata_hierarchy::{KekId, KekVersion, KeyPath, Suite};
        use keystrata_primitives::KekIdentity;
        let account = |segments: &[&str]| {
            let identity = KekIdentity {
                suite: Suite::default(),
                version: KekVersion::FIRST,
                id: KekId::from_bytes([1; KekId::LEN]),
                path: KeyPath::new(segments).unwrap(),
            };
            account_of(&RootContext::of_kek(&identity)).to_owned()
        };
        assert_eq!(account(&["acme", "billing"]), "acme");
        assert_eq!(account(&["acme"]), "acme");
        assert_ne!(account(&["acme/billing"]), "acme");
        assert_eq!(account_of(&RootContext::none()), "");
    }
}

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
    queue::{Entered, Queue},
    rules::{Refusal, Rules},
    waiting::Waiting,
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
    waiting: Waiting,
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
            waiting: Waiting::default(),
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
        self.waiting.set(state.queue.waiting());
        drop(state);
        // Outside the lock: wakers and recorders are somebody else's code.
        for waker in woken {
            // One runtime's waker that panics must not leave those after it asleep for ever: they hold a token already.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
        self.waiting.tell(|waiting| self.signals.waiting(waiting));
        scheduled.map(|()| answer)
    }

    /// Takes a token for one more attempt, if one is there and nobody waits for it.
    pub(super) fn admit_further(&self, urgency: Urgency) -> bool {
        let is_admitted = self.act(|state, now| state.queue.take_further(now)).unwrap_or(false);
        if is_admitted {
            self.signals.admitted(urgency, Duration::ZERO);
        }
        is_admitted
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
        // A step of the queue: where the rate rose, whoever is next is called earlier.
        let step = |state: &mut State, now| (state.queue.report(now, was_throttled), state.queue.per_second());
        let Ok((was_cut, per_second)) = self.act(step) else { return };
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
mod tests;

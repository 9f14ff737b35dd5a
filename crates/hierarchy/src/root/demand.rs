//! How much a call to a root key is wanted while it waits for its turn.

use std::{fmt, sync::Arc};

use crate::watched::Watched;

/// Who a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Nobody waits: a KEK is renewed ahead of its deadline, or a bulk job goes on.
    Background,
    /// Somebody waits for the answer.
    Foreground,
}

/// How much one call to a root key is wanted, as it changes while the call waits.
///
/// Whatever makes calls wait, such as a budget, looks at it: a caller who comes to need a KEK that is being renewed in the
/// background [lifts](Self::lifted) that call, and a call that nobody waits for any more is [unwanted](Self::unwanted)
/// and may end as [`RootKeyError::Withdrawn`](crate::RootKeyError::Withdrawn), as long as it was not sent. Adapters that
/// send at once need not look.
#[derive(Clone)]
pub struct Demand {
    state: Arc<Watched<State>>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    urgency: Urgency,
    waiters: usize,
    /// Wanted whether or not anybody waits.
    is_kept: bool,
}

impl State {
    fn is_wanted(self) -> bool {
        self.is_kept || self.waiters > 0
    }
}

impl Demand {
    /// Wanted now, and for as long as the call takes.
    pub fn foreground() -> Self {
        Self::new(Urgency::Foreground, true)
    }

    /// Wanted, and nobody waits.
    pub fn background() -> Self {
        Self::new(Urgency::Background, true)
    }

    /// Wanted as long as there is a [`Waiter`].
    pub(crate) fn of_waiters() -> Self {
        Self::new(Urgency::Foreground, false)
    }

    fn new(urgency: Urgency, is_kept: bool) -> Self {
        Self { state: Arc::new(Watched::new(State { urgency, waiters: 0, is_kept })) }
    }

    /// Who the call is for, at this moment.
    pub fn urgency(&self) -> Urgency {
        self.state.look(|state| state.urgency)
    }

    /// Whether anybody waits for the call, or something else needs it.
    pub fn is_wanted(&self) -> bool {
        self.state.look(|state| state.is_wanted())
    }

    /// Returns once the call is for somebody who waits; at once if it is already.
    ///
    /// # Cancellation
    /// Dropping the future changes nothing.
    pub async fn lifted(&self) {
        self.state.until(|state| (state.urgency == Urgency::Foreground).then_some(())).await;
    }

    /// Returns once nobody needs the call; it may be needed again right after.
    ///
    /// # Cancellation
    /// Dropping the future changes nothing.
    pub async fn unwanted(&self) {
        self.state.until(|state| (!state.is_wanted()).then_some(())).await;
    }

    /// One more caller waits, until the answer is dropped. A call for somebody who waits stays one.
    pub(crate) fn wait(&self) -> Waiter {
        self.state.change(|state| {
            let lifts = state.urgency == Urgency::Background;
            state.urgency = Urgency::Foreground;
            state.waiters += 1;
            lifts
        });
        Waiter(self.clone())
    }
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A copy: what it is written to is somebody else's code, which may ask this demand something.
        f.debug_tuple("Demand").field(&self.state.look(|state| *state)).finish()
    }
}

/// Somebody who waits for a call.
#[derive(Debug)]
pub(crate) struct Waiter(Demand);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.state.change(|state| {
            state.waiters -= 1;
            !state.is_wanted()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_who_joins_lifts_a_background_call_for_good() {
        let demand = Demand::background();
        assert_eq!((demand.urgency(), demand.is_wanted()), (Urgency::Background, true));
        let (lifted, waiter) = tokio::join!(demand.lifted(), async { demand.wait() });
        let () = lifted;
        assert_eq!(demand.urgency(), Urgency::Foreground);
        drop(waiter);
        assert_eq!((demand.urgency(), demand.is_wanted()), (Urgency::Foreground, true));
    }

    #[tokio::test]
    async fn a_call_is_unwanted_when_its_last_waiter_has_gone() {
        let demand = Demand::of_waiters();
        let (first, second) = (demand.wait(), demand.wait());
        drop(first);
        assert!(demand.is_wanted());
        let ((), ()) = tokio::join!(demand.unwanted(), async { drop(second) });
        assert!(!demand.is_wanted());
        let _third = demand.wait();
        assert!(demand.is_wanted());
    }
}

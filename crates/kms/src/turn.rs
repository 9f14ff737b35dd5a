//! One does it for all, and nobody waits for ever for one who never comes back.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use keystrata_hierarchy::RootKeyError;
use tokio::{sync::Notify, time::Instant};

/// Whose turn it is to do something for all, such as getting a token. A turn ends when its [`Claim`] is dropped, and at
/// the latest after a limit: who holds it may be on a runtime that nobody drives any more, and then never drops it.
///
/// Whoever had a turn that ran out may still end what it began. So what is done in a turn must bear being done twice.
#[derive(Debug)]
pub(crate) struct Turn {
    limit: Duration,
    state: Mutex<State>,
    /// Told when a turn ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last turn.
    number: u64,
    /// When it runs out; `None` if it has ended.
    until: Option<Instant>,
    /// When a turn last failed, and why.
    failure: Option<(Instant, RootKeyError)>,
}

/// A turn that was taken.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    turn: &'a Turn,
    number: u64,
}

impl Turn {
    /// `limit`: longer than what is done in a turn ever takes.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, state: Mutex::default(), ended: Notify::new() }
    }

    /// Takes the turn, unless it is somebody's.
    #[cfg(any(test, feature = "vault", feature = "gcp"))]
    pub(crate) fn try_take(&self) -> Option<Claim<'_>> {
        self.take_or_ends_at().ok()
    }

    /// Waits for the turn. In no particular order: usually the first one does for all what had to be done.
    ///
    /// # Cancellation
    /// Dropping the future takes nothing from anybody.
    pub(crate) async fn take(&self) -> Claim<'_> {
        loop {
            // From before the look on, so that no end is missed.
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            match self.take_or_ends_at() {
                Ok(claim) => return claim,
                Err(until) => drop(tokio::time::timeout_at(until, ended).await),
            }
        }
    }

    fn take_or_ends_at(&self) -> Result<Claim<'_>, Instant> {
        let now = Instant::now();
        let mut state = self.state();
        match state.until {
            Some(until) if now < until => Err(until),
            _ => {
                state.number += 1;
                state.until = Some(now + self.limit);
                Ok(Claim { turn: self, number: state.number })
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// How somebody else's turn failed after `began`: an answer for all who waited meanwhile.
    pub(crate) fn failure_since(&self, began: Instant) -> Option<RootKeyError> {
        self.turn.state().failure.as_ref().filter(|(at, _)| *at >= began).map(|(_, error)| error.clone())
    }

    /// Remembers a failure.
    pub(crate) fn noted<T>(&self, outcome: Result<T, RootKeyError>) -> Result<T, RootKeyError> {
        if let Err(error) = &outcome {
            self.turn.state().failure = Some((Instant::now(), error.clone()));
        }
        outcome
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.turn.state();
        if state.number == self.number {
            state.until = None;
        }
        drop(state);
        // All of them: one who is told alone may be where nobody listens.
        self.turn.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Poll};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_when_its_claim_is_dropped() {
        let turn = Arc::new(Turn::new(LIMIT));
        let claim = turn.try_take().unwrap();
        assert!(turn.try_take().is_none());
        let began = Instant::now();
        let waiting = Arc::clone(&turn);
        let waiting = tokio::spawn(async move { drop(waiting.take().await) });
        tokio::task::yield_now().await;
        drop(claim);
        waiting.await.unwrap();
        assert_eq!(Instant::now(), began, "nobody waited for the limit");
        assert!(turn.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_nobody_gives_back_runs_out_and_its_late_end_takes_nothing_away() {
        let turn = Turn::new(LIMIT);
        let lost = turn.take().await;
        let began = Instant::now();
        let next = turn.take().await;
        assert_eq!(began.elapsed(), LIMIT);
        drop(lost);
        assert!(turn.try_take().is_none(), "it is another's by now");
        drop(next);
        assert!(turn.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_the_answer_for_those_who_waited_and_for_nobody_later() {
        let turn = Turn::new(LIMIT);
        let began = Instant::now();
        let failed = turn.take().await.noted(Err::<(), _>(RootKeyError::unavailable("no")));
        assert!(failed.is_err() && turn.take().await.failure_since(began).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(turn.take().await.failure_since(Instant::now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_waits_where_nobody_listens_takes_no_end_from_the_others() {
        let turn = Turn::new(LIMIT);
        let claim = turn.try_take().unwrap();
        let mut deaf = Box::pin(turn.take());
        let mut listens = Box::pin(turn.take());
        for waiting in [&mut deaf, &mut listens] {
            assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
        }
        let began = Instant::now();
        drop(claim);
        drop(listens.await);
        assert_eq!(Instant::now(), began);
    }
}

//! Counting what reaches a KMS.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};

use crate::{price::estimated_cost, sent::watched, signals::RootSignals, timer::Timer};

/// A root key that counts its attempts by operation and outcome, and times them.
///
/// Right around the adapter, or its deadline, it counts what the provider bills. Adapters tell of an attempt that ended
/// before a request was [sent](crate::not_sent), and such a one is [no call](CallStats::kms_calls).
#[derive(Debug)]
pub struct Counted<R> {
    root: R,
    signals: Arc<RootSignals>,
    timer: Timer,
    counts: [[AtomicU64; Outcome::ALL.len()]; Operation::ALL.len()],
    unsent: AtomicU64,
    further: Arc<Further>,
}

/// Requests that calls under way have sent beyond their first.
#[derive(Debug)]
struct Further {
    count: AtomicU64,
    signals: Arc<RootSignals>,
}

tokio::task_local! {
    /// Where the further requests of the call under way are counted.
    static FURTHER: Arc<Further>;
}

/// Counts one more request of the call under way.
pub(crate) fn further_request() {
    // With nothing that counts around the adapter there is nothing to count in.
    let _ = FURTHER.try_with(|further| {
        further.count.fetch_add(1, Ordering::Relaxed);
        further.signals.further_request();
    });
}

/// What a root key was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// `wrap_key`.
    Wrap,
    /// `unwrap_key`.
    Unwrap,
    /// `generate_key`.
    Generate,
    /// `rewrap_key`.
    Rewrap,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was done.
    Done,
    /// [`RootKeyError::Throttled`].
    Throttled,
    /// [`RootKeyError::Denied`].
    Denied,
    /// [`RootKeyError::Unavailable`].
    Unavailable,
    /// [`RootKeyError::Rejected`].
    Rejected,
    /// The caller was dropped; the KMS may have done it.
    Dropped,
    /// It never reached the KMS: refused inside of this process, or a rewrap that the root key cannot do.
    NotSent,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Wrap, Self::Unwrap, Self::Generate, Self::Rewrap];

    /// The word in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
            Self::Generate => "generate",
            Self::Rewrap => "rewrap",
        }
    }
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Done, Self::Throttled, Self::Denied, Self::Unavailable, Self::Rejected, Self::Dropped, Self::NotSent];

    /// The word in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
            Self::NotSent => "not_sent",
        }
    }

    pub(crate) fn of(error: &RootKeyError) -> Self {
        match error {
            RootKeyError::Throttled { .. } => Self::Throttled,
            RootKeyError::Denied { .. } => Self::Denied,
            RootKeyError::Rejected => Self::Rejected,
            RootKeyError::Overloaded { .. } | RootKeyError::Withdrawn => Self::NotSent,
            _ => Self::Unavailable,
        }
    }
}

/// Attempts so far, by operation and outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    counts: [[u64; Outcome::ALL.len()]; Operation::ALL.len()],
    unsent: u64,
    further: u64,
}

impl CallStats {
    /// How many attempts of this kind ended so.
    pub fn of(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.counts[operation as usize][outcome as usize]
    }

    /// How many requests attempts sent beyond their first, as after a token was replaced.
    pub fn further_requests(&self) -> u64 {
        self.further
    }

    /// How many attempts, beside those of [`Outcome::NotSent`], ended before a request was sent: there was no login or no
    /// connection, or the adapter refused what no KMS can have wrapped.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }

    /// How many requests went to the KMS, whatever became of them.
    pub fn kms_calls(&self) -> u64 {
        let ended = Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::NotSent);
        let of = |outcome| Operation::ALL.into_iter().map(|operation| self.of(operation, outcome)).sum::<u64>();
        // The counters are read one after another: one of them may be ahead.
        (self.further + ended.map(of).sum::<u64>()).saturating_sub(self.unsent)
    }

    /// What those cost, in the currency of `price_per_10_000_calls`. An estimate: some providers bill no throttled calls, and
    /// the price of the key itself is not in it. [`ListPrice`](crate::ListPrice) has what providers charge by their lists.
    pub fn estimated_cost(&self, price_per_10_000_calls: f64) -> f64 {
        estimated_cost(self.kms_calls(), price_per_10_000_calls)
    }
}

impl<R: RootKey> Counted<R> {
    /// Counts the calls of `root`. `label` names it in metrics: short, and one of a few.
    pub fn new(root: R, label: &str) -> Self {
        Self::with_timer(root, label, Timer::system())
    }

    /// The same by another clock than the system's, for tests.
    pub fn with_timer(root: R, label: &str, timer: Timer) -> Self {
        Self::telling(root, RootSignals::new(label), timer)
    }

    pub(crate) fn telling(root: R, signals: Arc<RootSignals>, timer: Timer) -> Self {
        let further = Arc::new(Further { count: AtomicU64::new(0), signals: Arc::clone(&signals) });
        Self { root, signals, timer, counts: Default::default(), unsent: AtomicU64::new(0), further }
    }

    /// What was counted so far. Attempts under way are not in it.
    pub fn stats(&self) -> CallStats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CallStats {
            counts: self.counts.each_ref().map(|outcomes| outcomes.each_ref().map(load)),
            unsent: load(&self.unsent),
            further: load(&self.further.count),
        }
    }

    async fn count<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, RootKeyError>>,
        is_done: impl FnOnce(&T) -> bool,
    ) -> Result<T, RootKeyError> {
        let mut attempt = Attempt {
            counts: &self.counts[operation as usize],
            signals: &self.signals,
            timer: &self.timer,
            operation,
            outcome: Outcome::Dropped,
            began: self.timer.now(),
        };
        let (answer, was_sent) = watched(FURTHER.scope(Arc::clone(&self.further), call)).await;
        attempt.outcome = match &answer {
            Ok(done) if is_done(done) => Outcome::Done,
            Ok(_) => Outcome::NotSent,
            Err(error) => Outcome::of(error),
        };
        if !was_sent && attempt.outcome != Outcome::NotSent {
            self.unsent.fetch_add(1, Ordering::Relaxed);
            self.signals.unsent();
        }
        answer
    }
}

/// One attempt, counted when it ends in whatever way.
struct Attempt<'a> {
    counts: &'a [AtomicU64; Outcome::ALL.len()],
    signals: &'a RootSignals,
    timer: &'a Timer,
    operation: Operation,
    outcome: Outcome,
    began: Duration,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.counts[self.outcome as usize].fetch_add(1, Ordering::Relaxed);
        let took = self.timer.now().saturating_sub(self.began);
        self.signals.attempt(self.operation, self.outcome, took);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a default not forwarded would not be counted
impl<R: RootKey> RootKey for Counted<R> {
    fn id(&self) -> &RootKeyId {
        self.root.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.count(Operation::Wrap, self.root.wrap_key(secret, context), |_| true).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.count(Operation::Unwrap, self.root.unwrap_key(wrapped, context), |_| true).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.count(Operation::Generate, self.root.generate_key(context), |_| true).await
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        self.count(Operation::Rewrap, self.root.rewrap_key(from, wrapped, context), Option::is_some).await
    }
}

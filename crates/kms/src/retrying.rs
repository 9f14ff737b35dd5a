//! Trying again after a failure that may pass.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};
use keystrata_memory::ProcessLocal;
use rand::{
    RngExt, SeedableRng, TryRng,
    rngs::{SmallRng, SysRng},
};

use crate::{breaker::BreakerOpen, signals::RootSignals, timer::Timer};

/// A root key that tries again when it was throttled or got no answer.
///
/// Before each retry it waits for a random time between nothing and a bound that doubles (*full jitter*), so that callers
/// who failed together do not come back together. Other outcomes end the call at once: *denied* and *rejected* stay so,
/// *overloaded* has waited already, and an open [breaker](crate::Breaker) says itself when to come back. A call that nobody
/// wants any more is not tried again.
///
/// Put it outside of [`Budgeted`](crate::Budgeted), so that each retry takes a token.
///
/// # Errors
/// Those of the last attempt.
#[derive(Debug)]
pub struct Retrying<R> {
    root: R,
    signals: Arc<RootSignals>,
    policy: RetryPolicy,
    timer: Timer,
    jitter: ProcessLocal<Jitter>,
    retries: AtomicU64,
}

/// How often and how fast a [`Retrying`] tries again.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. Default: 3; 0 is taken for 1. A KMS that fails half of all attempts then fails
    /// an eighth of the calls, and an outage costs three times the attempts until the breaker opens.
    pub max_attempts: u32,
    /// The bound of the wait before the first retry. Default: 100 ms, some round trips.
    pub first_bound: Duration,
    /// The bound of any wait. Default: 2 s.
    pub longest_bound: Duration,
    /// No retry begins later than this after the call began. Default: 10 s. With the wait for a budget and the deadline of
    /// an attempt, a call then ends within the 30 s in which the engine lets callers join it.
    pub max_total: Duration,
    /// Where the random waits begin, for tests that must run the same each time. Default: none, each process is different.
    pub seed: Option<u64>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            first_bound: Duration::from_millis(100),
            longest_bound: Duration::from_secs(2),
            max_total: Duration::from_secs(10),
            seed: None,
        }
    }
}

impl RetryPolicy {
    fn bound(&self, retry: u32) -> Duration {
        self.first_bound.saturating_mul(2_u32.saturating_pow(retry)).min(self.longest_bound)
    }
}

/// A random number for each retry. A forked child has others than its parent.
#[derive(Debug)]
struct Jitter {
    seed: u64,
    drawn: AtomicU64,
}

impl Jitter {
    fn new(seed: Option<u64>) -> Self {
        // Without the system's randomness the process id at least tells processes apart.
        let seed = seed.unwrap_or_else(|| SysRng.try_next_u64().unwrap_or_else(|_| std::process::id().into()));
        Self { seed, drawn: AtomicU64::new(0) }
    }

    /// A time from zero up to `bound`.
    fn up_to(&self, bound: Duration) -> Duration {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let mut random = SmallRng::seed_from_u64(self.seed.wrapping_add(number));
        random.random_range(Duration::ZERO..=bound)
    }
}

impl<R: RootKey> Retrying<R> {
    /// Tries again for `root`. `label` names the root key in metrics and logs: short, and one of a few.
    pub fn new(root: R, label: &str, policy: RetryPolicy) -> Self {
        Self::with_timer(root, label, policy, Timer::system())
    }

    /// The same by another clock than the system's, for tests.
    pub fn with_timer(root: R, label: &str, policy: RetryPolicy, timer: Timer) -> Self {
        Self::telling(root, RootSignals::new(label), policy, timer)
    }

    pub(crate) fn telling(root: R, signals: Arc<RootSignals>, policy: RetryPolicy, timer: Timer) -> Self {
        let seed = policy.seed;
        let jitter = ProcessLocal::new(move || Jitter::new(seed));
        Self { root, signals, policy, timer, jitter, retries: AtomicU64::new(0) }
    }

    /// How many retries were begun.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(crate) fn root(&self) -> &R {
        &self.root
    }

    async fn call<T, F>(&self, context: &RootContext, mut attempt: impl FnMut() -> F) -> Result<T, RootKeyError>
    where
        F: Future<Output = Result<T, RootKeyError>>,
    {
        let began = self.timer.now();
        let mut retry = 0;
        loop {
            let error = match attempt().await {
                Err(error) if is_worth_a_retry(&error) => error,
                answer => return answer,
            };
            if retry + 1 >= self.policy.max_attempts {
                return Err(error);
            }
            let wait = self.jitter.get().up_to(self.policy.bound(retry));
            let until = self.timer.now().saturating_add(wait);
            if until > began.saturating_add(self.policy.max_total) {
                return Err(error);
            }
            if self.timer.sleep_until(until).await.is_err() || !context.demand().is_wanted() {
                return Err(error); // a retry without a wait would be part of a storm
            }
            retry += 1;
            self.retries.fetch_add(1, Ordering::Relaxed);
            self.signals.retried(&error);
            tracing::debug!(root = self.signals.label(), retry, %error, "trying again");
        }
    }
}

fn is_worth_a_retry(error: &RootKeyError) -> bool {
    match error {
        RootKeyError::Throttled { .. } => true,
        RootKeyError::Unavailable { .. } => BreakerOpen::of(error).is_none(),
        _ => false,
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a default not forwarded would not be tried again
impl<R: RootKey> RootKey for Retrying<R> {
    fn id(&self) -> &RootKeyId {
        self.root.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.call(context, || self.root.wrap_key(secret, context)).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.call(context, || self.root.unwrap_key(wrapped, context)).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.call(context, || self.root.generate_key(context)).await
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        self.call(context, || self.root.rewrap_key(from, wrapped, context)).await
    }
}

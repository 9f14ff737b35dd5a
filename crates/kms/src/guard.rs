//! All of it around one root key, in the order that works.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};

use crate::{
    breaker::{Breaker, BreakerPolicy, BreakerState, Gate},
    budget::{Budget, BudgetStats, Budgeted},
    counted::{CallStats, Counted},
    price::ListPrice,
    retrying::{RetryPolicy, Retrying},
    signals::RootSignals,
    timed::Timed,
    timer::Timer,
};

/// Puts a budget, retries, a breaker, a deadline and counters around a root key.
///
/// ```
/// use std::{num::NonZeroU32, sync::Arc};
/// use keystrata_kms::{Budget, Guard, LocalRootKey};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("root.key");
/// # LocalRootKey::create(&path)?;
/// let number = |n| NonZeroU32::new(n).expect("not zero");
/// let budget = Arc::new(Budget::per_second(number(100), number(50)).named("aws-eu-central-1"));
/// let root = Guard::new("main", budget).around(LocalRootKey::open(path)?);
/// assert_eq!(root.kms_calls(), 0);
/// # Ok(())
/// # }
/// ```
///
/// # The order
/// From the caller to the KMS:
///
/// 1. [`Retrying`] outside of all, so that a retry is an attempt like any other: it asks the breaker, takes a token and has
///    a deadline of its own.
/// 2. [`Breaker`] before the budget: a root key that does not answer takes up no place in the queue and no token, so others
///    that share the quota do not notice. When it opens, those who wait for a token of its root leave.
/// 3. [`Budgeted`]: waits for a token.
/// 4. [`Counted`] behind the budget: counts what is sent, not what is wished for, and the time the KMS takes, not the queue.
/// 5. [`Timed`]: its clock starts when the attempt does. Outside of the budget it would run while the call waits.
#[derive(Clone, Debug)]
pub struct Guard {
    label: Arc<str>,
    budget: Arc<Budget>,
    attempt_limit: Duration,
    retry: RetryPolicy,
    breaker: BreakerPolicy,
    timer: Timer,
}

impl Guard {
    /// [`attempt_limit`](Self::attempt_limit) unless it is set.
    pub const DEFAULT_ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

    /// Begins with a name for metrics and logs, short and one of a few, and the budget of the root key's quota.
    pub fn new(label: &str, budget: Arc<Budget>) -> Self {
        Self {
            label: Arc::from(label),
            budget,
            attempt_limit: Self::DEFAULT_ATTEMPT_LIMIT,
            retry: RetryPolicy::default(),
            breaker: BreakerPolicy::default(),
            timer: Timer::system(),
        }
    }

    /// How long an attempt may take. Default: [5 s](Self::DEFAULT_ATTEMPT_LIMIT): a KMS answers in some 10 to 100 ms, and one
    /// that needs longer than this is as good as none.
    pub fn attempt_limit(mut self, limit: Duration) -> Self {
        self.attempt_limit = limit;
        self
    }

    /// How retries are made. Default: [`RetryPolicy::default`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// When the breaker opens. Default: [`BreakerPolicy::default`].
    pub fn breaker(mut self, policy: BreakerPolicy) -> Self {
        self.breaker = policy;
        self
    }

    /// What deadlines, retries and the breaker go by; the budget has its own. Default: [`Timer::system`].
    pub fn timer(mut self, timer: Timer) -> Self {
        self.timer = timer;
        self
    }

    /// Puts it all around `root`.
    pub fn around<R: RootKey>(self, root: R) -> Guarded<R> {
        let Self { label, budget, attempt_limit, retry, breaker, timer } = self;
        let signals = RootSignals::new(&label);
        let gate = Gate::new(Arc::clone(&signals), breaker, timer.clone());
        let timed = Timed::with_timer(root, attempt_limit, timer.clone());
        let counted = Arc::new(Counted::telling(timed, Arc::clone(&signals), timer.clone()));
        let budgeted = Budgeted::new(Arc::clone(&counted), Arc::clone(&budget)).behind(gate.clone());
        let breaker = Breaker::at_gate(budgeted, gate);
        Guarded { stack: Retrying::telling(breaker, signals, retry, timer), counted, budget }
    }
}

/// What is behind the budget. Shared, because its counters are read past the stack.
type Innermost<R> = Arc<Counted<Timed<R>>>;

/// A root key with a [`Guard`] around it.
#[derive(Debug)]
pub struct Guarded<R> {
    stack: Retrying<Breaker<Budgeted<Innermost<R>>>>,
    counted: Innermost<R>,
    budget: Arc<Budget>,
}

/// What a [`Guarded`] root key has counted, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct GuardStats {
    /// Attempts by operation and outcome.
    pub calls: CallStats,
    /// Retries among them.
    pub retries: u64,
    /// How the breaker stands.
    pub breaker: BreakerState,
    /// The budget, which other root keys may share.
    pub budget: BudgetStats,
    /// What the calls cost in US dollars by the provider's [list](ListPrice); `None` where calls cost nothing.
    pub estimated_usd: Option<f64>,
}

impl<R: RootKey> Guarded<R> {
    /// How many requests went to the KMS: attempts that ended, and [further requests](crate::further_request) of theirs.
    pub fn kms_calls(&self) -> u64 {
        self.counted.stats().kms_calls()
    }

    /// What they cost in US dollars by the provider's [list](ListPrice), the key itself not included; `None` where calls cost
    /// nothing. [`CallStats::estimated_cost`] takes a price of yours.
    pub fn estimated_usd(&self) -> Option<f64> {
        ListPrice::of(self.id()).map(|price| price.of_calls(self.kms_calls()))
    }

    /// Everything that was counted, at this moment.
    pub fn stats(&self) -> GuardStats {
        GuardStats {
            calls: self.counted.stats(),
            retries: self.stack.retries(),
            breaker: self.stack.root().state(),
            budget: self.budget.stats(),
            estimated_usd: self.estimated_usd(),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a default not forwarded would slip past the guard
impl<R: RootKey> RootKey for Guarded<R> {
    fn id(&self) -> &RootKeyId {
        self.stack.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.stack.wrap_key(secret, context).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.stack.unwrap_key(wrapped, context).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.stack.generate_key(context).await
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        self.stack.rewrap_key(from, wrapped, context).await
    }
}

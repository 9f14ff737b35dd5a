//! A breaker: a root key that does not answer is left alone for a while.

mod gate;

use std::time::Duration;

use async_trait::async_trait;
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};

pub(crate) use self::gate::Gate;
use self::gate::Verdict;
use crate::{budget::SendAgain, sent::watched, signals::RootSignals, timer::Timer};

/// A root key that is asked no more for a while once it did not answer several times in a row.
///
/// - **Closed**: calls pass. [`failures`](BreakerPolicy::failures) calls in a row that end as
///   [`RootKeyError::Unavailable`] open it.
/// - **Open**: calls are refused at once as unavailable, with [`BreakerOpen`] as the source. This lasts for
///   [`pause`](BreakerPolicy::pause), and twice as long after each probe that failed, up to
///   [`longest_pause`](BreakerPolicy::longest_pause).
/// - **Half open**: one call passes, the probe. Any answer to it closes the breaker.
///
/// *Denied*, *rejected* and *throttled* are answers: the KMS is there. *Overloaded* and *withdrawn* never reached it and
/// count neither way; nor do a rewrap that the root key declines, and what an adapter [did not send](crate::not_sent), be it a
/// wrapped key that no KMS can have made or a call whose login is throttled. Such a one is no probe: the next call is.
///
/// One breaker stands before one root key, so that a KMS that is down stops its own accounts only.
///
/// # Cancellation
/// A dropped call counts neither way; if it was the probe, the next call is.
#[derive(Debug)]
pub struct Breaker<R> {
    root: R,
    gate: Gate,
}

/// When a [`Breaker`] opens, and for how long.
#[derive(Clone, Debug)]
pub struct BreakerPolicy {
    /// Calls in a row without an answer that open it. Default: 5, at least 1. With fewer, one lost connection stops an
    /// account's traffic; with more, more callers wait for a deadline each.
    pub failures: u32,
    /// How long it is open at first. Default: 1 s: shorter than the patience of most callers.
    pub pause: Duration,
    /// How long it is open at most. Default: 30 s: so long a KMS that is back may go unnoticed.
    pub longest_pause: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_secs(1), longest_pause: Duration::from_secs(30) }
    }
}

/// The source of the [`RootKeyError::Unavailable`] that an open [`Breaker`] refuses calls with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the breaker is open")]
pub struct BreakerOpen {
    /// When the root key is asked again.
    pub retry_after: Duration,
}

impl BreakerOpen {
    /// The breaker's refusal in `error`, if that is what it is.
    pub fn of(error: &RootKeyError) -> Option<Self> {
        match error {
            RootKeyError::Unavailable { source: Some(source), .. } => source.downcast_ref().copied(),
            _ => None,
        }
    }
}

/// How a [`Breaker`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// One call passes, to see.
    HalfOpen,
    /// Calls are refused.
    Open,
}

impl<R: RootKey> Breaker<R> {
    /// Puts a breaker before `root`. `label` names the root key in metrics and logs: short, and one of a few.
    pub fn new(root: R, label: &str, policy: BreakerPolicy) -> Self {
        Self::with_timer(root, label, policy, Timer::system())
    }

    /// The same by another clock than the system's, for tests.
    pub fn with_timer(root: R, label: &str, policy: BreakerPolicy, timer: Timer) -> Self {
        Self::at_gate(root, Gate::new(RootSignals::new(label), policy, timer))
    }

    pub(crate) fn at_gate(root: R, gate: Gate) -> Self {
        Self { root, gate }
    }

    /// How it stands now.
    pub fn state(&self) -> BreakerState {
        self.gate.state()
    }

    async fn guard<T>(
        &self,
        call: impl Future<Output = Result<T, RootKeyError>>,
        is_done: impl FnOnce(&T) -> bool,
    ) -> Result<T, RootKeyError> {
        let pass = self.gate.pass()?;
        let (answer, was_sent) = watched(call).await;
        match &answer {
            Err(error) if SendAgain::is(error) => pass.end(Verdict::Answered), // or there were nothing to send again
            Err(RootKeyError::Unavailable { .. }) if answer.as_ref().err().and_then(BreakerOpen::of).is_none() => {
                pass.end(Verdict::NoAnswer);
            }
            Err(RootKeyError::Unavailable { .. } | RootKeyError::Overloaded { .. } | RootKeyError::Withdrawn) => {}
            Ok(declined) if !is_done(declined) => {}
            _ if !was_sent => {}
            _ => pass.end(Verdict::Answered),
        }
        answer
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a default not forwarded would slip past the breaker
impl<R: RootKey> RootKey for Breaker<R> {
    fn id(&self) -> &RootKeyId {
        self.root.id()
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        self.guard(self.root.wrap_key(secret, context), |_| true).await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.guard(self.root.unwrap_key(wrapped, context), |_| true).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        self.guard(self.root.generate_key(context), |_| true).await
    }

    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        self.guard(self.root.rewrap_key(from, wrapped, context), Option::is_some).await
    }
}

//! A KMS that takes its time, has a quota, and fails when the scenario says so.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use keystrata_hierarchy::{RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};
use rand::{SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, LogNormal};

use crate::{
    draft::OutageKind,
    scenario::Outside,
    span::{SECOND, Span},
    world::{SimClock, Sleeps},
};

/// How many standard deviations from the middle 99 of 100 are.
const P99_SIGMAS: f64 = 2.326_347_9;
/// No answer takes longer, however long the tail.
const LONGEST: f64 = 60e9;
/// A KMS that does not answer: longer than any attempt is given.
const SILENCE: u64 = 3_600 * SECOND;
/// A refusal needs no cryptography.
const REFUSAL: u64 = SECOND / 1_000;

/// How long answers take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    median: f64,
    distribution: Option<LogNormal<f64>>,
}

impl Latency {
    pub(crate) fn new(median: Span, p99: Span) -> Self {
        let (median, p99) = (median.as_seconds() * 1e9, p99.as_seconds() * 1e9);
        let spread = if median > 0.0 { (p99 / median).ln() / P99_SIGMAS } else { 0.0 };
        let distribution = (spread > 0.0).then(|| LogNormal::new(median.ln(), spread).ok()).flatten();
        Self { median, distribution }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from zero to a minute of nanoseconds")]
    pub(crate) fn sample(&self, random: &mut SmallRng) -> u64 {
        let nanos = self.distribution.map_or(self.median, |distribution| distribution.sample(random));
        nanos.min(LONGEST) as u64
    }
}

/// What a KMS lets through: a bucket of one second's quota, filled at its rate.
#[derive(Debug)]
pub(crate) struct Quota {
    per_nano: f64,
    most: f64,
    tokens: f64,
    at: u64,
}

impl Quota {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn new(per_second: f64) -> Self {
        Self { per_nano: per_second / SECOND as f64, most: per_second, tokens: per_second, at: 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds between two calls")]
    pub(crate) fn take(&mut self, now: u64) -> bool {
        self.tokens = (self.tokens + (now - self.at) as f64 * self.per_nano).min(self.most);
        self.at = now;
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }
}

/// What the KMS was asked by some processes, and what it answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) total: u64,
    pub(crate) throttled: u64,
    pub(crate) failed: u64,
    pub(crate) denied: u64,
    /// By the second in which they came. What comes after the last, as retries of what was asked before it, is in the total
    /// alone.
    pub(crate) per_second: Vec<u32>,
}

impl Calls {
    pub(crate) fn new(seconds: usize) -> Self {
        Self { per_second: vec![0; seconds], ..Self::default() }
    }

    fn note(&mut self, now: u64) {
        self.total += 1;
        let seconds = self.per_second.len();
        let second = usize::try_from(now / SECOND).unwrap_or(usize::MAX);
        // The end itself, at which a trace has its last request, belongs to the last second.
        let second = if now.is_multiple_of(SECOND) && second == seconds { seconds.saturating_sub(1) } else { second };
        if let Some(count) = self.per_second.get_mut(second) {
            *count += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.throttled += other.throttled;
        self.failed += other.failed;
        self.denied += other.denied;
        self.per_second.resize(self.per_second.len().max(other.per_second.len()), 0);
        for (sum, more) in self.per_second.iter_mut().zip(&other.per_second) {
            *sum += more;
        }
    }
}

/// The KMS as all processes of a lane see it.
#[derive(Debug)]
pub(crate) struct SimKms {
    pub(crate) clock: SimClock,
    pub(crate) sleeps: Sleeps,
    latency: Latency,
    outages: Vec<(u64, u64, OutageKind)>,
    /// None where no process could use it up.
    quota: Option<Mutex<Quota>>,
    /// Of all processes together: a month has millions of seconds, and a fleet a thousand processes.
    calls: Mutex<Calls>,
}

impl SimKms {
    pub(crate) fn new(outside: &Outside, has_quota: bool, seconds: usize, clock: SimClock, sleeps: Sleeps) -> Self {
        let outages = outside.outages.iter().map(|outage| {
            let at = outage.at.nanos();
            (at, at.saturating_add(outage.lasts.nanos()), outage.kind)
        });
        let quota = outside.quota.filter(|_| has_quota);
        Self {
            clock,
            sleeps,
            latency: Latency::new(outside.latency, outside.latency_p99),
            outages: outages.collect(),
            quota: quota.map(|quota| Mutex::new(Quota::new(quota))),
            calls: Mutex::new(Calls::new(seconds)),
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // No code panics while it holds the lock.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted so far; from now on it counts anew.
    pub(crate) fn take_calls(&self) -> Calls {
        std::mem::take(&mut *self.calls())
    }

    /// What it does with a call that comes now, and how long that takes.
    pub(crate) fn answer(&self, random: &mut SmallRng) -> (Answer, u64) {
        let (now, mut calls) = (self.clock.nanos(), self.calls());
        calls.note(now);
        let takes = self.latency.sample(random);
        match self.outages.iter().find(|(from, until, _)| (*from..*until).contains(&now)) {
            Some((.., OutageKind::Unavailable)) => {
                calls.failed += 1;
                return (Answer::Unavailable, REFUSAL);
            }
            Some((.., OutageKind::Silent)) => {
                calls.failed += 1;
                return (Answer::Unavailable, SILENCE);
            }
            Some((.., OutageKind::Throttled)) => {
                calls.throttled += 1;
                return (Answer::Throttled, REFUSAL);
            }
            Some((.., OutageKind::Denied)) => {
                calls.denied += 1;
                return (Answer::Denied, takes);
            }
            None => {}
        }
        let is_let_through =
            self.quota.as_ref().is_none_or(|quota| quota.lock().unwrap_or_else(PoisonError::into_inner).take(now));
        if is_let_through {
            return (Answer::Done, takes);
        }
        calls.throttled += 1;
        (Answer::Throttled, REFUSAL)
    }
}

/// What a call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Throttled,
    Unavailable,
    Denied,
}

/// One process's way to the KMS. Clones share their chance: a restarted process is still the same.
#[derive(Clone)]
pub(crate) struct SimRoot {
    kms: Arc<SimKms>,
    id: RootKeyId,
    random: Arc<Mutex<SmallRng>>,
}

impl SimRoot {
    pub(crate) fn new(kms: Arc<SimKms>, id: RootKeyId, seed: u64) -> Self {
        Self { kms, id, random: Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))) }
    }

    async fn call(&self) -> Result<(), RootKeyError> {
        // No code panics while it holds the lock.
        let (answer, takes) = self.kms.answer(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner));
        if takes > 0 {
            self.kms.sleeps.sleep(&self.kms.clock, takes).await;
        }
        match answer {
            Answer::Done => Ok(()),
            Answer::Throttled => Err(RootKeyError::throttled("simulated")),
            Answer::Unavailable => Err(RootKeyError::unavailable("simulated")),
            Answer::Denied => Err(RootKeyError::denied("simulated")),
        }
    }
}

#[async_trait]
impl RootKey for SimRoot {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, _: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        Err(RootKeyError::unavailable("a simulation makes no keys"))
    }

    async fn unwrap_key(&self, wrapped: &[u8], _: &RootContext) -> Result<SecretKey, RootKeyError> {
        self.call().await?;
        SecretKey::from_slice(wrapped).map_err(|_| RootKeyError::Rejected)
    }
}

impl fmt::Debug for SimRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRoot")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn latencies_have_the_median_and_the_tail_that_were_asked_for() {
        let latency = Latency::new(Span(Duration::from_millis(10)), Span(Duration::from_millis(50)));
        let mut random = SmallRng::seed_from_u64(7);
        let mut samples: Vec<_> = (0..100_000).map(|_| latency.sample(&mut random)).collect();
        samples.sort_unstable();
        let at = |part: usize| samples[samples.len() * part / 100] / 100_000;
        assert!((98..=102).contains(&at(50)) && (480..=520).contains(&at(99)), "{} {}", at(50), at(99));
        let constant = Latency::new(Span(Duration::from_millis(10)), Span(Duration::from_millis(10)));
        assert_eq!(constant.sample(&mut random), 10_000_000);
        assert_eq!(Latency::new(Span::default(), Span::default()).sample(&mut random), 0);
    }

    #[test]
    fn a_quota_is_a_second_at_once_and_then_its_rate() {
        let mut quota = Quota::new(10.0);
        assert_eq!((0..20).filter(|_| quota.take(0)).count(), 10);
        assert!(!quota.take(SECOND / 20) && quota.take(SECOND / 10) && !quota.take(SECOND / 10));
        assert_eq!((0..20).filter(|_| quota.take(60 * SECOND)).count(), 10);
    }
}

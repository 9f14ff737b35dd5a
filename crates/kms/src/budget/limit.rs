//! The rate itself: governor's arithmetic at a time that it is told.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter, clock, middleware::StateInformationMiddleware, nanos::Nanos, state::InMemoryState,
    state::direct::NotKeyed,
};

/// One token every `period`, and `burst` tokens at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) period: Duration,
    pub(super) burst: NonZeroU32,
}

impl Rate {
    /// Rounded to the slower side.
    pub(super) fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self { period: Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(per_second.get()))), burst }
    }

    /// What each of `processes` may use.
    pub(super) fn divided(self, processes: NonZeroU32) -> Self {
        let burst = NonZeroU32::new(self.burst.get() / processes.get()).unwrap_or(NonZeroU32::MIN);
        Self { period: self.period.saturating_mul(processes.get()), burst }
    }

    pub(super) fn per_second(self) -> f64 {
        1.0 / self.period.as_secs_f64()
    }
}

/// A limiter at this rate.
pub(super) struct Limit {
    rate: Rate,
    /// What governor takes for the time.
    dial: Dial,
    limiter: RateLimiter<NotKeyed, InMemoryState, Dial, StateInformationMiddleware>,
    /// How many tokens were left at least after the last one was taken.
    left: (Duration, u32),
}

#[derive(Clone, Debug, Default)]
struct Dial(Arc<AtomicU64>);

impl Dial {
    fn set(&self, now: Duration) {
        self.0.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl clock::Clock for Dial {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.load(Ordering::Relaxed))
    }
}

impl Limit {
    pub(super) fn new(rate: Rate, now: Duration) -> Self {
        let dial = Dial::default();
        dial.set(now);
        let quota = Quota::with_period(rate.period).expect("a period is at least a nanosecond");
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(rate.burst), dial.clone());
        Self {
            rate,
            dial,
            limiter: limiter.with_middleware::<StateInformationMiddleware>(),
            left: (now, rate.burst.get()),
        }
    }

    /// Takes a token, or says when there will be one.
    pub(super) fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.dial.set(now);
        match self.limiter.check() {
            Ok(snapshot) => {
                self.left = (now, snapshot.remaining_burst_capacity());
                Ok(())
            }
            Err(refusal) => Err(now.saturating_add(refusal.wait_time_from(Nanos::from(now)))),
        }
    }

    /// When there will be `tokens` at once, by what was left after the last one was taken; `now` if there are.
    pub(super) fn has_at(&self, tokens: u32, now: Duration) -> Duration {
        let (at, left) = self.left;
        let missing = tokens.min(self.rate.burst.get()).saturating_sub(left);
        now.max(at.saturating_add(self.rate.period.saturating_mul(missing)))
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("rate", &self.rate).field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn a_rate_is_rounded_to_the_slower_side_and_shared_by_division() {
        let third = Rate::new(number(3), number(9));
        assert_eq!((third.period, third.burst), (Duration::from_nanos(333_333_334), number(9)));
        let share = Rate::new(number(1_000), number(25)).divided(number(10));
        assert_eq!((share.period, share.burst), (Duration::from_millis(10), number(2)));
        let poor = Rate::new(number(1), number(1)).divided(number(20));
        assert_eq!((poor.period, poor.burst), (Duration::from_secs(20), number(1)));
    }

    #[test]
    fn the_burst_is_there_at_once_and_then_a_token_every_period() {
        let start = Duration::from_secs(1_000);
        let mut limit = Limit::new(Rate::new(number(10), number(3)), start);
        assert_eq!(limit.has_at(3, start), start);
        for _ in 0..3 {
            assert_eq!(limit.take(start), Ok(()));
        }
        let next = start + Duration::from_millis(100);
        assert_eq!(limit.take(start), Err(next));
        assert_eq!(limit.take(start + Duration::from_nanos(99_999_999)), Err(next));
        assert_eq!(limit.has_at(2, start), start + Duration::from_millis(200));
        assert_eq!(limit.take(next), Ok(()));
        assert_eq!(limit.take(next), Err(next + Duration::from_millis(100)));
    }
}

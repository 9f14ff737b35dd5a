//! When somebody may be called: the rate, the pace of an adaptive budget, and what either urgency leaves to the other.

use std::time::Duration;

use keystrata_hierarchy::Urgency;

use super::{aimd::Aimd, limit::Limit, rules::Rules};

/// Turns to come and take a token. One is there whenever a token is, but for what the pace and the reserve hold back.
#[derive(Debug)]
pub(super) struct Turns {
    limit: Limit,
    pace: Option<Aimd>,
    /// The rate without a pace.
    per_second: f64,
    /// Tokens that a background call leaves in the bucket.
    reserve: u32,
    /// What a background call that waits earns by each foreground call that is preferred to it.
    earned: f64,
    /// What the background has earned; at 1 it goes before the foreground once.
    credit: f64,
    /// Turns of those who left after they were called.
    given_back: u32,
}

impl Turns {
    pub(super) fn new(rules: &Rules, now: Duration) -> Self {
        let per_second = rules.rate.per_second();
        Self {
            limit: Limit::new(rules.rate, now),
            pace: rules.is_adaptive.then(|| Aimd::new(per_second, now)),
            per_second,
            reserve: rules.reserve(),
            earned: rules.credit(),
            credit: 0.0,
            given_back: 0,
        }
    }

    /// Takes a turn for somebody of this urgency, or says when there may be one.
    pub(super) fn take(&mut self, urgency: Urgency, now: Duration) -> Result<(), Duration> {
        let later = self.may_go_at(urgency, now);
        if later > now {
            return Err(later);
        }
        if self.given_back > 0 {
            self.given_back -= 1;
            return Ok(());
        }
        if let Some(later) = self.pace.as_mut().and_then(|pace| pace.not_before(now)) {
            return Err(later);
        }
        self.limit.take(now)?;
        if let Some(pace) = &mut self.pace {
            pace.take(now);
        }
        Ok(())
    }

    /// Takes one for another attempt of somebody who had one just now. The pace holds up those who come after.
    pub(super) fn take_further(&mut self, now: Duration) -> bool {
        let is_taken = self.limit.take(now).is_ok();
        if let (true, Some(pace)) = (is_taken, &mut self.pace) {
            pace.take(now);
        }
        is_taken
    }

    /// Gives one back that was taken and not used.
    pub(super) fn give_back(&mut self) {
        self.given_back += 1;
    }

    /// A turn that nobody wants is not kept for later: kept turns would be a burst.
    pub(super) fn forget_given_back(&mut self) {
        self.given_back = 0;
    }

    /// Turns a second at present.
    pub(super) fn per_second(&self) -> f64 {
        self.pace.as_ref().map_or(self.per_second, Aimd::per_second)
    }

    /// How the KMS answered an attempt. Whether that lowered the rate.
    pub(super) fn report(&mut self, now: Duration, was_throttled: bool) -> bool {
        match &mut self.pace {
            Some(pace) if was_throttled => pace.throttled(now),
            Some(pace) => {
                pace.answered(now);
                false
            }
            None => false,
        }
    }

    /// A background call that waits was passed over.
    pub(super) fn earn_credit(&mut self) {
        self.credit = (self.credit + self.earned).min(1.0);
    }

    /// Somebody of this urgency was called.
    pub(super) fn spend_credit(&mut self, urgency: Urgency) {
        if urgency == Urgency::Background {
            self.credit = (self.credit - 1.0).max(0.0);
        }
    }

    /// A quarter four times over is not quite 1 where the quarter is `0.2 / 0.8`.
    pub(super) fn has_credit(&self) -> bool {
        self.credit > 1.0 - 1e-9
    }

    /// When the reserve lets this urgency take a token; the rate may say later.
    fn may_go_at(&self, urgency: Urgency, now: Duration) -> Duration {
        match urgency {
            Urgency::Background if !self.has_credit() => self.limit.has_at(1 + self.reserve, now),
            Urgency::Background | Urgency::Foreground => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::{super::limit::Rate, *};

    const START: Duration = Duration::from_secs(1_000);

    fn turns(foreground_share: f64) -> Turns {
        let number = |n| NonZeroU32::new(n).unwrap();
        let rate = Rate::new(number(10), number(5));
        Turns::new(&Rules { rate, foreground_share, max_wait: Duration::from_secs(10), is_adaptive: false }, START)
    }

    #[test]
    fn the_background_leaves_the_reserve_and_goes_below_it_only_with_credit() {
        let mut turns = turns(0.8);
        assert_eq!(turns.take(Urgency::Background, START), Ok(()));
        assert!(turns.take(Urgency::Background, START).is_err(), "four of five are the foreground's");
        for _ in 0..4 {
            turns.earn_credit();
        }
        assert_eq!(turns.take(Urgency::Background, START), Ok(()));
        turns.spend_credit(Urgency::Background);
        assert!(!turns.has_credit() && turns.take(Urgency::Background, START).is_err());
    }

    #[test]
    fn a_turn_given_back_is_taken_before_the_rate_is_asked_and_not_kept() {
        let mut turns = turns(0.0);
        while turns.take(Urgency::Foreground, START).is_ok() {}
        turns.give_back();
        assert_eq!(turns.take(Urgency::Foreground, START), Ok(()));
        turns.give_back();
        turns.forget_given_back();
        assert_eq!(turns.take(Urgency::Foreground, START), Err(START + Duration::from_millis(100)));
        assert!(!turns.take_further(START) && turns.take_further(START + Duration::from_millis(100)));
    }
}

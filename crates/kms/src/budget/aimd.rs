//! A pace that finds its share of a quota that others use too: additive increase, multiplicative decrease.

use std::time::Duration;

/// What remains of the rate after the KMS has throttled. Gentle, because a cut answers one refusal of many attempts.
const CUT: f64 = 0.8;

/// Attempts that were under way when the rate was cut may still come back throttled; they say nothing new.
const CUT_PAUSE: Duration = Duration::from_millis(250);

/// How much the rate rises in a second of being used up, as a part of the ceiling. A slower rise lets differences between
/// processes last for minutes; a quicker one is throttled more: the part of attempts that are grows with this, and with
/// the square of the number of processes.
const RISE: f64 = 0.01;

/// The same before the first refusal, as a part of the rate itself: from a tenth to all in 13 seconds.
const FIRST_RISE: f64 = 0.2;

/// Where it begins, as a part of the ceiling. A fleet that is restarted as a whole must not begin with a storm.
const START: f64 = 0.1;

/// It never falls below this part of the ceiling, so that it can find out that things are better.
const FLOOR: f64 = 0.001;

/// Nor below this, unless the ceiling is: one attempt in five seconds, half of how long a call waits by default. With fewer,
/// everybody who waits would be refused before one attempt finds out.
const SLOWEST: f64 = 0.2;

/// A rate between floor and ceiling, and when the next attempt fits into it.
#[derive(Debug)]
pub(super) struct Aimd {
    ceiling: f64,
    per_second: f64,
    /// When the last attempt was due. The next one is due a period later, by the rate of whenever that is asked: who waits
    /// since the rate was low need not wait on by it.
    last_at: Option<Duration>,
    cut_at: Option<Duration>,
    risen_at: Duration,
    /// Whether somebody had to wait for the pace since it rose last. A rate that nobody uses up proves nothing.
    was_felt: bool,
}

impl Aimd {
    pub(super) fn new(ceiling: f64, now: Duration) -> Self {
        let per_second = (ceiling * START).max(floor(ceiling));
        Self { ceiling, per_second, last_at: None, cut_at: None, risen_at: now, was_felt: false }
    }

    pub(super) fn per_second(&self) -> f64 {
        self.per_second
    }

    /// When the next attempt fits in, if not now.
    pub(super) fn not_before(&mut self, now: Duration) -> Option<Duration> {
        let next_at = self.next_at().filter(|next_at| now < *next_at);
        self.was_felt |= next_at.is_some();
        next_at
    }

    fn next_at(&self) -> Option<Duration> {
        let period = Duration::try_from_secs_f64(1.0 / self.per_second).unwrap_or(Duration::MAX);
        self.last_at.map(|last_at| last_at.saturating_add(period))
    }

    /// An attempt is made now.
    pub(super) fn take(&mut self, now: Duration) {
        self.last_at = self.next_at().map_or(Some(now), |next_at| Some(now.max(next_at)));
    }

    /// The KMS answered an attempt otherwise than by throttling. This may bring the next attempt nearer.
    pub(super) fn answered(&mut self, now: Duration) {
        if !self.was_felt {
            self.risen_at = now;
            return;
        }
        let seconds = now.saturating_sub(self.risen_at).as_secs_f64().min(1.0);
        let rise = if self.cut_at.is_some() { self.ceiling * RISE } else { self.per_second * FIRST_RISE };
        self.per_second = (self.per_second + rise * seconds).min(self.ceiling);
        self.risen_at = now;
        self.was_felt = false;
    }

    /// The KMS throttled an attempt. Whether that lowered the rate.
    pub(super) fn throttled(&mut self, now: Duration) -> bool {
        if self.cut_at.is_some_and(|cut_at| now < cut_at + CUT_PAUSE) {
            return false;
        }
        self.per_second = (self.per_second * CUT).max(floor(self.ceiling));
        self.cut_at = Some(now);
        self.risen_at = now;
        true
    }
}

fn floor(ceiling: f64) -> f64 {
    (ceiling * FLOOR).max(SLOWEST).min(ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_its_pace() {
        let mut pace = Aimd::new(1_000.0, Duration::ZERO); // so it begins at 100 per second
        assert_eq!(pace.not_before(Duration::ZERO), None);
        pace.take(Duration::ZERO);
        assert_eq!(pace.not_before(Duration::from_millis(9)), Some(Duration::from_millis(10)));
        assert_eq!(pace.not_before(Duration::from_millis(10)), None);
    }

    #[test]
    fn it_rises_only_while_it_is_felt_and_never_past_the_ceiling() {
        let mut pace = Aimd::new(1_000.0, Duration::ZERO);
        pace.answered(Duration::from_secs(1));
        assert!((pace.per_second() - 100.0).abs() < 1e-9);
        for second in 2..100 {
            let now = Duration::from_secs(second);
            pace.take(now);
            assert!(pace.not_before(now).is_some());
            pace.answered(now);
        }
        assert!((pace.per_second() - 1_000.0).abs() < 1e-9);
    }

    #[test]
    fn a_flock_of_refusals_is_one_cut_and_the_floor_holds() {
        let mut pace = Aimd::new(1_000.0, Duration::ZERO);
        let now = Duration::from_secs(1);
        assert!(pace.throttled(now));
        assert!(!pace.throttled(now + Duration::from_millis(249)));
        assert!((pace.per_second() - 80.0).abs() < 1e-9);
        for second in 2..100 {
            pace.throttled(Duration::from_secs(second));
        }
        assert!((pace.per_second() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn who_waits_since_the_rate_was_low_goes_by_the_rate_there_is() {
        let mut pace = Aimd::new(1_000.0, Duration::ZERO);
        for second in 0..100 {
            pace.throttled(Duration::from_secs(second));
        }
        let now = Duration::from_secs(100);
        pace.take(now);
        assert_eq!(pace.not_before(now), Some(now + Duration::from_secs(1)), "one a second");
        // One answer raises the rate by a hundredth of the ceiling a second.
        let answered = now + Duration::from_millis(50);
        pace.answered(answered);
        let per_second = pace.per_second();
        assert!(per_second > 10.0, "{per_second}");
        let next_at = pace.not_before(answered).unwrap();
        assert!(next_at < now + Duration::from_millis(100), "{next_at:?}");
    }

    #[test]
    fn a_small_quota_is_tried_before_those_who_wait_are_refused() {
        for (ceiling, floor) in [(1_000.0, 1.0), (10.0, 0.2), (1.0, 0.2), (0.05, 0.05)] {
            let mut pace = Aimd::new(ceiling, Duration::ZERO);
            assert!(pace.per_second() >= floor);
            for second in 0..100 {
                pace.throttled(Duration::from_secs(second));
            }
            assert!((pace.per_second() - floor).abs() < 1e-9, "{ceiling}: {}", pace.per_second());
        }
    }
}

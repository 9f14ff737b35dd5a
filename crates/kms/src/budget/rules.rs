//! What a queue goes by, and why it refuses.

use std::time::Duration;

use super::limit::Rate;

#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) rate: Rate,
    /// From 0 to 1: what background calls leave to the foreground.
    pub(super) foreground_share: f64,
    pub(super) max_wait: Duration,
    pub(super) is_adaptive: bool,
}

impl Rules {
    /// How many can wait at this rate: those who can be served in the time that each is ready to wait, and one at least.
    /// Those who were called and come too late join them; there are at most as many of them.
    pub(super) fn places(&self, per_second: f64) -> usize {
        // A hair more, so that a rate that was rounded down to whole nanoseconds of a period loses no place.
        let served = self.max_wait.as_secs_f64() * per_second * (1.0 + 1e-6);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, and saturates")]
        let places = served as usize;
        places.max(1)
    }

    /// Tokens that a background call leaves in the bucket.
    pub(super) fn reserve(&self) -> u32 {
        let burst = self.rate.burst.get();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the burst")]
        let reserve = (f64::from(burst) * self.foreground_share) as u32;
        reserve.min(burst - 1)
    }

    /// What a background call that waits earns by each foreground call that is preferred to it. At 1 it goes next.
    pub(super) fn credit(&self) -> f64 {
        (1.0 - self.foreground_share) / self.foreground_share.max(f64::EPSILON)
    }
}

/// Why somebody was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    /// How many wait.
    pub(super) waiting: usize,
    pub(super) retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There was no place, or it was given to an account with fewer calls in the queue.
    QueueFull,
    /// It waited as long as a call may wait.
    Deadline,
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn there_are_as_many_places_as_are_served_in_time_and_one_at_least() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let rules = |per_second, max_wait| Rules {
            rate: Rate::new(number(per_second), number(1)),
            foreground_share: 0.8,
            max_wait,
            is_adaptive: false,
        };
        for (per_second, seconds, places) in [(10, 10, 100), (1_000, 10, 10_000), (3, 10, 30), (1, 0, 1)] {
            let rules = rules(per_second, Duration::from_secs(seconds));
            assert_eq!(rules.places(rules.rate.per_second()), places);
        }
        let rules = rules(1_000, Duration::from_secs(10));
        assert_eq!((rules.places(100.0), rules.places(0.01)), (1_000, 1));
    }
}

//! Seconds since the Unix epoch as people read them.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A time in UTC, written `2026-01-31T23:59:59Z`.
pub(crate) struct Utc(pub(crate) u64);

/// Now, in seconds since the Unix epoch; 0 where the clock is before it.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long ago something was, in the largest unit of which it is one at least.
pub(crate) struct Age(Option<u64>);

impl Age {
    /// From a time to another, `now`.
    pub(crate) fn of(time: u64, now: u64) -> Self {
        Self(now.checked_sub(time))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Clocks of machines differ, and a record may say anything.
        let Some(seconds) = self.0 else { return f.write_str("in the future") };
        let units = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
        let (unit, length) = units.into_iter().find(|(_, length)| seconds >= *length).unwrap_or(("second", 1));
        let count = seconds / length;
        write!(f, "{count} {unit}{} ago", if count == 1 { "" } else { "s" })
    }
}

/// The first second of the year 10,000. Times come from the store, which may hold anything.
const END: u64 = 253_402_300_800;

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= END {
            return write!(f, "@{}", self.0);
        }
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.0)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (END - 1, "9999-12-31T23:59:59Z"),
            (END, "@253402300800"),
            (u64::MAX, "@18446744073709551615"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        for (seconds, text) in [
            (0, "0 seconds ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (3_599, "59 minutes ago"),
            (86_399, "23 hours ago"),
            (86_400, "1 day ago"),
            (864_000, "10 days ago"),
        ] {
            assert_eq!(Age::of(1_000, 1_000 + seconds).to_string(), text);
        }
        assert_eq!(Age::of(1_001, 1_000).to_string(), "in the future");
    }

    #[test]
    fn every_day_of_a_cycle_follows_the_one_before() {
        let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let length = |year, month| match month {
            2 => 28 + u64::from(is_leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for days in 0..146_097 {
            let (year, month, day) = expected;
            assert_eq!(Utc(days * 86_400).to_string(), format!("{year:04}-{month:02}-{day:02}T00:00:00Z"));
            expected = match (month, day == length(year, month)) {
                (_, false) => (year, month, day + 1),
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
            };
        }
    }
}

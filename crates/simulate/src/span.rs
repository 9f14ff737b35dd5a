//! Times as people write them: `90s`, `5m`, `1h30m`, `1d`.

use std::{fmt, str::FromStr, time::Duration};

use jiff::SpanRelativeTo;
use serde::{Deserialize, Serialize};

pub(crate) const SECOND: u64 = 1_000_000_000;

/// A length of time, or a time since the beginning of a simulation. A day has 24 hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub(crate) fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn as_seconds(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is not a time: write it like 90s, 5m, 1h30m or 1d");
        if text.trim() == "0" {
            return Ok(Self::default());
        }
        let span: jiff::Span = text.parse().map_err(|_| expected())?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| expected())?;
        Duration::try_from(duration).map(Self).map_err(|_| format!("`{text}` is negative: a time is zero or more"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_secs();
        if self.0.subsec_nanos() > 0 || total == 0 {
            let (micros, millis) = (self.0.as_micros(), self.0.as_millis());
            return match micros {
                0 if self.0.is_zero() => f.write_str("0s"),
                0 => write!(f, "{}ns", self.0.as_nanos()),
                _ if !micros.is_multiple_of(1_000) => write!(f, "{micros}us"),
                _ => write!(f, "{millis}ms"),
            };
        }
        let parts = [(total / 86_400, "d"), (total / 3_600 % 24, "h"), (total / 60 % 60, "m"), (total % 60, "s")];
        parts.into_iter().filter(|(count, _)| *count > 0).try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_are_written() {
        for (text, seconds) in [("90s", 90.0), ("1h30m", 5_400.0), ("1d", 86_400.0), ("250ms", 0.25), ("0", 0.0)] {
            let span: Span = text.parse().unwrap();
            assert!((span.as_seconds() - seconds).abs() < 1e-9, "{text}");
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
        assert_eq!(Span::seconds(90).to_string(), "1m30s");
        assert!("-5m".parse::<Span>().unwrap_err().contains("negative"));
        for wrong in ["", "5", "5 parsecs", "soon"] {
            assert!(wrong.parse::<Span>().unwrap_err().contains("not a time"), "{wrong}");
        }
    }
}

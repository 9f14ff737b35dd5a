//! The settings of a simulation as they are written: in a file, on a command line, or not at all.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// What is said of a simulation. Whatever is not has a default, which [`Scenario`](crate::Scenario) gives it.
///
/// The same names stand in a scenario file and on a command line, where `_` is written `-`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct Draft {
    /// Replay this trace instead of making traffic up: CSV or Parquet with the columns time, account, op, process
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE", help_heading = "Traffic"))]
    pub trace: Option<PathBuf>,
    /// How long, from midnight on [default: 1d]
    #[cfg_attr(feature = "clap", arg(long, value_name = "TIME", help_heading = "Traffic"))]
    pub duration: Option<Span>,
    /// How many processes serve the accounts [default: 20]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N", help_heading = "Traffic"))]
    pub processes: Option<u32>,
    /// How many accounts there are [default: 2000]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N", help_heading = "Traffic"))]
    pub accounts: Option<u32>,
    /// Seals and opens a second, of all processes together and on the average of the day [default: 1000]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N", help_heading = "Traffic", allow_negative_numbers = true))]
    pub rate: Option<f64>,
    /// How uneven accounts are (the exponent of Zipf's law): 0 all alike, 1 as tenants usually are [default: 1]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N", help_heading = "Traffic", allow_negative_numbers = true))]
    pub skew: Option<f64>,
    /// What part of the operations are seals; the others open [default: 0.2]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "PART", help_heading = "Traffic", allow_negative_numbers = true)
    )]
    pub seals: Option<f64>,
    /// Which processes serve an account: any of them, or one alone (sticky) [default: any]
    #[cfg_attr(feature = "clap", arg(long, value_name = "HOW", help_heading = "Traffic"))]
    pub routing: Option<Routing>,
    /// How traffic goes over the day: flat, office, evening, or 24 numbers like 1,1,2,… [default: flat]
    #[cfg_attr(feature = "clap", arg(long, value_name = "CURVE", help_heading = "Traffic"))]
    pub day_curve: Option<DayCurve>,
    /// A burst, as AT/FOR/TIMES: 12h/5m/x4 is four times the traffic for 5 minutes from noon. Repeat it for more
    #[cfg_attr(feature = "clap", arg(long, value_name = "BURST", help_heading = "Traffic"))]
    pub burst: Vec<Burst>,
    /// A deploy, as AT or AT/STAGGER: 10h/30s restarts a process every 30 seconds from 10:00. Repeat it for more
    #[cfg_attr(feature = "clap", arg(long, value_name = "DEPLOY", help_heading = "Traffic"))]
    pub deploy: Vec<Deploy>,
    /// Where the random numbers begin: the same seed makes the same forecast [default: 1]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N", help_heading = "Traffic"))]
    pub seed: Option<u64>,

    /// Whose prices and quota: aws, gcp, azure, or none for a KMS of your own [default: aws]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME", help_heading = "KMS and store"))]
    pub provider: Option<String>,
    /// Calls a second that the KMS answers; above, it throttles [default: the provider's quota]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "N", help_heading = "KMS and store", allow_negative_numbers = true)
    )]
    pub quota: Option<f64>,
    /// How long the KMS takes for half of its answers [default: 12ms]
    #[cfg_attr(feature = "clap", arg(long, value_name = "TIME", help_heading = "KMS and store"))]
    pub kms_latency: Option<Span>,
    /// How long it takes for 99 of 100 [default: five times that]
    #[cfg_attr(feature = "clap", arg(long, value_name = "TIME", help_heading = "KMS and store"))]
    pub kms_latency_p99: Option<Span>,
    /// An outage, as AT/FOR/KIND, KIND being unavailable, silent, throttled or denied: 13h/10m/silent. Repeat it for more
    #[cfg_attr(feature = "clap", arg(long, value_name = "OUTAGE", help_heading = "KMS and store"))]
    pub outage: Vec<Outage>,
    /// How long the KEK store takes to answer [default: 1ms]
    #[cfg_attr(feature = "clap", arg(long, value_name = "TIME", help_heading = "KMS and store"))]
    pub store_latency: Option<Span>,

    /// What wraps account KEKs: account (the KMS), group:N (a KEK for N accounts each), or direct (no KEK: a call for every
    /// operation, as the baseline). Lists are compared: account,group:20 [default: account]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Policies to compare")
    )]
    pub topology: Vec<Wraps>,
    /// How long a decrypted KEK may be used: 1m,5m,1h [default: 5m]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Policies to compare")
    )]
    pub ttl: Vec<Span>,
    /// How many decrypted KEKs a process holds at most [default: 100000]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Policies to compare")
    )]
    pub capacity: Vec<u32>,
    /// Whether a KEK in use is renewed in the last tenth of its life, so that nobody waits: on, off [default: on]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Policies to compare")
    )]
    pub refresh_ahead: Vec<Switch>,
    /// By what part of the TTL lives are shortened at random at most [default: 0.05]
    #[cfg_attr(
        feature = "clap",
        arg(
            long,
            value_name = "LIST",
            value_delimiter = ',',
            help_heading = "Policies to compare",
            allow_negative_numbers = true
        )
    )]
    pub jitter: Vec<f64>,
    /// KMS calls that each process may make, as RATE/BURST: 50/20 is 50 a second and 20 at once [default: unlimited]
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Policies to compare")
    )]
    pub budget: Vec<BudgetOf>,
}

impl Draft {
    /// The draft in a scenario file.
    ///
    /// # Errors
    /// What is wrong with it, with the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| toml_message(&error, text))
    }

    /// What this draft says and, where it says nothing, what `base` does.
    pub fn over(self, base: Self) -> Self {
        fn of<T>(own: Vec<T>, base: Vec<T>) -> Vec<T> {
            if own.is_empty() { base } else { own }
        }
        Self {
            trace: self.trace.or(base.trace),
            duration: self.duration.or(base.duration),
            processes: self.processes.or(base.processes),
            accounts: self.accounts.or(base.accounts),
            rate: self.rate.or(base.rate),
            skew: self.skew.or(base.skew),
            seals: self.seals.or(base.seals),
            routing: self.routing.or(base.routing),
            day_curve: self.day_curve.or(base.day_curve),
            burst: of(self.burst, base.burst),
            deploy: of(self.deploy, base.deploy),
            seed: self.seed.or(base.seed),
            provider: self.provider.or(base.provider),
            quota: self.quota.or(base.quota),
            kms_latency: self.kms_latency.or(base.kms_latency),
            kms_latency_p99: self.kms_latency_p99.or(base.kms_latency_p99),
            outage: of(self.outage, base.outage),
            store_latency: self.store_latency.or(base.store_latency),
            topology: of(self.topology, base.topology),
            ttl: of(self.ttl, base.ttl),
            capacity: of(self.capacity, base.capacity),
            refresh_ahead: of(self.refresh_ahead, base.refresh_ahead),
            jitter: of(self.jitter, base.jitter),
            budget: of(self.budget, base.budget),
        }
    }
}

/// What is wrong with a TOML file, in one line.
pub(crate) fn toml_message(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
    let message = error.message().replace('\n', ": ");
    line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
}

/// What wraps the KEKs of accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Wraps {
    /// No KEKs: the KMS wraps the key of every object.
    Direct,
    /// The KMS wraps each account's KEK.
    Account,
    /// A KEK wraps those of so many accounts, and the KMS wraps it.
    Group(u32),
}

/// Which processes serve an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Routing {
    /// Any, whichever is next.
    #[default]
    Any,
    /// Always the same one.
    Sticky,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Switch(pub bool);

/// The calls that each process may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum BudgetOf {
    /// As many as it wants.
    Unlimited,
    /// So many a second, and at once after a pause.
    Limited {
        /// A second.
        rate: u32,
        /// At once.
        burst: u32,
    },
}

/// More traffic for a while.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Burst {
    /// From when on.
    pub at: Span,
    /// For how long.
    pub lasts: Span,
    /// How many times the traffic of then.
    pub times: f64,
}

/// All processes restarted, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Deploy {
    /// The first.
    pub at: Span,
    /// How long until each next one.
    pub stagger: Span,
}

/// The KMS does not do what it is asked for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Outage {
    /// From when on.
    pub at: Span,
    /// For how long.
    pub lasts: Span,
    /// What it does instead.
    pub kind: OutageKind,
}

/// What a KMS does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageKind {
    /// It fails every call at once.
    Unavailable,
    /// It does not answer.
    Silent,
    /// It throttles every call.
    Throttled,
    /// It denies every call.
    Denied,
}

/// How traffic goes over the day.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum DayCurve {
    /// The same at all times.
    #[default]
    Flat,
    /// Working hours, with a dip at noon.
    Office,
    /// Most in the evening.
    Evening,
    /// One number for each hour.
    Hours(Vec<f64>),
}

impl DayCurve {
    const OFFICE: [f64; 24] = [
        1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 14.0, 18.0, 19.0, 17.0, 14.0, 17.0, 19.0, 18.0, 15.0, 10.0, 6.0, 4.0,
        3.0, 2.0, 2.0, 1.0,
    ];
    const EVENING: [f64; 24] = [
        8.0, 5.0, 3.0, 2.0, 2.0, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0, 9.0, 10.0, 10.0, 10.0, 11.0, 12.0, 14.0, 17.0, 20.0,
        21.0, 20.0, 16.0, 12.0,
    ];

    /// How much traffic there is at each full hour, in any unit.
    pub(crate) fn hours(&self) -> &[f64] {
        match self {
            Self::Flat => &[1.0],
            Self::Office => &Self::OFFICE,
            Self::Evening => &Self::EVENING,
            Self::Hours(hours) => hours,
        }
    }
}

impl FromStr for Wraps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("group:")) {
            ("direct", _) => Ok(Self::Direct),
            ("account", _) => Ok(Self::Account),
            (_, Some(accounts)) => match accounts.parse() {
                Ok(accounts @ 1..) => Ok(Self::Group(accounts)),
                _ => Err(format!("`{text}`: expected how many accounts share a group's KEK, like group:20")),
            },
            _ => Err(format!("`{text}` is no topology: expected account, group:N or direct")),
        }
    }
}

impl fmt::Display for Wraps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Account => f.write_str("account"),
            Self::Group(accounts) => write!(f, "group:{accounts}"),
        }
    }
}

impl FromStr for Routing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "sticky" => Ok(Self::Sticky),
            _ => Err(format!("`{text}`: expected any or sticky")),
        }
    }
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Any { "any" } else { "sticky" })
    }
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err(format!("`{text}`: expected on or off")),
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

impl FromStr for BudgetOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let parsed = text.split_once('/').and_then(|(rate, burst)| Some((rate.parse().ok()?, burst.parse().ok()?)));
        match parsed {
            Some((rate @ 1..=1_000_000, burst @ 1..=1_000_000)) => Ok(Self::Limited { rate, burst }),
            _ => Err(format!(
                "`{text}` is no budget: expected RATE/BURST, each from 1 to 1000000, like 50/20, or unlimited"
            )),
        }
    }
}

impl fmt::Display for BudgetOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::Limited { rate, burst } => write!(f, "{rate}/{burst}"),
        }
    }
}

impl FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no burst: expected AT/FOR/TIMES, like 12h/5m/x4");
        let [at, lasts, times] = parts(text).ok_or_else(wrong)?;
        let times: f64 = times.strip_prefix('x').unwrap_or(times).parse().map_err(|_| wrong())?;
        if !(0.0..=1_000.0).contains(&times) {
            return Err(format!("`{text}`: the traffic is multiplied by 0 to 1000"));
        }
        Ok(Self { at: at.parse()?, lasts: lasts.parse()?, times })
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/x{}", self.at, self.lasts, self.times)
    }
}

impl FromStr for Deploy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, stagger) = text.split_once('/').unwrap_or((text, "0"));
        Ok(Self { at: at.parse()?, stagger: stagger.parse()? })
    }
}

impl fmt::Display for Deploy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at, self.stagger)
    }
}

impl FromStr for Outage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = "unavailable, silent, throttled or denied";
        let wrong = || format!("`{text}` is no outage: expected AT/FOR/KIND, KIND being {kinds}, like 13h/10m/silent");
        let [at, lasts, kind] = parts(text).ok_or_else(wrong)?;
        let kind = match kind {
            "unavailable" => OutageKind::Unavailable,
            "silent" => OutageKind::Silent,
            "throttled" => OutageKind::Throttled,
            "denied" => OutageKind::Denied,
            _ => return Err(wrong()),
        };
        Ok(Self { at: at.parse()?, lasts: lasts.parse()?, kind })
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OutageKind::Unavailable => "unavailable",
            OutageKind::Silent => "silent",
            OutageKind::Throttled => "throttled",
            OutageKind::Denied => "denied",
        };
        write!(f, "{}/{}/{kind}", self.at, self.lasts)
    }
}

impl FromStr for DayCurve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "flat" => Ok(Self::Flat),
            "office" => Ok(Self::Office),
            "evening" => Ok(Self::Evening),
            numbers => {
                let hours: Option<Vec<f64>> = numbers.split(',').map(|number| number.trim().parse().ok()).collect();
                let is_curve = |hours: &Vec<f64>| {
                    let are_amounts = hours.iter().all(|hour| hour.is_finite() && *hour >= 0.0);
                    hours.len() == 24 && are_amounts && hours.iter().sum::<f64>() > 0.0
                };
                hours.filter(is_curve).map(Self::Hours).ok_or_else(|| {
                    format!(
                        "`{text}` is no day: expected flat, office, evening, or 24 numbers, none negative and not all 0"
                    )
                })
            }
        }
    }
}

impl fmt::Display for DayCurve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flat => f.write_str("flat"),
            Self::Office => f.write_str("office"),
            Self::Evening => f.write_str("evening"),
            Self::Hours(hours) => {
                let hours: Vec<_> = hours.iter().map(f64::to_string).collect();
                f.write_str(&hours.join(","))
            }
        }
    }
}

fn parts(text: &str) -> Option<[&str; 3]> {
    let parts: Vec<_> = text.split('/').collect();
    parts.try_into().ok()
}

/// In files they are strings, and read as on the command line.
macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )+};
}
as_text!(Wraps, Routing, Switch, BudgetOf, Burst, Deploy, Outage, DayCurve);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_goes_before_a_file_and_both_before_defaults() {
        let file =
            Draft::parse("accounts = 7\nttl = [\"1m\", \"5m\"]\nburst = [\"12h/5m/x4\"]\nday_curve = \"office\"");
        let line = Draft { ttl: vec![Span::seconds(9)], processes: Some(3), ..Draft::default() };
        let both = line.over(file.unwrap());
        assert_eq!((both.accounts, both.processes, both.ttl.len()), (Some(7), Some(3), 1));
        assert_eq!((both.burst[0].times, both.day_curve), (4.0, Some(DayCurve::Office)));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said_with_its_line() {
        for (text, line, expected) in [
            ("accounts = 7\nttl = [\"soon\"]", "line 2", "not a time"),
            ("acounts = 7", "line 1", "acounts"),
            ("\n\nburst = [\"12h\"]", "line 3", "AT/FOR/TIMES"),
            ("processes = -1", "line 1", "-1"),
        ] {
            let error = Draft::parse(text).unwrap_err();
            assert!(error.contains(line) && error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn values_read_back_and_wrong_ones_say_what_was_expected() {
        for text in ["direct", "account", "group:20"] {
            assert_eq!(text.parse::<Wraps>().unwrap().to_string(), text);
        }
        assert!("group:0".parse::<Wraps>().unwrap_err().contains("group:20"));
        assert_eq!("13h/10m/silent".parse::<Outage>().unwrap().to_string(), "13h/10m/silent");
        assert_eq!("10h".parse::<Deploy>().unwrap().to_string(), "10h/0s");
        assert!("50/0".parse::<BudgetOf>().is_err() && "-5/1".parse::<BudgetOf>().is_err());
        assert!("12h/5m/x-1".parse::<Burst>().is_err());
        assert!("1,2,3".parse::<DayCurve>().unwrap_err().contains("24 numbers"));
        assert!(["0"; 24].join(",").parse::<DayCurve>().is_err());
    }
}

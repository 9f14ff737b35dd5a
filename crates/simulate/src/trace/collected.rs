//! What was read of a trace so far, checked request by request.

use std::{
    collections::HashMap,
    fmt,
    io::{self, BufWriter, Write},
    path::Path,
};

use tempfile::NamedTempFile;

use super::{BUFFER, Trace, replay::entry};
use crate::{
    draft::Routing,
    error::SimulateError,
    span::{SECOND, Span},
    traffic::{Request, seed_of},
};

const MOST_ACCOUNTS: usize = 1_000_000;
const MOST_PROCESSES: usize = 1_000;
const LONGEST: u64 = 31 * 86_400 * SECOND;
/// As long as an account may be in eight parts; so names take a gigabyte at most.
const LONGEST_NAME: usize = 1_024;
/// Of a value that is wrong, so much is shown.
const SHOWN: usize = 64;

/// Whose requests are whose, where the trace does not say it.
pub(super) struct Spread {
    pub(super) processes: u32,
    pub(super) routing: Routing,
    pub(super) seed: u64,
}

/// A request as its file has it.
pub(super) struct Row<'a> {
    pub(super) time: Time<'a>,
    pub(super) account: &'a [u8],
    pub(super) op: &'a [u8],
    /// None without such a column.
    pub(super) process: Option<&'a [u8]>,
}

/// When a request was made, since the epoch or since whenever the trace counts from.
#[derive(Clone, Copy)]
pub(super) enum Time<'a> {
    /// Seconds, or RFC 3339.
    Text(&'a [u8]),
    #[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "only Parquet has such times"))]
    Seconds(f64),
    #[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "only Parquet has such times"))]
    Nanos(i128),
}

/// What was read so far.
pub(super) struct Collected {
    out: BufWriter<NamedTempFile>,
    spread: Spread,
    accounts: HashMap<Box<[u8]>, u32>,
    processes: HashMap<Box<[u8]>, u32>,
    has_process: bool,
    first: Option<i128>,
    last: u64,
    requests: u64,
    seals: u64,
}

impl Collected {
    pub(super) fn new(spread: Spread) -> Result<Self, SimulateError> {
        let file = tempfile::Builder::new().prefix("keystrata-trace-").tempfile();
        let file = file.map_err(SimulateError::io("no temporary file can be made for the trace"))?;
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER, file),
            spread,
            accounts: HashMap::new(),
            processes: HashMap::new(),
            has_process: false,
            first: None,
            last: 0,
            requests: 0,
            seals: 0,
        })
    }

    /// Checks a request and keeps it. `wrong` says where it stands.
    pub(super) fn take(
        &mut self,
        row: &Row<'_>,
        wrong: impl FnOnce(String) -> SimulateError,
    ) -> Result<(), SimulateError> {
        let request = self.check(row).map_err(wrong)?;
        self.requests += 1;
        self.seals += u64::from(request.is_seal);
        let written = self.out.write_all(&entry(request));
        written.map_err(SimulateError::io("the temporary copy of the trace cannot be written"))
    }

    fn check(&mut self, row: &Row<'_>) -> Result<Request, String> {
        let at = self.time(row.time)?;
        let is_seal = match row.op {
            b"seal" => true,
            b"open" => false,
            other => return Err(format!("op `{}`: expected seal or open", shown(other))),
        };
        let account = numbered(&mut self.accounts, row.account, "account", MOST_ACCOUNTS)?;
        let process = match row.process {
            Some(name) => {
                self.has_process = true;
                numbered(&mut self.processes, name, "process", MOST_PROCESSES)?
            }
            None => self.spread.process(account, self.requests),
        };
        Ok(Request { at, process, account, is_seal })
    }

    /// Since the first request.
    fn time(&mut self, time: Time<'_>) -> Result<u64, String> {
        let nanos = time.nanos().ok_or_else(|| {
            format!("time `{time}`: expected seconds like 1764240000.25, or RFC 3339 like 2026-11-27T10:40:00.25Z")
        })?;
        let first = *self.first.get_or_insert(nanos);
        let at = nanos.saturating_sub(first);
        if at < i128::from(self.last) {
            return Err(format!("time `{time}` is before the one above: sort the trace by time"));
        }
        let at = u64::try_from(at).ok().filter(|at| *at <= LONGEST);
        let at = at.ok_or("it is over 31 days after the first request: expected a shorter trace")?;
        self.last = at;
        Ok(at)
    }

    pub(super) fn finish(self, path: &Path) -> Result<Trace, SimulateError> {
        if self.requests == 0 {
            let message = "no request in it: expected one a line or row".into();
            return Err(SimulateError::File { file: path.to_owned(), message });
        }
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error);
        let file = file.map_err(SimulateError::io("the temporary copy of the trace cannot be written"))?;
        let count = |names: &HashMap<Box<[u8]>, u32>| u32::try_from(names.len()).unwrap_or(u32::MAX);
        let processes = if self.has_process { count(&self.processes) } else { self.spread.processes };
        Ok(Trace {
            file,
            path: path.to_owned(),
            requests: self.requests,
            seals: self.seals,
            accounts: count(&self.accounts),
            processes,
            duration: Span::seconds(self.last.div_ceil(SECOND).max(1)),
        })
    }
}

impl Spread {
    fn process(&self, account: u32, request: u64) -> u32 {
        let processes = u64::from(self.processes.max(1));
        let number = match self.routing {
            Routing::Sticky => seed_of(self.seed, "home", account),
            Routing::Any => fast_hash(self.seed ^ request),
        };
        u32::try_from(number % processes).unwrap_or_default()
    }
}

/// Mixes a number well enough to spread requests.
fn fast_hash(number: u64) -> u64 {
    use rand::{Rng, SeedableRng};
    rand::rngs::SmallRng::seed_from_u64(number).next_u64()
}

fn numbered(names: &mut HashMap<Box<[u8]>, u32>, name: &[u8], what: &str, most: usize) -> Result<u32, String> {
    if name.is_empty() {
        return Err(format!("no {what}: expected any text"));
    }
    if let Some(number) = names.get(name) {
        return Ok(*number);
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("{what} `{}…` has {} bytes: expected at most {LONGEST_NAME}", shown(name), name.len()));
    }
    if names.len() == most {
        return Err(format!(
            "more than {most} different {what} names: expected at most that; take a part of the traffic"
        ));
    }
    let number = u32::try_from(names.len()).unwrap_or(u32::MAX);
    names.insert(name.into(), number);
    Ok(number)
}

/// The beginning of a value, on one line.
fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(SHOWN)]).escape_debug().collect()
}

impl Time<'_> {
    fn nanos(self) -> Option<i128> {
        match self {
            Self::Text(text) => parse_time(text),
            // Rounded: as a float, a time of today is good for a quarter of a microsecond.
            #[expect(clippy::cast_possible_truncation, reason = "saturates, and no trace is that long")]
            Self::Seconds(seconds) => seconds.is_finite().then_some((seconds * 1e9).round() as i128),
            Self::Nanos(nanos) => Some(nanos),
        }
    }
}

impl fmt::Display for Time<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&shown(text)),
            Self::Seconds(seconds) => seconds.fmt(f),
            Self::Nanos(nanos) => {
                let second = i128::from(SECOND);
                write!(f, "{}.{:09}", nanos.div_euclid(second), nanos.rem_euclid(second))
            }
        }
    }
}

/// Nanoseconds.
fn parse_time(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_nanosecond());
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let nanos: String = part.chars().chain(std::iter::repeat('0')).take(9).collect();
    let whole: i128 = whole.parse::<u64>().ok()?.into();
    Some(whole * i128::from(SECOND) + nanos.parse::<i128>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_accounts_are_refused_at_the_line_where_they_are() {
        let mut names = HashMap::new();
        for number in 0..3 {
            numbered(&mut names, format!("{number}").as_bytes(), "account", 3).unwrap();
        }
        assert!(numbered(&mut names, b"2", "account", 3).is_ok());
        assert!(numbered(&mut names, b"3", "account", 3).unwrap_err().contains("more than 3 different account names"));
    }
}

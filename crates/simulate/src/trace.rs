//! Traffic that was recorded: read once, checked, and kept in a temporary file from which every policy replays it.

mod collected;
mod csv;
#[cfg(feature = "parquet")]
mod parquet;
mod replay;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

pub(crate) use self::replay::Replay;
use self::{
    collected::{Collected, Spread},
    replay::Failure,
};
use crate::{error::SimulateError, scenario::Traffic, span::Span};

const BUFFER: usize = 1 << 20;
/// What a Parquet file begins with, and one whose columns are encrypted.
const PARQUET: [&[u8]; 2] = [b"PAR1", b"PARE"];

/// A recorded trace that was read and found in order. Holds a temporary file of 16 bytes for each request.
#[derive(Debug)]
pub struct Trace {
    file: NamedTempFile,
    path: PathBuf,
    requests: u64,
    seals: u64,
    accounts: u32,
    processes: u32,
    duration: Span,
}

impl Trace {
    /// Reads the trace at `path`: CSV with a header, or Parquet, with the columns `time`, `account`, `op` and `process`, in
    /// any order and beside any others. It is Parquet if it begins as such a file does or its name ends in `.parquet`.
    ///
    /// `time` is in seconds, with or without decimals, or RFC 3339, and never goes back; in Parquet it may be a timestamp
    /// too. `op` is `seal` or `open`. `account` and `process` are any text, and in Parquet may be whole numbers or bytes.
    /// Without a column `process` the requests are spread over the `processes` of `traffic`, at random or, where its routing
    /// is sticky, by account.
    ///
    /// CSV is read as a stream. Of Parquet, some pages and the dictionary of each of the four columns are in memory: as large
    /// as its writer made them, so a file made to do harm can take all memory that there is.
    ///
    /// # Errors
    /// [`SimulateError`], with the line or row that is wrong; [`SimulateError::NoParquet`] without the cargo feature
    /// `parquet`.
    pub fn read(path: &Path, traffic: &Traffic, has_processes: bool, seed: u64) -> Result<Self, SimulateError> {
        let unreadable = || SimulateError::io(format!("the trace cannot be read from {}", path.display()));
        let mut input = BufReader::with_capacity(BUFFER, File::open(path).map_err(unreadable())?);
        let begin = input.fill_buf().map_err(unreadable())?;
        let begins_so = PARQUET.iter().any(|magic| begin.starts_with(magic));
        let is_parquet = begins_so || path.extension().is_some_and(|name| name.eq_ignore_ascii_case("parquet"));
        let spread = Spread { processes: traffic.processes, routing: traffic.routing, seed };
        let mut collected = Collected::new(spread)?;
        if is_parquet {
            read_parquet(input.into_inner(), path, has_processes, &mut collected)?;
        } else {
            csv::read(input, path, has_processes, &mut collected)?;
        }
        collected.finish(path)
    }

    /// How many requests there are.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The file that it was read from, as it was named.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// What is in it, with the rest as in `like`.
    #[expect(clippy::cast_precision_loss, reason = "averages")]
    pub(crate) fn traffic(&self, like: &Traffic) -> Traffic {
        Traffic {
            duration: self.duration,
            processes: self.processes,
            accounts: self.accounts,
            rate: self.requests as f64 / self.duration.as_seconds(),
            seals: self.seals as f64 / self.requests as f64,
            ..like.clone()
        }
    }

    /// The requests to some of its processes, from the beginning. What goes wrong meanwhile ends them, and is told by the
    /// other part.
    pub(crate) fn replay(&self, processes: &[u32]) -> Result<(Replay, Failure), SimulateError> {
        let file = self.file.reopen().map_err(SimulateError::io("the temporary copy of the trace cannot be read"))?;
        let mut wanted = vec![false; self.processes as usize];
        for process in processes {
            wanted[*process as usize] = true;
        }
        Ok(Replay::new(file, wanted, self.requests))
    }
}

/// Where the columns are.
struct Columns {
    time: usize,
    account: usize,
    op: usize,
    process: Option<usize>,
}

impl Columns {
    /// Among columns of these names, whatever their case.
    fn of(names: &[&[u8]], has_processes: bool) -> Result<Self, String> {
        let find = |name: &str| {
            let mut found = (0..names.len()).filter(|at| names[*at].eq_ignore_ascii_case(name.as_bytes()));
            match (found.next(), found.next()) {
                (Some(_), Some(_)) => Err(format!("two columns `{name}`: expected one; rename or drop the other")),
                (found, _) => Ok(found),
            }
        };
        let need = |name: &str| {
            find(name)?.ok_or_else(|| {
                let there: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
                format!("no column `{name}`: expected time, account, op and process, found `{}`", there.join(","))
            })
        };
        let process = find("process")?;
        if process.is_none() && !has_processes {
            return Err(
                "no column `process`: add one, or say with `processes` over how many to spread the requests".into()
            );
        }
        Ok(Self { time: need("time")?, account: need("account")?, op: need("op")?, process })
    }
}

#[cfg(feature = "parquet")]
use self::parquet::read as read_parquet;

#[cfg(not(feature = "parquet"))]
fn read_parquet(_: File, path: &Path, _: bool, _: &mut Collected) -> Result<(), SimulateError> {
    Err(SimulateError::NoParquet { file: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{draft::Draft, prices::Prices, scenario::Scenario, span::SECOND, traffic::Request};

    fn read(text: &str, settings: &str) -> Result<Trace, SimulateError> {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let draft = Draft::parse(settings).unwrap();
        let scenario = Scenario::new(&draft, &Prices::built_in().unwrap()).unwrap();
        Trace::read(file.path(), &scenario.traffic, draft.processes.is_some(), 1)
    }

    #[test]
    fn a_trace_is_replayed_as_it_was_recorded() {
        let text =
            "op,when,account,process,time\nseal,x,acme,p1,100.5\nopen,x,globex,p2,101\nopen,x,acme,p1,101.000000001\n";
        let trace = read(text, "").unwrap();
        assert_eq!((trace.requests, trace.seals, trace.accounts, trace.processes), (3, 1, 2, 2));
        assert_eq!(trace.duration, Span::seconds(1));
        let (requests, failure) = trace.replay(&[0, 1]).unwrap();
        let requests: Vec<_> = requests.collect();
        let half = SECOND / 2;
        assert_eq!(requests[0], Request { at: 0, process: 0, account: 0, is_seal: true });
        assert_eq!(requests[1], Request { at: half, process: 1, account: 1, is_seal: false });
        assert_eq!(requests[2].at, half + 1);
        assert_eq!((trace.replay(&[1]).unwrap().0.count(), failure.take().is_none()), (1, true));
    }

    #[test]
    fn times_may_be_rfc_3339_and_processes_left_out() {
        let text = "time,account,op\n2026-11-27T10:00:00Z,a,open\n2026-11-27T11:00:01+01:00,b,open\n";
        assert!(read(text, "").unwrap_err().to_string().contains("line 1: no column `process`"));
        let trace = read(text, "processes = 4").unwrap();
        assert_eq!((trace.processes, trace.duration), (4, Span::seconds(1)));
        assert_eq!(trace.replay(&[0, 1, 2, 3]).unwrap().0.count(), 2);
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        let header = "time,account,op,process\n";
        for (text, line, expected) in [
            ("time,account,process\n".to_owned(), "line 1", "no column `op`"),
            ("time,account,op,process,Time\n".to_owned(), "line 1", "two columns `time`"),
            (format!("{header}1,{},open,p\n", "a".repeat(1_025)), "line 2", "1025 bytes: expected at most 1024"),
            (format!("{header}1,a,open,p\n0.5,a,open,p\n"), "line 3", "before the one above"),
            (format!("{header}1,a,read,p\n"), "line 2", "expected seal or open"),
            (format!("{header}1,a,open\n"), "line 2", "3 columns: expected 4"),
            (format!("{header}1,,open,p\n"), "line 2", "no account"),
            (format!("{header}-1,a,open,p\n"), "line 2", "expected seconds"),
            (format!("{header}0,a,open,p\n2678401,a,open,p\n"), "line 3", "31 days"),
            (header.to_owned(), "", "no request"),
            (String::new(), "line 1", "no column"),
        ] {
            let error = read(&text, "").unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(expected), "{error}");
        }
    }
}

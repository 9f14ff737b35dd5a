//! Traffic that was recorded: read once from CSV, checked, and kept in a temporary file from which every policy replays it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tempfile::NamedTempFile;

use crate::{
    draft::Routing,
    error::SimulateError,
    scenario::Traffic,
    span::{SECOND, Span},
    traffic::{Request, seed_of},
};

const MOST_ACCOUNTS: usize = 1_000_000;
const MOST_PROCESSES: usize = 1_000;
const LONGEST: u64 = 31 * 86_400 * SECOND;
/// Time, account, and process with the highest bit for a seal.
const ENTRY: usize = 16;
const SEAL: u32 = 1 << 31;
const BUFFER: usize = 1 << 20;

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

/// Where the columns are.
struct Columns {
    time: usize,
    account: usize,
    op: usize,
    process: Option<usize>,
}

/// Whose requests are whose, where the trace does not say it.
struct Spread {
    processes: u32,
    routing: Routing,
    seed: u64,
}

impl Trace {
    /// Reads the trace at `path`: CSV with a header that names the columns `time`, `account`, `op` and `process`, in any
    /// order and beside any others.
    ///
    /// `time` is in seconds, with or without decimals, or RFC 3339, and never goes back. `op` is `seal` or `open`. `account`
    /// and `process` are any text. Without a column `process` the requests are spread over the `processes` of `traffic`, at
    /// random or, where its routing is sticky, by account.
    ///
    /// # Errors
    /// [`SimulateError`], with the line that is wrong.
    pub fn read(path: &Path, traffic: &Traffic, has_processes: bool, seed: u64) -> Result<Self, SimulateError> {
        let input =
            File::open(path).map_err(SimulateError::io(format!("the trace cannot be read from {}", path.display())))?;
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).buffer_capacity(BUFFER).from_reader(BufReader::new(input));
        let line = |line: u64, message: String| SimulateError::Line { file: path.to_owned(), line, message };
        let header = reader.byte_headers().map_err(|error| line(1, csv_message(&error)))?;
        let columns = Columns::of(header, has_processes).map_err(|message| line(1, message))?;
        let spread = Spread { processes: traffic.processes, routing: traffic.routing, seed };
        let file = tempfile::Builder::new().prefix("keystrata-trace-").tempfile();
        let file = file.map_err(SimulateError::io("no temporary file can be made for the trace"))?;
        let mut collected = Collected::new(BufWriter::with_capacity(BUFFER, file), spread);
        let mut record = csv::ByteRecord::new();
        loop {
            match reader.read_byte_record(&mut record) {
                Ok(false) => break,
                Ok(true) => {}
                Err(error) => {
                    let at = error.position().map_or(0, csv::Position::line);
                    return Err(line(at, csv_message(&error)));
                }
            }
            let at = record.position().map_or(0, csv::Position::line);
            let entry = collected.take(&columns, &record).map_err(|message| line(at, message))?;
            collected
                .out
                .write_all(&entry)
                .map_err(SimulateError::io("the temporary copy of the trace cannot be written"))?;
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
        let failure = Failure::default();
        let reader = BufReader::with_capacity(BUFFER, file);
        Ok((Replay { reader, wanted, left: self.requests, failure: failure.clone() }, failure))
    }
}

impl Columns {
    fn of(header: &csv::ByteRecord, has_processes: bool) -> Result<Self, String> {
        let find = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name.as_bytes()));
        let need = |name: &str| {
            find(name).ok_or_else(|| {
                let there: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
                format!(
                    "no column `{name}`: expected a header with time, account, op and process, found `{}`",
                    there.join(",")
                )
            })
        };
        let process = find("process");
        if process.is_none() && !has_processes {
            return Err(
                "no column `process`: add one, or say with `processes` over how many to spread the requests".into()
            );
        }
        Ok(Self { time: need("time")?, account: need("account")?, op: need("op")?, process })
    }
}

/// What was read so far.
struct Collected {
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
    fn new(out: BufWriter<NamedTempFile>, spread: Spread) -> Self {
        Self {
            out,
            spread,
            accounts: HashMap::new(),
            processes: HashMap::new(),
            has_process: false,
            first: None,
            last: 0,
            requests: 0,
            seals: 0,
        }
    }

    fn take(&mut self, columns: &Columns, record: &csv::ByteRecord) -> Result<[u8; ENTRY], String> {
        let field = |column: usize| record.get(column).unwrap_or_default();
        let at = self.time(field(columns.time))?;
        let is_seal = match field(columns.op) {
            b"seal" => true,
            b"open" => false,
            other => return Err(format!("op `{}`: expected seal or open", String::from_utf8_lossy(other))),
        };
        let account = numbered(&mut self.accounts, field(columns.account), "account", MOST_ACCOUNTS)?;
        let process = match columns.process {
            Some(column) => {
                self.has_process = true;
                numbered(&mut self.processes, field(column), "process", MOST_PROCESSES)?
            }
            None => self.spread.process(account, self.requests),
        };
        self.requests += 1;
        self.seals += u64::from(is_seal);
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&at.to_le_bytes());
        entry[8..12].copy_from_slice(&account.to_le_bytes());
        entry[12..].copy_from_slice(&(process | if is_seal { SEAL } else { 0 }).to_le_bytes());
        Ok(entry)
    }

    /// Since the first request.
    fn time(&mut self, text: &[u8]) -> Result<u64, String> {
        let time = parse_time(text).ok_or_else(|| {
            let text = String::from_utf8_lossy(text);
            format!("time `{text}`: expected seconds like 1764240000.25, or RFC 3339 like 2026-11-27T10:40:00.25Z")
        })?;
        let first = *self.first.get_or_insert(time);
        let at = u64::try_from(time - first).ok().filter(|at| *at >= self.last);
        let Some(at) = at else {
            let text = String::from_utf8_lossy(text);
            return Err(format!("time `{text}` is before that of the line above: sort the trace by time"));
        };
        if at > LONGEST {
            return Err("it is over 31 days after the first request: expected a shorter trace".into());
        }
        self.last = at;
        Ok(at)
    }

    fn finish(self, path: &Path) -> Result<Trace, SimulateError> {
        if self.requests == 0 {
            let message = "no request in it: expected a header and a line for each".into();
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
    if names.len() == most {
        return Err(format!(
            "more than {most} different {what} names: expected at most that; take a part of the traffic"
        ));
    }
    let number = u32::try_from(names.len()).unwrap_or(u32::MAX);
    names.insert(name.into(), number);
    Ok(number)
}

/// Nanoseconds since the epoch, or since whenever the trace counts from.
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

fn csv_message(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} columns: expected {expected_len}, as in the header")
        }
        csv::ErrorKind::Io(error) => format!("it cannot be read: {error}"),
        _ => "not CSV: expected commas between columns and quotes around what holds some".into(),
    }
}

/// Requests from a trace's temporary file.
#[derive(Debug)]
pub(crate) struct Replay {
    reader: BufReader<File>,
    wanted: Vec<bool>,
    left: u64,
    failure: Failure,
}

/// What went wrong while requests were read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    pub(crate) fn take(&self) -> Option<SimulateError> {
        let error = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        error.map(SimulateError::io("the temporary copy of the trace cannot be read"))
    }
}

impl Iterator for Replay {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        let mut entry = [0; ENTRY];
        while self.left > 0 {
            self.left -= 1;
            if let Err(error) = self.reader.read_exact(&mut entry) {
                *self.failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return None;
            }
            let (time, rest) = entry.split_at(8);
            let (account, process) = rest.split_at(4);
            let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
            let (flagged, at) =
                (number(process), time.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
            let (process, is_seal) = (flagged & !SEAL, flagged & SEAL != 0);
            if self.wanted.get(process as usize).copied().unwrap_or_default() {
                return Some(Request { at, process, account: number(account), is_seal });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{draft::Draft, prices::Prices, scenario::Scenario};

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
            (format!("{header}1,a,open,p\n0.5,a,open,p\n"), "line 3", "before that of the line above"),
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

//! `keystrata observe`: an access log as a trace for `keystrata simulate`.

mod line;
mod order;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;
use keystrata_hierarchy::SecretKey;
use keystrata_simulate::Span;
use secrecy::ExposeSecret as _;

use self::{
    line::{Fields, Parser},
    order::Reordered,
};

/// Turn an access log into a trace for `keystrata simulate`
///
/// Reads one request a line and writes CSV with the columns time, account, op and process. Account names are replaced by a
/// hash under a random key that is thrown away, so that a trace can be passed on without telling who the accounts are; how
/// many there are and how much each is used stays in it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata observe --time-field ts --account-field tenant --op-field method --process-field host < access.log > trace.csv
  keystrata observe --format csv --time-field time --account-field customer access.csv --keep-names > trace.csv
  keystrata observe --format logfmt --time-field ts --account-field org --seal write,upload < app.log > trace.csv

Formats:
  json    an object a line; a field inside another is named outer.inner
  csv     a header, then a line for each request
  logfmt  key=value, values with spaces in quotes

A field --op-field that holds one of --seal counts as a seal, one of --open as an open; the line is left out if it holds
neither. Without --op-field all are opens. Lines without the account's field are left out too, and counted on stderr.")]
pub(crate) struct ObserveArgs {
    /// The log; - for stdin
    #[arg(value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// How lines are written
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// The field with the time: RFC 3339, as in Apache's log ([10/Oct/2026:13:55:36 +0200]), or a number of seconds,
    /// milliseconds, microseconds or nanoseconds since 1970
    #[arg(long, value_name = "NAME")]
    time_field: String,
    /// The field with whom the request is for
    #[arg(long, value_name = "NAME")]
    account_field: String,
    /// The field with what is done
    #[arg(long, value_name = "NAME")]
    op_field: Option<String>,
    /// The field with which process did it; without it the trace has no such column, and `simulate` needs --processes
    #[arg(long, value_name = "NAME")]
    process_field: Option<String>,
    /// Values of --op-field that seal something
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "POST,PUT,PATCH,seal,write,create,update")]
    seal: Vec<String>,
    /// Values of --op-field that open something
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "GET,HEAD,open,read,list")]
    open: Vec<String>,
    /// Logs are written when requests end: put those in order that are at most this far apart
    #[arg(long, value_name = "TIME", default_value = "10s")]
    reorder: Span,
    /// Write account names as they are
    #[arg(long)]
    keep_names: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Json,
    Csv,
    Logfmt,
}

/// Reads all of it and writes as it goes.
pub(crate) fn run(args: &ObserveArgs) -> Result<()> {
    let (mut input, name) = open(&args.input)?;
    // Not at once to stdout: a log that is wrong in its middle makes no half of a trace.
    let spool = tempfile::tempfile().context("no temporary file can be made for the trace")?;
    let mut out = csv::Writer::from_writer(BufWriter::with_capacity(1 << 16, spool));
    let mut parser = Parser::new(args.format, &fields(args));
    let names = Names::new(args.keep_names)?;
    let mut reordered = Reordered::new(args.reorder.0);
    let header = ["time", "account", "op", "process"];
    let columns = if args.process_field.is_some() { 4 } else { 3 };
    out.write_record(&header[..columns]).map_err(written)?;
    let (mut text, mut number, mut without, mut kept) = (String::new(), 0_u64, 0_u64, 0_u64);
    loop {
        text.clear();
        number += 1;
        let read = input.read_line(&mut text).map_err(|error| anyhow!("{name}, line {number}: {error}"))?;
        if read == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        let found = parser.parse(text.trim_end()).map_err(|message| anyhow!("{name}, line {number}: {message}"))?;
        let Some(fields) = found else { continue };
        let Some(request) =
            request(args, &fields, &names).map_err(|message| anyhow!("{name}, line {number}: {message}"))?
        else {
            without += 1;
            continue;
        };
        kept += 1;
        let push = reordered.push(request.0, request.1);
        push.map_err(|message| anyhow!("{name}, line {number}: {message}; give a longer --reorder"))?;
        while let Some((time, record)) = reordered.ready() {
            write(&mut out, time, &record, columns)?;
        }
    }
    while let Some((time, record)) = reordered.last() {
        write(&mut out, time, &record, columns)?;
    }
    if kept == 0 {
        bail!(
            "{name}: no request was found in it: {without} lines lack an account, or an operation of --seal or --open"
        );
    }
    let spool = out.into_inner().map_err(csv::IntoInnerError::into_error).and_then(|out| Ok(out.into_inner()?));
    copy_out(spool.context(SPOOL)?)?;
    if without > 0 {
        let _ = writeln!(
            io::stderr(),
            "keystrata: observe: left out {without} lines that lack an account, or an operation of --seal or --open; kept {kept}"
        );
    }
    Ok(())
}

/// What is looked for in each line.
fn fields(args: &ObserveArgs) -> [Option<String>; 4] {
    [Some(args.time_field.clone()), Some(args.account_field.clone()), args.op_field.clone(), args.process_field.clone()]
}

/// The account, the operation and the process of one line.
type Record = [String; 3];

/// `None` if the line is of no request that seals or opens something for an account.
fn request(args: &ObserveArgs, fields: &Fields, names: &Names) -> Result<Option<(i128, Record)>, String> {
    let [time, account, op, process] = fields;
    let time = time.as_deref().ok_or_else(|| format!("no field `{}` with the time", args.time_field))?;
    let time = line::time(time).ok_or_else(|| {
        format!("time `{time}`: expected RFC 3339, Apache's form, or a number of seconds to nanoseconds since 1970")
    })?;
    let Some(account) = account.as_deref().filter(|account| !account.is_empty() && *account != "-") else {
        return Ok(None);
    };
    let is_one_of = |listed: &[String], op: &str| listed.iter().any(|other| other.eq_ignore_ascii_case(op));
    let op = match (&args.op_field, op.as_deref()) {
        (None, _) => "open",
        (Some(_), Some(op)) if is_one_of(&args.seal, op) => "seal",
        (Some(_), Some(op)) if is_one_of(&args.open, op) => "open",
        (Some(_), _) => return Ok(None),
    };
    let process = match (&args.process_field, process) {
        (None, _) => String::new(),
        (Some(_), Some(process)) if !process.is_empty() => process.clone(),
        (Some(name), _) => return Err(format!("no field `{name}` with the process")),
    };
    Ok(Some((time, [names.name(account), op.to_owned(), process])))
}

/// How accounts are called in the trace: as they are, or by a hash under this key. Nobody keeps it, and without it nobody can
/// try out names.
struct Names(Option<SecretKey>);

impl Names {
    fn new(keep: bool) -> Result<Self> {
        if keep {
            return Ok(Self(None));
        }
        Ok(Self(Some(SecretKey::generate().context("no random key can be made for the names of accounts")?)))
    }

    fn name(&self, account: &str) -> String {
        match &self.0 {
            None => account.to_owned(),
            // 64 bits: that any two of a million accounts share a name has a chance of one in 37 million.
            Some(key) => blake3::keyed_hash(key.expose_secret(), account.as_bytes()).to_hex()[..16].to_owned(),
        }
    }
}

fn open(path: &Path) -> Result<(Box<dyn BufRead>, String)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), "stdin".into()));
    }
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("{name} cannot be opened"))?;
    Ok((Box::new(BufReader::with_capacity(1 << 16, file)), name))
}

fn write(out: &mut csv::Writer<impl Write>, time: i128, record: &Record, columns: usize) -> Result<()> {
    let second = 1_000_000_000;
    let time = format!("{}.{:09}", time.div_euclid(second), time.rem_euclid(second));
    let [account, op, process] = record;
    out.write_record(&[&time, account, op, process][..columns]).map_err(written)
}

/// The finished trace to stdout.
fn copy_out(mut spool: File) -> Result<()> {
    spool.rewind().context(SPOOL)?;
    let copied = io::copy(&mut spool, &mut io::stdout().lock()).and_then(|_| io::stdout().flush());
    copied.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => anyhow!("stdout was closed before everything was written"),
        _ => anyhow::Error::new(error).context("stdout cannot be written"),
    })
}

fn written(error: csv::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(SPOOL)
}

const SPOOL: &str = "the temporary file for the trace cannot be written";

//! Traces in Parquet: the same forecast as from CSV, and refusals that say where.
#![cfg(feature = "parquet")]
#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

use std::{fmt::Write as _, io::Write as _, path::Path, sync::Arc};

use keystrata_simulate::{Draft, Prices, Progress, Scenario, SimulateError, Trace, forecast_trace};
use parquet::{
    basic::{Compression, GzipLevel, ZstdLevel},
    data_type::{ByteArrayType, DoubleType, FixedLenByteArrayType, Int32Type, Int64Type, Int96, Int96Type},
    file::{
        properties::{WriterProperties, WriterVersion},
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};
use serde_json::Value;
use tempfile::NamedTempFile;

/// A column of a row group. An optional one has its definition levels beside its values.
enum Column {
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Double(Vec<f64>),
    Text(Vec<String>),
    Uuid(Vec<[u8; 16]>),
    SomeText(Vec<String>, Vec<i16>),
    Lists(Vec<String>, Vec<i16>, Vec<i16>),
}

fn text(values: impl IntoIterator<Item = impl ToString>) -> Column {
    Column::Text(values.into_iter().map(|value| value.to_string()).collect())
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn parquet_with(properties: WriterProperties, columns: &str, groups: Vec<Vec<Column>>) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(&format!("message trace {{ {columns} }}")).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    for group in groups {
        let mut group_writer = writer.next_row_group().unwrap();
        for column in group {
            let mut writer = group_writer.next_column().unwrap().unwrap();
            let bytes = |values: Vec<String>| values.iter().map(|value| value.as_str().into()).collect::<Vec<_>>();
            match column {
                Column::Int32(values) => writer.typed::<Int32Type>().write_batch(&values, None, None),
                Column::Int64(values) => writer.typed::<Int64Type>().write_batch(&values, None, None),
                Column::Int96(values) => writer.typed::<Int96Type>().write_batch(&values, None, None),
                Column::Double(values) => writer.typed::<DoubleType>().write_batch(&values, None, None),
                Column::Text(values) => writer.typed::<ByteArrayType>().write_batch(&bytes(values), None, None),
                Column::Uuid(values) => {
                    let values: Vec<_> = values.iter().map(|value| value.to_vec().into()).collect();
                    writer.typed::<FixedLenByteArrayType>().write_batch(&values, None, None)
                }
                Column::SomeText(values, levels) => {
                    writer.typed::<ByteArrayType>().write_batch(&bytes(values), Some(&levels), None)
                }
                Column::Lists(values, levels, repeats) => {
                    writer.typed::<ByteArrayType>().write_batch(&bytes(values), Some(&levels), Some(&repeats))
                }
            }
            .unwrap();
            writer.close().unwrap();
        }
        group_writer.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn parquet(columns: &str, groups: Vec<Vec<Column>>) -> Vec<u8> {
    parquet_with(WriterProperties::default(), columns, groups)
}

fn read(path: &Path, settings: &str) -> Result<(Scenario, Trace), SimulateError> {
    let draft = Draft::parse(settings).unwrap();
    let scenario = Scenario::new(&draft, &Prices::built_in().unwrap()).unwrap();
    let trace = Trace::read(path, &scenario.traffic, draft.processes.is_some(), scenario.seed)?;
    Ok((scenario, trace))
}

/// All that a forecast says, but for the name of the trace.
fn forecast(path: &Path, ttl: &str) -> Value {
    let (scenario, trace) = read(path, &format!("ttl = [\"{ttl}\"]\njitter = [0.0]\nprovider = \"none\"\n")).unwrap();
    let mut forecast = serde_json::to_value(forecast_trace(&scenario, &trace, &Progress::default()).unwrap()).unwrap();
    assert!(forecast["trace"].take().is_string());
    forecast
}

fn refusal(bytes: &[u8]) -> String {
    let file = file(bytes);
    // The name of a temporary file ends in nothing in particular: what it is is told from its beginning.
    let error = read(file.path(), "").unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error.replace(&file.path().display().to_string(), "FILE")
}

/// A request in each quarter of a second, of three accounts at two processes.
const ROWS: usize = 20;
const FIRST: i64 = 1_764_240_000;

fn quarter(row: usize) -> i64 {
    i64::try_from(row).unwrap() * 250_000
}

fn ops(rows: usize) -> Column {
    text((0..rows).map(|row| if row % 5 == 0 { "seal" } else { "open" }))
}

fn names(prefix: &str, many: usize) -> Column {
    text((0..ROWS).map(|row| format!("{prefix}-{}", row % many)))
}

fn csv() -> NamedTempFile {
    let mut csv = String::from("time,account,op,process\n");
    for row in 0..ROWS {
        let (op, micros) = (if row % 5 == 0 { "seal" } else { "open" }, quarter(row));
        let (second, micro) = (FIRST + micros / 1_000_000, micros % 1_000_000);
        writeln!(csv, "{second}.{micro:06},tenant-{},{op},web-{}", row % 3, row % 2).unwrap();
    }
    file(csv.as_bytes())
}

#[test]
fn times_and_names_of_every_kind_make_the_forecast_that_csv_makes() {
    let expected = forecast(csv().path(), "1s");
    assert_eq!(expected["policies"][0]["operations"], ROWS);
    let micros = |row| FIRST * 1_000_000 + quarter(row);
    let whole = |scale: fn(i64) -> i64| Column::Int64((0..ROWS).map(|row| scale(micros(row))).collect());
    let clock = |row: usize| {
        let (second, centi) = (quarter(row) / 1_000_000, quarter(row) % 1_000_000 / 10_000);
        format!("2025-11-27T10:40:{second:02}.{centi:02}Z")
    };
    let days = |row: usize| {
        let nanos = u64::try_from((38_400_000_000 + quarter(row)) * 1_000).unwrap(); // since midnight
        let [low, high] = [nanos & 0xffff_ffff, nanos >> 32].map(|half| u32::try_from(half).unwrap());
        Int96::from(vec![low, high, 2_440_588 + 20_419])
    };
    for (kind, times) in [
        ("int64 time (TIMESTAMP(MILLIS,true))", whole(|micros| micros / 1_000)),
        ("int64 time (TIMESTAMP(MICROS,false))", whole(|micros| micros)),
        ("int64 time (TIMESTAMP(NANOS,true))", whole(|micros| micros * 1_000)),
        ("int64 time (TIMESTAMP_MILLIS)", whole(|micros| micros / 1_000)),
        ("int64 time (TIMESTAMP_MICROS)", whole(|micros| micros)),
        ("int64 time (DECIMAL(18,6))", whole(|micros| micros)),
        ("int64 time (DECIMAL(18,12))", Column::Int64((0..ROWS).map(|row| quarter(row) * 1_000_000).collect())),
        ("int32 time (DECIMAL(9,2))", Column::Int32((0..25).take(ROWS).map(|row| row * 25).collect())),
        ("int96 time", Column::Int96((0..ROWS).map(days).collect())),
        ("double time", Column::Double((0..25).take(ROWS).map(|row| 1_764_240_000.0 + f64::from(row) / 4.0).collect())),
        ("binary time (UTF8)", text((0..ROWS).map(clock))),
        ("binary time", text((0..25).take(ROWS).map(|row| f64::from(row) / 4.0))),
    ] {
        let columns = format!(
            "required {kind}; required binary account (STRING); required binary op (ENUM); required binary process (UTF8);"
        );
        let trace = file(&parquet(&columns, vec![vec![times, names("tenant", 3), ops(ROWS), names("web", 2)]]));
        assert_eq!(forecast(trace.path(), "1s"), expected, "{kind}");
    }
    let numbers = |many| (0..ROWS).map(move |row| i32::try_from(row % many).unwrap());
    let columns = "required int32 process (INTEGER(8,false)); required binary OP; required int64 time (TIMESTAMP_MICROS); \
                   required fixed_len_byte_array(16) Account (UUID);";
    let accounts = numbers(3).map(|number| [u8::try_from(number).unwrap() + 200; 16]).collect();
    let group = vec![Column::Int32(numbers(2).collect()), ops(ROWS), whole(|micros| micros), Column::Uuid(accounts)];
    assert_eq!(forecast(file(&parquet(columns, vec![group])).path(), "1s"), expected);
}

const PLAIN: &str = "required int64 time; required binary account (UTF8); required binary op (UTF8); \
                     required binary process (UTF8);";

/// More rows than are read at once, in several row groups.
#[test]
fn long_traces_of_any_codec_make_the_forecast_that_csv_makes() {
    const LONG: usize = 20_000;
    let mut csv = String::from("time,account,op,process\n");
    for row in 0..LONG {
        let op = if row % 5 == 0 { "seal" } else { "open" };
        writeln!(csv, "{},tenant-{},{op},web-{}", row / 100, row % 97, row % 3).unwrap();
    }
    let expected = forecast(file(csv.as_bytes()).path(), "1m");
    let columns = |from: usize, until: usize| {
        let rows = || from..until;
        let times = rows().map(|row| i64::try_from(row / 100).unwrap()).collect();
        let op = |row: usize| if row.is_multiple_of(5) { "seal" } else { "open" };
        let names = |prefix: &'static str, many| text(rows().map(move |row| format!("{prefix}-{}", row % many)));
        vec![Column::Int64(times), names("tenant", 97), text(rows().map(op)), names("web", 3)]
    };
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
    ] {
        for (version, has_dictionary) in [(WriterVersion::PARQUET_1_0, true), (WriterVersion::PARQUET_2_0, false)] {
            let properties = WriterProperties::builder().set_compression(codec).set_writer_version(version);
            let properties = properties.set_dictionary_enabled(has_dictionary).set_data_page_size_limit(5_000).build();
            let groups = vec![columns(0, 9_000), columns(9_000, 9_001), columns(9_001, LONG)];
            let trace = file(&parquet_with(properties, PLAIN, groups));
            assert_eq!(forecast(trace.path(), "1m"), expected, "{codec:?}");
        }
    }
}

/// Written by `pyarrow` 26.0.1 with its defaults: three row groups, columns that may be empty, and one more than a trace has.
#[test]
fn a_file_of_another_writer_is_read() {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    assert_eq!(forecast(&traces.join("pyarrow.parquet"), "1s"), forecast(csv().path(), "1s"));
    let error = read(&traces.join("brotli.parquet"), "").unwrap_err().to_string();
    assert!(error.contains("brotli.parquet: compressed with BROTLI: expected none, SNAPPY"), "{error}");
}

#[test]
fn processes_may_be_left_out() {
    let columns = "required int64 time; required binary account; required binary op;";
    let trace = parquet(columns, vec![vec![Column::Int64((0..20).collect()), names("tenant", 3), ops(ROWS)]]);
    assert!(refusal(&trace).contains("FILE: no column `process`: add one"));
    let (_, trace) = read(file(&trace).path(), "processes = 4").unwrap();
    assert_eq!(trace.requests(), 20);
}

#[test]
fn columns_that_will_not_do_are_named() {
    let column = |kind: &str| format!("{PLAIN} {kind}").replacen("required int64 time;", "", 1);
    for (columns, expected) in [
        (
            PLAIN.replace("op", "method"),
            "no column `op`: expected time, account, op and process, found `time,account,method,",
        ),
        (column("required int32 time (DATE);"), "column `time` is INT32 (Date): expected a timestamp, seconds"),
        (column("required int64 time (TIME(MICROS,true));"), "column `time` is INT64 (Time"),
        (column("required float time;"), "column `time` is FLOAT: expected"),
        (column("required boolean time;"), "column `time` is BOOLEAN: expected"),
        (column("required fixed_len_byte_array(8) time (DECIMAL(18,6));"), "column `time` is FIXED_LEN_BYTE_ARRAY"),
        (column("required group time { required int64 seconds; }"), "column `time` is made of others"),
        (PLAIN.replace("binary op (UTF8)", "boolean op"), "column `op` is BOOLEAN: expected text or whole numbers"),
        (PLAIN.replace("binary account (UTF8)", "double account"), "column `account` is DOUBLE: expected text"),
        (PLAIN.replace("required binary account", "repeated binary account"), "column `account` is made of others"),
        (PLAIN.to_owned(), "no request in it"),
    ] {
        let message = refusal(&parquet(&columns, Vec::new()));
        assert!(message.starts_with(&format!("FILE: {expected}")), "{message}");
    }
}

#[test]
fn a_row_that_is_wrong_is_named() {
    let row = |times: Vec<i64>, account: Column, op: &[&str]| {
        let process = text(times.iter().map(|_| "p"));
        vec![Column::Int64(times), account, text(op), process]
    };
    let good = || row(vec![1, 2], text(["a", "b"]), &["open", "seal"]);
    for (second, expected) in [
        (row(vec![1], text(["a"]), &["open"]), "row 3: time `1.000000000` is before the one above"),
        (row(vec![3], text(["a"]), &["read"]), "row 3: op `read`: expected seal or open"),
        (row(vec![3, 4], text(["a", ""]), &["open", "open"]), "row 4: no account: expected any text"),
        (row(vec![3, i64::MAX], text(["a", "a"]), &["open", "open"]), "row 4: it is over 31 days after the first"),
        (row(vec![i64::MIN], text(["a"]), &["open"]), "row 3: time `-9223372036854775808.000000000` is before"),
    ] {
        let message = refusal(&parquet(PLAIN, vec![good(), second]));
        assert!(message.contains(&format!("FILE, {expected}")), "{message}");
    }
    let optional = PLAIN.replace("required binary account", "optional binary account");
    let three = Column::SomeText(vec!["a".into(), "b".into(), "b".into()], vec![1, 1, 0, 1]);
    let trace = parquet(&optional, vec![row(vec![1, 2, 3, 4], three, &["open"; 4])]);
    assert!(refusal(&trace).contains("FILE, row 3: no account: expected a value in each row"));
    let floats = |times: Vec<f64>| {
        let rest = [text(["a"; 2]), text(["open"; 2]), text(["p"; 2])];
        let columns = PLAIN.replace("int64 time", "double time");
        refusal(&parquet(&columns, vec![std::iter::once(Column::Double(times)).chain(rest).collect()]))
    };
    assert!(floats(vec![1.0, f64::NAN]).contains("row 2: time `NaN`: expected seconds"));
    assert!(floats(vec![1.0, 1e300]).contains("row 2: it is over 31 days"));
    assert!(floats(vec![1.0, 0.5]).contains("row 2: time `0.5` is before the one above"));
    let lists = Column::Lists(vec!["a".into(), "b".into()], vec![1, 1], vec![0, 1]);
    let repeated = PLAIN.replace("required binary account", "repeated binary account");
    let trace = parquet(&repeated, vec![row(vec![1], lists, &["open"])]);
    assert!(refusal(&trace).contains("column `account` is made of others"));
}

#[test]
fn a_file_that_is_cut_off_or_something_else_is_refused() {
    let whole = parquet(PLAIN, vec![vec![Column::Int64((0..20).collect()), names("t", 3), ops(ROWS), names("w", 2)]]);
    for len in 4..whole.len() {
        assert!(refusal(&whole[..len]).starts_with("FILE: it cannot be read as Parquet: "));
    }
    let named = |bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.PARQUET");
        std::fs::write(&path, bytes).unwrap();
        read(&path, "").unwrap_err().to_string()
    };
    for other in [&b""[..], b"time,account,op,process\n1,a,open,p\n"] {
        assert!(named(other).contains("trace.PARQUET: it cannot be read as Parquet: "));
    }
}

/// Whatever is damaged, there is a trace or a refusal: no panic, and nothing that never ends.
#[test]
fn a_damaged_file_is_read_or_refused() {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let group = vec![Column::Int64((0..20).collect()), names("t", 3), ops(ROWS), names("w", 2)];
    let snappy = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces/pyarrow.parquet")).unwrap();
    for whole in [parquet_with(properties, PLAIN, vec![group]), snappy] {
        let damaged = NamedTempFile::new().unwrap();
        let mut refused = 0;
        for at in 0..whole.len() {
            for flip in [0x01, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                std::fs::write(damaged.path(), bytes).unwrap();
                refused += usize::from(read(damaged.path(), "").is_err());
            }
        }
        assert!(refused > whole.len() / 2, "{refused} of {}", whole.len() * 2);
    }
}

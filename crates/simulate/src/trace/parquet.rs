//! Traces in Parquet, some thousand rows at a time.

mod column;

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use parquet::{
    basic::CompressionCodec,
    errors::ParquetError,
    file::{
        reader::{FileReader, RowGroupReader},
        serialized_reader::SerializedFileReader,
    },
    schema::types::SchemaDescriptor,
};

use self::column::{BatchError, Column, Kind};
use super::{
    Columns,
    collected::{Collected, Row},
};
use crate::error::SimulateError;

/// How many rows are decoded at once.
const BATCH: usize = 8_192;
/// Those that the library was built with.
const CODECS: [CompressionCodec; 6] = [
    CompressionCodec::UNCOMPRESSED,
    CompressionCodec::SNAPPY,
    CompressionCodec::GZIP,
    CompressionCodec::ZSTD,
    CompressionCodec::LZ4,
    CompressionCodec::LZ4_RAW,
];

/// The columns of a trace, each of a kind that will do.
struct Kinds {
    columns: Columns,
    time: Kind,
    account: Kind,
    op: Kind,
    process: Option<Kind>,
}

/// Reads all of `input`.
pub(super) fn read(
    input: File,
    path: &Path,
    has_processes: bool,
    collected: &mut Collected,
) -> Result<(), SimulateError> {
    // The library has assertions that damaged files fail. What was collected until then is not used.
    let read = AssertUnwindSafe(|| read_groups(input, path, has_processes, collected));
    catch_unwind(read).unwrap_or_else(|_| {
        let message = "it cannot be read as Parquet: it is damaged".into();
        Err(SimulateError::File { file: path.to_owned(), message })
    })
}

fn read_groups(input: File, path: &Path, has_processes: bool, collected: &mut Collected) -> Result<(), SimulateError> {
    let file = |message: String| SimulateError::File { file: path.to_owned(), message };
    let reader = SerializedFileReader::new(input).map_err(|error| file(unreadable(&error)))?;
    let kinds = Kinds::of(reader.metadata().file_metadata().schema_descr(), has_processes).map_err(file)?;
    let mut row = 0;
    for number in 0..reader.num_row_groups() {
        let group = reader.get_row_group(number).map_err(|error| file(unreadable(&error)))?;
        read_group(&*group, &kinds, path, collected, &mut row)?;
    }
    // A part of the traffic would make a forecast too, and nobody would notice.
    let said = reader.metadata().file_metadata().num_rows();
    if u64::try_from(said) != Ok(row) {
        return Err(file(format!("it has {row} rows and says {said}: it is damaged")));
    }
    Ok(())
}

/// Reads one part of the file. `row` is how many rows there were before it, and then with it.
fn read_group(
    group: &dyn RowGroupReader,
    kinds: &Kinds,
    path: &Path,
    collected: &mut Collected,
    row: &mut u64,
) -> Result<(), SimulateError> {
    let file = |message: String| SimulateError::File { file: path.to_owned(), message };
    let wrong = |row: u64, message: String| SimulateError::Row { file: path.to_owned(), row, message };
    let columns = &kinds.columns;
    let rows = group.metadata().num_rows();
    let open = |at: usize, kind: Kind| {
        let codec = group.metadata().column(at).compression_codec();
        if !CODECS.contains(&codec) {
            return Err(file(format!("compressed with {codec:?}: expected none, SNAPPY, GZIP, ZSTD or LZ4")));
        }
        let values = group.metadata().column(at).num_values();
        if values != rows {
            return Err(file(format!("a part of it has {rows} rows and {values} values in a column: it is damaged")));
        }
        let reader = group.get_column_reader(at).map_err(|error| file(unreadable(&error)))?;
        Ok(Column::new(reader, kind))
    };
    let mut time = open(columns.time, kinds.time)?;
    let mut account = open(columns.account, kinds.account)?;
    let mut op = open(columns.op, kinds.op)?;
    let mut process = columns.process.zip(kinds.process).map(|(at, kind)| open(at, kind)).transpose()?;
    let mut left = usize::try_from(rows).map_err(|_| file(format!("a part of it has {rows} rows: it is damaged")))?;
    while left > 0 {
        let size = left.min(BATCH);
        let before = *row;
        let read = |name: &str, column: &mut Column| {
            column.read(size).map_err(|error| match error {
                BatchError::Null(at) => {
                    wrong(before + at as u64 + 1, format!("no {name}: expected a value in each row"))
                }
                BatchError::Ends => file(format!("column `{name}` ends before the others: the file is damaged")),
                BatchError::Parquet(error) => file(unreadable(&error)),
            })
        };
        let (times, accounts, ops) = (read("time", &mut time)?, read("account", &mut account)?, read("op", &mut op)?);
        let processes = process.as_mut().map(|process| read("process", process)).transpose()?;
        for at in 0..size {
            *row += 1;
            let (account, op) = (accounts.text(at), ops.text(at));
            let process = processes.as_ref().map(|processes| processes.text(at));
            let request = Row { time: times.time(at), account: &account, op: &op, process: process.as_deref() };
            collected.take(&request, |message| wrong(*row, message))?;
        }
        left -= size;
    }
    Ok(())
}

impl Kinds {
    fn of(schema: &SchemaDescriptor, has_processes: bool) -> Result<Self, String> {
        let leaves = schema.columns();
        // A column of columns has several leaves, all under its own name.
        let names: Vec<&[u8]> =
            leaves.iter().map(|leaf| leaf.path().parts().first().map_or(&b""[..], |name| name.as_bytes())).collect();
        let columns = Columns::of(&names, has_processes)?;
        let (time, account) = (Kind::of_time(&leaves[columns.time])?, Kind::of_text(&leaves[columns.account])?);
        let (op, process) = (Kind::of_text(&leaves[columns.op])?, columns.process.map(|at| Kind::of_text(&leaves[at])));
        Ok(Self { columns, time, account, op, process: process.transpose()? })
    }
}

/// What is wrong with the file, in one line.
fn unreadable(error: &ParquetError) -> String {
    format!("it cannot be read as Parquet: {}", error.to_string().replace(['\n', '\r'], " "))
}

//! Traces in CSV.

use std::{io::Read, path::Path};

use csv::{ByteRecord, Position, ReaderBuilder, Trim};

use super::{
    BUFFER, Columns,
    collected::{Collected, Row, Time},
};
use crate::error::SimulateError;

/// Reads all of `input`, which has a header.
pub(super) fn read(
    input: impl Read,
    path: &Path,
    has_processes: bool,
    collected: &mut Collected,
) -> Result<(), SimulateError> {
    let mut reader = ReaderBuilder::new().trim(Trim::All).buffer_capacity(BUFFER).from_reader(input);
    let line = |line: u64, message: String| SimulateError::Line { file: path.to_owned(), line, message };
    let header = reader.byte_headers().map_err(|error| line(1, csv_message(&error)))?;
    let names: Vec<&[u8]> = header.iter().collect();
    let columns = Columns::of(&names, has_processes).map_err(|message| line(1, message))?;
    let mut record = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => {
                let at = error.position().map_or(0, Position::line);
                return Err(line(at, csv_message(&error)));
            }
        }
        let field = |column: usize| record.get(column).unwrap_or_default();
        let row = Row {
            time: Time::Text(field(columns.time)),
            account: field(columns.account),
            op: field(columns.op),
            process: columns.process.map(field),
        };
        collected.take(&row, |message| line(record.position().map_or(0, Position::line), message))?;
    }
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

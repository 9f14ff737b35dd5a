//! A column of a trace: what kinds of values will do, and how they are read.

use std::borrow::Cow;

use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit, Type},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{AsBytes, ByteArray, DataType, FixedLenByteArray, Int96},
    errors::ParquetError,
    schema::types::ColumnDescriptor,
};

use crate::trace::collected::Time;

/// What the numbers of a column stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// So many nanoseconds each; or nothing, in a name.
    Whole(i64),
    /// So many are a nanosecond.
    Fine(i64),
    /// Nothing, and they have no sign.
    Unsigned,
    /// There are none: text, other bytes, or what says itself what it is.
    Plain,
}

const SECOND: i64 = 1_000_000_000;
const JULIAN_DAY_OF_EPOCH: i128 = 2_440_588;
const NANOS_OF_A_DAY: i128 = 86_400 * SECOND as i128;

impl Kind {
    /// The kind of a column of times.
    pub(super) fn of_time(column: &ColumnDescriptor) -> Result<Self, String> {
        use LogicalType as Is;
        let expected = "expected a timestamp, seconds as a number or text, or RFC 3339";
        is_flat(column)?;
        let converted = column.converted_type();
        match (column.physical_type(), column.logical_type_ref()) {
            (Type::INT64, Some(Is::Timestamp(timestamp))) => Ok(match timestamp.unit {
                TimeUnit::MILLIS => Self::Whole(1_000_000),
                TimeUnit::MICROS => Self::Whole(1_000),
                TimeUnit::NANOS => Self::Whole(1),
            }),
            (Type::INT64, None) if converted == ConvertedType::TIMESTAMP_MILLIS => Ok(Self::Whole(1_000_000)),
            (Type::INT64, None) if converted == ConvertedType::TIMESTAMP_MICROS => Ok(Self::Whole(1_000)),
            (Type::INT32 | Type::INT64, _) if is_decimal(column) => {
                decimal(column.type_scale()).ok_or_else(|| is_of_type(column, expected))
            }
            (Type::INT32 | Type::INT64, Some(Is::Integer(_))) => Ok(Self::Whole(SECOND)),
            (Type::INT32 | Type::INT64, None) if is_number(converted) => Ok(Self::Whole(SECOND)),
            (Type::INT96 | Type::DOUBLE, None) | (Type::BYTE_ARRAY, None | Some(Is::String)) => Ok(Self::Plain),
            _ => Err(is_of_type(column, expected)),
        }
    }

    /// The kind of a column of names.
    pub(super) fn of_text(column: &ColumnDescriptor) -> Result<Self, String> {
        is_flat(column)?;
        match (column.physical_type(), column.logical_type_ref()) {
            (Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY, _) if !is_decimal(column) => Ok(Self::Plain),
            (Type::INT32 | Type::INT64, Some(LogicalType::Integer(integer))) if !integer.is_signed => {
                Ok(Self::Unsigned)
            }
            (Type::INT32 | Type::INT64, Some(LogicalType::Integer(_))) => Ok(Self::Whole(1)),
            (Type::INT32 | Type::INT64, None) if is_number(column.converted_type()) => Ok(Self::Whole(1)),
            _ => Err(is_of_type(column, "expected text or whole numbers")),
        }
    }
}

/// One value in each row, and not a list or a part of a structure.
fn is_flat(column: &ColumnDescriptor) -> Result<(), String> {
    let parts = column.path().parts();
    if parts.len() == 1 && column.max_rep_level() == 0 {
        return Ok(());
    }
    Err(format!("column `{}` is made of others: expected one value in each row", parts[0]))
}

fn is_decimal(column: &ColumnDescriptor) -> bool {
    column.converted_type() == ConvertedType::DECIMAL
        || matches!(column.logical_type_ref(), Some(LogicalType::Decimal(_)))
}

/// Whether numbers of this type, as old writers say it, count nothing in particular.
fn is_number(converted: ConvertedType) -> bool {
    use ConvertedType as Was;
    !matches!(converted, Was::DATE | Was::TIME_MILLIS | Was::TIME_MICROS | Was::INTERVAL)
}

/// Seconds with so many decimals.
fn decimal(scale: i32) -> Option<Kind> {
    match u32::try_from(scale).ok()? {
        scale @ 0..=9 => Some(Kind::Whole(10_i64.pow(9 - scale))),
        scale @ 10..=18 => Some(Kind::Fine(10_i64.pow(scale - 9))),
        _ => None,
    }
}

fn is_of_type(column: &ColumnDescriptor, expected: &str) -> String {
    let physical = column.physical_type();
    let meaning = match (column.logical_type_ref(), column.converted_type()) {
        (Some(logical), _) => format!(" ({logical:?})"),
        (None, ConvertedType::NONE) => String::new(),
        (None, converted) => format!(" ({converted})"),
    };
    format!("column `{}` is {physical}{meaning}: {expected}", column.name())
}

/// A column of one row group.
pub(super) struct Column {
    reader: ColumnReader,
    kind: Kind,
    levels: Vec<i16>,
}

/// The values of a column in some rows.
pub(super) struct Values {
    values: Decoded,
    kind: Kind,
}

enum Decoded {
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    FixedBytes(Vec<FixedLenByteArray>),
}

/// Why rows could not be read.
pub(super) enum BatchError {
    /// There is nothing in this one of them, counted from 0.
    Null(usize),
    /// There are fewer than the file says.
    Ends,
    Parquet(ParquetError),
}

impl Column {
    pub(super) fn new(reader: ColumnReader, kind: Kind) -> Self {
        Self { reader, kind, levels: Vec::new() }
    }

    /// The next `rows` values.
    pub(super) fn read(&mut self, rows: usize) -> Result<Values, BatchError> {
        let levels = &mut self.levels;
        let values = match &mut self.reader {
            ColumnReader::Int32ColumnReader(reader) => Decoded::Int32(read(reader, rows, levels)?),
            ColumnReader::Int64ColumnReader(reader) => Decoded::Int64(read(reader, rows, levels)?),
            ColumnReader::Int96ColumnReader(reader) => Decoded::Int96(read(reader, rows, levels)?),
            ColumnReader::DoubleColumnReader(reader) => Decoded::Double(read(reader, rows, levels)?),
            ColumnReader::ByteArrayColumnReader(reader) => Decoded::Bytes(read(reader, rows, levels)?),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => Decoded::FixedBytes(read(reader, rows, levels)?),
            ColumnReader::BoolColumnReader(_) | ColumnReader::FloatColumnReader(_) => return Err(BatchError::Ends),
        };
        Ok(Values { values, kind: self.kind })
    }
}

fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    levels: &mut Vec<i16>,
) -> Result<Vec<T::T>, BatchError> {
    let mut values = Vec::with_capacity(rows);
    levels.clear();
    let (records, present, _) =
        reader.read_records(rows, Some(levels), None, &mut values).map_err(BatchError::Parquet)?;
    if present < records {
        return Err(BatchError::Null(levels.iter().position(|level| *level == 0).unwrap_or_default()));
    }
    if records < rows || values.len() < rows {
        return Err(BatchError::Ends);
    }
    Ok(values)
}

impl Values {
    /// The time in a row, of a column of times.
    pub(super) fn time(&self, row: usize) -> Time<'_> {
        match &self.values {
            Decoded::Bytes(values) => Time::Text(values[row].data()),
            Decoded::FixedBytes(values) => Time::Text(values[row].data()),
            Decoded::Double(values) => Time::Seconds(values[row]),
            Decoded::Int96(values) => Time::Nanos(nanos(values[row])),
            Decoded::Int32(values) => self.scaled(values[row].into()),
            Decoded::Int64(values) => self.scaled(values[row]),
        }
    }

    fn scaled(&self, value: i64) -> Time<'static> {
        let value = i128::from(value);
        Time::Nanos(match self.kind {
            Kind::Whole(nanos) => value * i128::from(nanos),
            Kind::Fine(parts) => value / i128::from(parts),
            Kind::Unsigned | Kind::Plain => value,
        })
    }

    /// The name in a row.
    pub(super) fn text(&self, row: usize) -> Cow<'_, [u8]> {
        match (&self.values, self.kind) {
            (Decoded::Bytes(values), _) => Cow::Borrowed(values[row].data()),
            (Decoded::FixedBytes(values), _) => Cow::Borrowed(values[row].data()),
            (Decoded::Int32(values), Kind::Unsigned) => written(&values[row].cast_unsigned()),
            (Decoded::Int64(values), Kind::Unsigned) => written(&values[row].cast_unsigned()),
            (Decoded::Int32(values), _) => written(&values[row]),
            (Decoded::Int64(values), _) => written(&values[row]),
            (Decoded::Int96(values), _) => Cow::Borrowed(values[row].as_bytes()),
            (Decoded::Double(values), _) => Cow::Borrowed(values[row].as_bytes()),
        }
    }
}

fn written(number: &impl ToString) -> Cow<'static, [u8]> {
    Cow::Owned(number.to_string().into_bytes())
}

/// What the library's own conversion would wrap around: the years are not bounded.
fn nanos(time: Int96) -> i128 {
    let [low, high, day] = time.data() else { return 0 };
    let since_midnight = i128::from(*high) << 32 | i128::from(*low);
    (i128::from(day.cast_signed()) - JULIAN_DAY_OF_EPOCH) * NANOS_OF_A_DAY + since_midnight
}

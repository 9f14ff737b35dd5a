//! One line of a log: its fields by their names.

use jiff::{Timestamp, fmt::strtime};
use serde_json::Value;

use super::Format;

/// The time, the account, the operation and the process, as far as they are there.
pub(super) type Fields = [Option<String>; 4];

/// Finds fields in lines.
pub(super) struct Parser {
    format: Format,
    names: [Option<String>; 4],
    /// Of CSV: where they are, once the header was read.
    columns: Option<[Option<usize>; 4]>,
}

impl Parser {
    pub(super) fn new(format: Format, names: &[Option<String>; 4]) -> Self {
        Self { format, names: names.clone(), columns: None }
    }

    /// `None` for a line that is no request: the header.
    pub(super) fn parse(&mut self, line: &str) -> Result<Option<Fields>, String> {
        match self.format {
            Format::Json => self.json(line).map(Some),
            Format::Csv => self.csv(line),
            Format::Logfmt => self.logfmt(line).map(Some),
        }
    }

    fn json(&self, line: &str) -> Result<Fields, String> {
        let value: Value = serde_json::from_str(line).map_err(|_| "expected a JSON object a line".to_owned())?;
        let find = |name: &String| {
            // A name with dots may be one field's, too.
            let inner = || name.split('.').try_fold(&value, |value, part| value.get(part));
            match value.get(name).or_else(inner)? {
                Value::String(text) => Some(text.clone()),
                Value::Null => None,
                other => Some(other.to_string()),
            }
        };
        Ok(self.names.each_ref().map(|name| name.as_ref().and_then(find)))
    }

    fn csv(&mut self, line: &str) -> Result<Option<Fields>, String> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(line.as_bytes());
        let mut record = csv::StringRecord::new();
        let read = reader.read_record(&mut record).map_err(|error| error.to_string())?;
        if !read {
            return Err("expected a line of CSV".into());
        }
        let Some(columns) = &self.columns else {
            let mut columns = [None; 4];
            for (column, name) in columns.iter_mut().zip(&self.names) {
                let Some(name) = name else { continue };
                let found = record.iter().position(|header| header == name);
                *column = Some(found.ok_or_else(|| {
                    format!("no column `{name}` in the header `{}`", record.iter().collect::<Vec<_>>().join(","))
                })?);
            }
            self.columns = Some(columns);
            return Ok(None);
        };
        Ok(Some(columns.map(|column| column.and_then(|column| record.get(column)).map(str::to_owned))))
    }

    fn logfmt(&self, line: &str) -> Result<Fields, String> {
        let mut fields = Fields::default();
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let end = rest.find(['=', ' ']).unwrap_or(rest.len());
            let key = &rest[..end];
            rest = &rest[end..];
            let mut value = String::new();
            if let Some(after) = rest.strip_prefix('=') {
                rest = if let Some(quoted) = after.strip_prefix('"') {
                    unquoted(quoted, &mut value)?
                } else {
                    let end = after.find(' ').unwrap_or(after.len());
                    value.push_str(&after[..end]);
                    &after[end..]
                };
            }
            for (field, name) in fields.iter_mut().zip(&self.names) {
                if name.as_deref() == Some(key) {
                    *field = Some(value.clone());
                }
            }
            rest = rest.trim_start();
        }
        Ok(fields)
    }
}

/// What stands before the closing quote goes into `value`; what follows it comes back.
fn unquoted<'a>(text: &'a str, value: &mut String) -> Result<&'a str, String> {
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok(&text[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            letter => value.push(letter),
        }
    }
    Err("a quote is not closed".into())
}

/// Nanoseconds since 1970. Of bare numbers the size tells the unit.
pub(super) fn time(text: &str) -> Option<i128> {
    const SECOND: i128 = 1_000_000_000;
    let text = text.trim().trim_start_matches('[').trim_end_matches(']');
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_nanosecond());
    }
    if let Ok(apache) = strtime::parse("%d/%b/%Y:%H:%M:%S %z", text)
        && let Ok(time) = apache.to_timestamp()
    {
        return Some(time.as_nanosecond());
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i128 = whole.parse::<u64>().ok()?.into();
    // Seconds until the year 5138, and so on.
    let units = [(11, SECOND), (14, SECOND / 1_000), (17, SECOND / 1_000_000)];
    let unit = units.into_iter().find(|(digits, _)| whole < 10_i128.pow(*digits)).map_or(1, |(_, unit)| unit);
    let digits: String = part.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some(whole * unit + digits.parse::<i128>().ok()? * unit / SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(time: &str) -> [Option<String>; 4] {
        [time, "who", "op", "host"].map(|name| Some(name.to_owned()))
    }

    fn expected(fields: [&str; 4]) -> Fields {
        fields.map(|field| (!field.is_empty()).then(|| field.to_owned()))
    }

    #[test]
    fn fields_are_found_in_every_format() {
        let mut json = Parser::new(Format::Json, &names("t.s"));
        let found = json.parse(r#"{"t": {"s": 12.5}, "who": "a b", "op": null, "host": "h"}"#).unwrap().unwrap();
        assert_eq!(found, expected(["12.5", "a b", "", "h"]));
        assert!(json.parse("no").unwrap_err().contains("JSON"));
        let mut csv = Parser::new(Format::Csv, &names("t"));
        assert_eq!(csv.parse("op,who,host,t").unwrap(), None);
        assert_eq!(csv.parse("GET,\"a,b\",h,3").unwrap().unwrap(), expected(["3", "a,b", "GET", "h"]));
        assert!(Parser::new(Format::Csv, &names("t")).parse("a,b").unwrap_err().contains("no column `t`"));
        let mut logfmt = Parser::new(Format::Logfmt, &names("t"));
        let found = logfmt.parse(r#"level=info t=3 who="a \"b\" c" flag op=GET"#).unwrap().unwrap();
        assert_eq!(found, expected(["3", "a \"b\" c", "GET", ""]));
        assert!(logfmt.parse(r#"who="a"#).unwrap_err().contains("quote"));
    }

    #[test]
    fn times_are_read_in_every_form() {
        let second = 1_791_633_336_000_000_000;
        for text in [
            "2026-10-10T11:55:36Z",
            "[10/Oct/2026:13:55:36 +0200]",
            "1791633336",
            "1791633336000",
            "1791633336000000000",
        ] {
            assert_eq!(time(text), Some(second), "{text}");
        }
        assert_eq!(time("1791633336.25"), Some(second + 250_000_000));
        for wrong in ["", "noon", "-5", "1.5.2", "10/Oct/2026"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}

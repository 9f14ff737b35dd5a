//! Numbers as people read them.

/// Up to three digits, with a letter for thousands and millions.
pub(super) fn number(value: f64) -> String {
    let (value, letter) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " bn"),
        size if size >= 1e6 => (value / 1e6, " m"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    format!("{}{letter}", short(value))
}

pub(super) fn money(value: f64) -> String {
    if value >= 10_000.0 { format!("${}", number(value)) } else { format!("${}", short(value)) }
}

pub(super) fn seconds(value: f64) -> String {
    match value {
        s if s >= 172_800.0 => format!("{} days", short(s / 86_400.0)),
        s if s >= 7_200.0 => format!("{} h", short(s / 3_600.0)),
        s if s >= 60.0 => format!("{} min", short(s / 60.0)),
        s if s >= 1.0 || s == 0.0 => format!("{} s", short(s)),
        s => millis(s * 1_000.0),
    }
}

pub(super) fn millis(value: f64) -> String {
    match value {
        ms if ms >= 1_000.0 => seconds(ms / 1_000.0),
        ms if ms >= 1.0 || ms == 0.0 => format!("{} ms", short(ms)),
        ms => format!("{} µs", short(ms * 1_000.0)),
    }
}

pub(super) fn percent(part: f64) -> String {
    let percent = part * 100.0;
    // What is missing to the whole is what counts.
    if percent > 99.0 && percent < 100.0 { format!("{percent:.2} %") } else { format!("{} %", short(percent)) }
}

fn short(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        0.0 => 0,
        size if size >= 0.001 => 4,
        _ => 6,
    };
    let text = format!("{value:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { grouped(&text) };
    if text == "-0" { "0".into() } else { text }
}

fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let mut text = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A whole number, as it is.
pub(super) fn count(value: u64) -> String {
    grouped(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_at_any_size() {
        let shown = [0.0, 0.07, 0.5, 9.0, 133.4, 5_500.0, 86_400_000.0].map(number);
        assert_eq!(shown, ["0", "0.07", "0.5", "9", "133", "5,500", "86.4 m"]);
        assert_eq!([0.52, 7_776.0, 12_345.6].map(money), ["$0.52", "$7,776", "$12.3 k"]);
        assert_eq!([0.25, 30.0, 300.0, 86_400.0].map(seconds), ["250 ms", "30 s", "5 min", "24 h"]);
        assert_eq!([0.5, 12.0, 60_000.0].map(millis), ["500 µs", "12 ms", "1 min"]);
        assert_eq!((percent(0.9931), count(1_234_567)), ("99.31 %".into(), "1,234,567".into()));
    }
}

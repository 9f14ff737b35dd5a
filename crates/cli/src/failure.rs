//! A failure is one line on stderr: what, why, and what to do.

use std::io::Write;

use anyhow::{Error, anyhow};
use keystrata_hierarchy::EnvelopeError;

/// What a command that ran to its end came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Done,
    /// It found something that somebody has to look after.
    Findings,
}

/// The exit status for [`Outcome::Findings`]: 1 is a failure, and clap exits with 2.
pub(crate) const FINDINGS: u8 = 3;

/// Writes `keystrata: <command>: <error and its causes>`.
pub(crate) fn report(command: &str, error: &Error) {
    let line = one_line(&format!("keystrata: {command}: {error:#}"));
    // Nobody is left to tell if stderr is closed; the status still says it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What an envelope is not, with what to do where the library, which does not know of a command, cannot say it.
pub(crate) fn of_envelope(error: EnvelopeError) -> Error {
    match error {
        EnvelopeError::Empty | EnvelopeError::NotAnEnvelope => anyhow!("{error}; give what `keystrata seal` wrote"),
        _ => error.into(),
    }
}

/// `text` with line breaks and other control characters escaped, as file names and names from outside may hold some.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_break_the_line_or_move_the_cursor() {
        assert_eq!(one_line("a\nb\r\x1b[2Jc größe"), "a\\nb\\r\\u{1b}[2Jc größe");
    }
}

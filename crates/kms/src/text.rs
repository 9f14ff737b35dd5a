//! Words of others in messages of ours: on one line, bounded, and without what is not text.

use std::{error::Error, fmt, sync::Arc};

use keystrata_hierarchy::Cause;

/// Most characters that are kept of what somebody else said: their first sentences, not their page.
const MAX_CHARS: usize = 300;

/// `text` on one line, without control characters, cut after 300 characters.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.chars().nth(MAX_CHARS).is_some() {
            let mut line: String = line.chars().take(MAX_CHARS).collect();
            line.push('…');
            return line;
        }
    }
    line
}

/// An error and what caused it, on one line. The same words twice in a row, as wrappers repeat them, are given once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut parts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !part.is_empty() && parts.last() != Some(&part) {
            parts.push(part);
        }
        next = error.source();
    }
    one_line(&parts.join(": "))
}

/// What a client or service said, as text: its own types are not kept, since their `Debug` may show a whole answer.
#[derive(Debug)]
pub(crate) struct Said(String);

impl Said {
    pub(crate) fn cause(text: &str) -> Cause {
        Arc::new(Self(one_line(text)))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Said {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_stay_on_one_bounded_line() {
        assert_eq!(one_line(" a\r\n\tb\u{1b}[2Jc\0 größe "), "a b [2Jc größe");
        assert_eq!(one_line(&"ö".repeat(1 << 20)).chars().count(), MAX_CHARS + 1);
        assert_eq!(one_line(&"word ".repeat(1000)).chars().count(), MAX_CHARS + 1);
    }

    #[test]
    fn a_chain_names_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(&'static str, #[source] Option<Box<Layer>>);
        let error = Layer("outer", Some(Box::new(Layer("inner\n", Some(Box::new(Layer("inner\n", None)))))));
        assert_eq!(chain(&error), "outer: inner");
    }
}

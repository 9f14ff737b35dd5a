//! What was found wrong, or could not be done, among very many accounts.

use std::collections::BTreeMap;

use keystrata_hierarchy::KeyPath;
use serde_json::{Value, json};

use crate::{account::segments, failure};

/// The first few things of each kind, and the number of all: there may be a million.
pub(crate) struct Examples {
    most: usize,
    pub(crate) kinds: BTreeMap<&'static str, usize>,
    kept: Vec<Example>,
}

pub(crate) struct Example {
    pub(crate) path: KeyPath,
    pub(crate) kek_id: Option<String>,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl Examples {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, kinds: BTreeMap::new(), kept: Vec::new() }
    }

    pub(crate) fn add(&mut self, example: Example) {
        let count = self.kinds.entry(example.kind).or_default();
        *count += 1;
        if *count <= self.most {
            self.kept.push(example);
        }
    }

    pub(crate) fn text(&self) -> String {
        let line = |example: &Example| {
            let kek = example.kek_id.as_ref().map_or_else(String::new, |id| format!(", KEK {id}"));
            failure::one_line(&format!("{:26}account {}{kek}: {}", example.kind, example.path, example.message)) + "\n"
        };
        self.kept.iter().map(line).collect()
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        let entry = |example: &Example| {
            json!({
                "account": segments(&example.path),
                "kek_id": example.kek_id,
                "kind": example.kind,
                "message": example.message,
            })
        };
        self.kept.iter().map(entry).collect()
    }

    /// `3 unknown-root, 1 no-primary`.
    pub(crate) fn counts(&self) -> String {
        let counts: Vec<_> = self.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        counts.join(", ")
    }
}

/// An error and its causes, as one text.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some errors print as their cause does.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

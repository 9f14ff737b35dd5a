//! Raw memory is touched in one crate only, and every other crate has the compiler forbid it.

use anyhow::{Context, Result};

use super::{Findings, TextFile};
use crate::workspace::Workspace;

/// The crate that may.
const EXEMPT: &str = "keystrata-memory";
/// Its folder.
const EXEMPT_FOLDER: &str = "crates/memory";
/// The word, in two parts so that this file does not find itself.
const WORD: &str = concat!("un", "safe");

pub(super) fn check(workspace: &Workspace, files: &[TextFile]) -> Result<Findings> {
    let mut findings = Findings::new();
    for package in workspace.members().filter(|package| package.name != EXEMPT) {
        let roots =
            package.targets.iter().filter(|target| ["lib", "bin", "proc-macro"].contains(&target.kind.as_str()));
        for root in roots {
            let path = workspace.relative(&root.source);
            let text = std::fs::read_to_string(&root.source).with_context(|| format!("read {path}"))?;
            if !forbids(&text) {
                findings.push(format!("{path}: a crate's root begins with #![forbid({WORD}_code)]"));
            }
        }
    }
    for file in files.iter().filter(|file| is_rust(file) && !file.path.starts_with(EXEMPT_FOLDER)) {
        findings.extend(lines_with_the_word(&file.text).map(|number| {
            format!("{}:{number}: the word `{WORD}` stands in {EXEMPT_FOLDER} only", file.path.display())
        }));
    }
    Ok(findings)
}

fn is_rust(file: &TextFile) -> bool {
    file.path.extension().is_some_and(|extension| extension == "rs")
}

fn forbids(root: &str) -> bool {
    let attribute = format!("#![forbid({WORD}_code)]");
    root.lines().any(|line| line == attribute)
}

/// Numbers of the lines that hold the word by itself: `…_code` is another one.
fn lines_with_the_word(text: &str) -> impl Iterator<Item = usize> {
    let has_word = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == WORD);
    text.lines().enumerate().filter(move |(_, line)| has_word(line)).map(|(index, _)| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_must_forbid_and_not_merely_deny_or_mention() {
        assert!(forbids(&format!("//! Docs.\n#![forbid({WORD}_code)]\n")));
        assert!(!forbids(&format!("#![deny({WORD}_code)]\n")));
        assert!(!forbids(&format!("// #![forbid({WORD}_code)]\n")));
        assert!(!forbids(""));
    }

    #[test]
    fn the_word_is_found_wherever_it_stands_alone() {
        let text = format!("fn f() {{\n    {WORD} {{ g() }}\n}}\n{WORD} fn g() {{}}\n#[allow({WORD}_code)]\n");
        assert_eq!(lines_with_the_word(&text).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(lines_with_the_word(&format!("({WORD})")).count(), 1);
        assert_eq!(lines_with_the_word(&format!("{WORD}ly not_{WORD}")).count(), 0);
    }
}

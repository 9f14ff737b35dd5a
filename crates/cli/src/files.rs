//! The same to many files: each for itself, some at a time, and told of at the end.

use std::{
    collections::HashSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use keystrata_hierarchy::KeyPath;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    account::segments,
    failure::{self, Outcome},
    output, progress,
};

/// What became of the files, in the order in which they were named.
pub(crate) struct FileReport {
    files: Vec<(PathBuf, Result<bool>)>,
}

/// Runs `work`, which says whether it changed the file, for each of `files`, `at_once` at a time. One that is named twice is worked on
/// once.
pub(crate) async fn each<F, Fut>(files: &[PathBuf], at_once: usize, what: &'static str, work: F) -> Result<FileReport>
where
    F: Fn(PathBuf) -> Fut,
    Fut: Future<Output = Result<bool>> + Send + 'static,
{
    let mut known = HashSet::new();
    let is_new = |file: &&PathBuf| known.insert(fs::canonicalize(file).unwrap_or_else(|_| PathBuf::clone(file)));
    let mut left = files.iter().filter(is_new).cloned().enumerate();
    let bar = progress::over_files(files.len(), what);
    let (mut under_way, mut done) = (JoinSet::new(), Vec::new());
    loop {
        while under_way.len() < at_once {
            let Some((nth, file)) = left.next() else { break };
            let work = work(file.clone());
            under_way.spawn(async move { (nth, file, work.await) });
        }
        let Some(ended) = under_way.join_next().await else { break };
        done.push(ended.context("the work on a file was cut off: run this again")?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    done.sort_by_key(|(nth, ..)| *nth);
    Ok(FileReport { files: done.into_iter().map(|(_, file, became)| (file, became)).collect() })
}

/// Refuses what is no file, such as a pipe, which could be waited for for ever.
pub(crate) fn refuse_special(path: &Path) -> Result<()> {
    let about = fs::metadata(path).context("it cannot be found")?;
    if about.is_file() { Ok(()) } else { bail!("it is not a regular file") }
}

/// What blocks the thread, on one where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the work on a file was cut off: run this again")?
}

impl FileReport {
    fn count(&self, is_it: impl Fn(&Result<bool>) -> bool) -> usize {
        self.files.iter().filter(|(_, became)| is_it(became)).count()
    }

    /// Tells it on stdout, with `more` in the JSON; `changed` and `unchanged` are the words for people.
    pub(crate) fn tell(&self, path: &KeyPath, json: bool, changed: &str, more: &[(&str, Value)]) -> Result<Outcome> {
        let failed = self.count(Result::is_err);
        let (done, unchanged) =
            (self.count(|became| matches!(became, Ok(true))), self.count(|became| matches!(became, Ok(false))));
        if json {
            let files: Vec<_> = self.files.iter().map(|(file, became)| entry(file, became)).collect();
            let mut facts = json!({
                "account": segments(path), "changed": done, "unchanged": unchanged, "failed": failed, "files": files,
            });
            for (key, value) in more {
                facts[*key] = value.clone();
            }
            output::print_json(&facts)?;
        } else {
            let mut text = String::new();
            for (file, became) in &self.files {
                let line = match became {
                    Ok(true) => format!("{changed:10} {}", file.display()),
                    Ok(false) => format!("unchanged  {}", file.display()),
                    Err(error) => format!("failed     {}: {error:#}", file.display()),
                };
                writeln!(text, "{}", failure::one_line(&line))?;
            }
            writeln!(text, "{} file(s): {done} {changed}, {unchanged} unchanged, {failed} failed", self.files.len())?;
            output::print(&text)?;
        }
        Ok(if failed == 0 { Outcome::Done } else { Outcome::Findings })
    }
}

fn entry(file: &Path, became: &Result<bool>) -> Value {
    let (outcome, error) = match became {
        Ok(true) => ("changed", None),
        Ok(false) => ("unchanged", None),
        Err(error) => ("failed", Some(failure::one_line(&format!("{error:#}")))),
    };
    json!({ "file": file.display().to_string(), "outcome": outcome, "error": error })
}

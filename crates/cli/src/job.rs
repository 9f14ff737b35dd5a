//! A job over all accounts: with a bar where a person looks, and a checkpoint where one is asked for.

mod checkpoint;

use anyhow::{Error, Result, anyhow};
use keystrata_hierarchy::{
    KeyError, LifecycleError,
    jobs::{Progress, Tally, Task},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use self::checkpoint::CheckpointFile;
use crate::{
    args::JobArgs,
    failure::Outcome,
    findings::{Example, Examples, chain},
    keys::Opened,
    kms, progress,
};

/// What a job came to.
pub(crate) struct JobReport {
    pub(crate) tally: Tally,
    pub(crate) examples: Examples,
    kms: Option<(u64, Option<f64>)>,
}

impl JobReport {
    pub(crate) fn new(tally: Tally, examples: Examples, opened: &Opened) -> Self {
        Self { tally, examples, kms: kms::calls(opened.roots.in_kms()) }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        if self.tally.failed == 0 { Outcome::Done } else { Outcome::Findings }
    }

    /// What all jobs have in common.
    pub(crate) fn json(&self, is_dry: bool) -> Value {
        let Tally { accounts, changed, unchanged, failed, .. } = self.tally;
        json!({
            "dry_run": is_dry, "accounts": accounts, "changed": changed, "unchanged": unchanged, "failed": failed,
            "examples": self.examples.json(),
            "kms": self.kms.map(|(calls, usd)| json!({ "calls": calls, "estimated_usd": usd })),
        })
    }
}

/// Runs `task` over the store. Stops where nothing more can be done for the time being, so that it can be gone on with later;
/// an account's own failure is an example in the report.
pub(crate) async fn run(opened: &Opened, task: Task, args: &JobArgs, what: &'static str) -> Result<JobReport> {
    let file = args.checkpoint.as_deref().map(CheckpointFile::new).transpose()?;
    let is_of_all = !matches!(task, Task::Reroot { under: Some(_), .. });
    let mut job = opened.keys.job(task).at_once(args.at_once);
    if args.dry_run {
        job = job.dry_run();
    }
    let mut before = Tally::default();
    if let Some(checkpoint) = file.as_ref().map(CheckpointFile::load).transpose()?.flatten() {
        before = checkpoint.tally();
        job = job.resume(checkpoint);
    }
    let bar = if is_of_all { progress::over_accounts(&opened.store, what).await? } else { progress::counting(what) };
    bar.set_position(before.accounts);
    let mut examples = Examples::new(args.examples);
    let (stop, mut stopped) = oneshot::channel();
    let mut stop = Some(stop);
    let report = |progress: &Progress<'_>| {
        if stop.is_none() {
            return;
        }
        bar.set_position(progress.tally.accounts);
        let problem = match out_of_reach(progress, before) {
            Some(error) => Err(gone_on_with(error, file.as_ref())),
            None => file.as_ref().map_or(Ok(()), |file| file.save(progress.checkpoint)),
        };
        before = progress.tally;
        for (path, error) in progress.failed {
            examples.add(Example { path: path.clone(), kek_id: None, kind: "failed", message: chain(error) });
        }
        if let Err(error) = problem
            && let Some(stop) = stop.take()
        {
            let _ = stop.send(error);
        }
    };
    let done = tokio::select! {
        biased;
        error = &mut stopped => Err(error.unwrap_or_else(|_| anyhow!("the job ended without a word"))),
        done = job.run(report) => match stopped.try_recv() {
            Ok(error) => Err(error), // it was the last batch
            Err(_) => done.map_err(Error::from),
        },
    };
    bar.finish_and_clear();
    let tally = done?;
    if let Some(file) = file {
        file.remove()?;
    }
    Ok(JobReport::new(tally, examples, opened))
}

/// Why a whole batch could not be worked on: the KMS or the store is not there, or the KMS denies all of it. To go on would fail every
/// account that is left, and pass over them.
fn out_of_reach<'a>(progress: &Progress<'a>, before: Tally) -> Option<&'a KeyError> {
    let is_stuck = progress.tally.changed == before.changed;
    let have_all_failed = is_stuck && progress.tally.unchanged == before.unchanged;
    progress.failed.iter().find_map(|(_, error)| match error {
        LifecycleError::Key(error) if is_stuck && error.is_retryable() => Some(error),
        LifecycleError::Key(error @ KeyError::Denied(_)) if have_all_failed => Some(error),
        _ => None,
    })
}

fn gone_on_with(error: &KeyError, file: Option<&CheckpointFile>) -> Error {
    let from = if file.is_some() { "it goes on from its last checkpoint" } else { "what is done costs a read" };
    Error::new(error.clone()).context(format!("the job was stopped; run it again when the cause is gone, {from}"))
}

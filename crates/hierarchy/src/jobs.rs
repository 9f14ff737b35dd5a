//! Jobs over all accounts of a store: reroot them, or rotate what is old.
//!
//! A job is a walk. Where it is, is a [`Checkpoint`], a line of text to be kept by whoever runs it; what it has done stands
//! in the records themselves. So a job that was killed anywhere goes on from its last checkpoint, or from the beginning,
//! and does nothing twice: an account that is as it is to be costs a read.
//!
//! It runs in the background as far as a budget tells calls apart, a few accounts at a time and in constant memory, and
//! keeps no KEK in the cache that is not in use.
//!
//! Rewrapping envelopes is not among the jobs here, since the engine does not know where they are: see
//! [`Account::rewrap_each`](crate::Account::rewrap_each).

mod account;
mod checkpoint;
mod walk;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use keystrata_primitives::KeyPath;
use tokio::task::JoinSet;

pub use self::checkpoint::{Checkpoint, CheckpointError};
use self::walk::{Found, Walk};
use crate::{
    engine::{Owner, audited::Actor},
    error::KeyError,
    lifecycle::{LifecycleError, Reroot},
    store::WrapperQuery,
};

/// Accounts between two checkpoints.
const BATCH: usize = 256;

/// What is to be done to every account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Task {
    /// Bring the wraps of its KEKs to what the topology says now: see [`Account::reroot`](crate::Account::reroot).
    Reroot {
        /// Which of the two steps.
        step: Reroot,
        /// Only accounts that have a KEK wrapped by this: a root key that is to be given up, or a parent after its rotation.
        /// `None`: all accounts.
        under: Option<WrapperQuery>,
    },
    /// Make a new primary for each account whose primary is at least so old. Accounts that do not seal are passed over.
    RotateOlderThan(Duration),
}

/// What a job has done so far, or would have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Accounts that were looked at, shredded ones not.
    pub accounts: u64,
    /// Accounts that were changed.
    pub changed: u64,
    /// Accounts that were as they are to be.
    pub unchanged: u64,
    /// Accounts that could not be changed, or not all of them.
    pub failed: u64,
    /// Wraps that were added.
    pub added: u64,
    /// Wraps that were dropped.
    pub dropped: u64,
}

/// How far a job is.
#[derive(Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// Since the job was first begun, interruptions included.
    pub tally: Tally,
    /// Accounts that failed since the last report.
    pub failed: &'a [(KeyPath, LifecycleError)],
    /// From where it can be taken up. Keep it after whatever the report leads to.
    pub checkpoint: &'a Checkpoint,
}

/// Why a job did not come to its end. What it did until then is done; take it up from the last checkpoint.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The checkpoint is not one of this job.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The accounts could not be listed, or the hierarchy was closed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A job to be run. Made by [`Hierarchy::job`](crate::Hierarchy::job).
#[derive(Debug)]
#[must_use = "a job does nothing until `run`"]
pub struct Job {
    engine: Arc<Owner>,
    actor: Actor,
    task: Task,
    at_once: NonZeroUsize,
    is_dry: bool,
    from: Option<Checkpoint>,
}

impl Job {
    pub(crate) fn new(engine: Arc<Owner>, actor: Actor, task: Task) -> Self {
        let at_once = NonZeroUsize::MIN.saturating_add(15);
        Self { engine, actor, task, at_once, is_dry: false, from: None }
    }

    /// How many accounts are worked on at a time. Default: 16. More helps where calls take long and the budget allows them.
    pub fn at_once(mut self, accounts: NonZeroUsize) -> Self {
        self.at_once = accounts;
        self
    }

    /// Counts what would be done: no call, and nothing is written.
    pub fn dry_run(mut self) -> Self {
        self.is_dry = true;
        self
    }

    /// Takes the job up where an earlier one was. Its accounts before that are not looked at again, nor are those that
    /// failed: begin anew for these.
    pub fn resume(mut self, checkpoint: Checkpoint) -> Self {
        self.from = Some(checkpoint);
        self
    }

    /// Runs it, and reports after every 256 accounts and at the end.
    ///
    /// An account that fails stops nobody; neither does one that is there no more when its turn comes. An account that comes
    /// into the store behind the job's back is not seen by it: its KEK is as the topology of its maker says.
    ///
    /// # Errors
    /// [`JobError::Checkpoint`] before anything is done, for a checkpoint of another job, of another store or of a release
    /// that this one does not know; [`JobError::Key`] if the store cannot be listed.
    ///
    /// # Cancellation
    /// Dropping the future is safe at any point. Accounts that are worked on in that moment are finished in the background.
    pub async fn run(self, mut report: impl FnMut(&Progress<'_>)) -> Result<Tally, JobError> {
        let Self { engine, actor, task, at_once, is_dry, from } = self;
        engine.refuse_if_closed()?;
        let runtime = engine.runtime()?;
        let store = Arc::clone(engine.store());
        let mut checkpoint = match from {
            Some(checkpoint) => checkpoint.checked(&task, is_dry, &*store).await?,
            None => Checkpoint::first(task.clone(), is_dry),
        };
        let mut walk = Walk::new(store, &task, checkpoint.place());
        loop {
            let (found, is_end) = walk.next_batch(BATCH).await.map_err(|error| KeyError::from_store(error, None))?;
            let (mut tally, mut failed) = (checkpoint.tally(), Vec::new());
            let (mut under_way, mut found) = (JoinSet::new(), found.into_iter());
            loop {
                while under_way.len() < at_once.get() {
                    let Some(Found { path, head }) = found.next() else { break };
                    let (engine, actor, task) = (Arc::clone(&**engine), Arc::clone(&actor), task.clone());
                    let work = async move {
                        let became = match head {
                            Ok(head) => engine.work_on(&path, head, &task, is_dry, &actor).await,
                            Err(error) => Err(error.into()),
                        };
                        (path, became)
                    };
                    under_way.spawn_on(work, &runtime);
                }
                let Some(done) = under_way.join_next().await else { break };
                let (path, became) = done.map_err(|_| KeyError::Interrupted)?;
                if let Err(error) = tally.count(became) {
                    tracing::warn!(%error, "a job goes on without an account that failed");
                    failed.push((path, error));
                }
            }
            checkpoint.move_on(walk.place(), tally, &**engine.store()).await;
            report(&Progress { tally, failed: &failed, checkpoint: &checkpoint });
            if is_end {
                return Ok(tally);
            }
        }
    }
}

impl Tally {
    fn count(&mut self, became: Result<account::Done, LifecycleError>) -> Result<(), LifecycleError> {
        let done = match became {
            Ok(account::Done { is_gone: true, .. }) => return Ok(()),
            Ok(done) => done,
            Err(error) => {
                self.accounts += 1;
                self.failed += 1;
                return Err(error);
            }
        };
        self.accounts += 1;
        self.added += done.added;
        self.dropped += done.dropped;
        if done.is_changed {
            self.changed += 1;
        } else {
            self.unchanged += 1;
        }
        Ok(())
    }
}

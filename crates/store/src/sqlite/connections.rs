//! The connections of one process, and the way from an async task to one of them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keystrata_hierarchy::StoreError;
use keystrata_memory::ProcessLocal;
use rusqlite::Connection;
use tokio::{runtime::Handle, sync::Semaphore, task::JoinError};

use super::{
    backup::{self, SqliteBackup},
    error::{self, Failure},
    ledger, schema,
};
use crate::Migration;

/// Reads at once. Each takes tens of microseconds and none waits for the writer, so more would only hold more files.
const READERS: usize = 4;

/// Who may share a connection: writers wait for each other in line here, not by SQLite's polling.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    Readers,
    Writer,
}

#[derive(Debug)]
pub(super) struct Connections {
    path: PathBuf,
    /// A forked child must not touch its parent's connections, nor wait for turns that its parent's threads have.
    pool: ProcessLocal<Pool>,
}

struct Pool {
    readers: Turns,
    writer: Turns,
}

/// Connections not in use, and the right to take one or to open one more.
struct Turns {
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Link>>,
}

/// An open connection.
struct Link {
    // Before the entry: dropped, and so closed, first.
    db: Connection,
    file: FileId,
    _entry: ledger::Entry,
}

impl Connections {
    /// Opens nothing yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, pool: ProcessLocal::new(|| Pool { readers: Turns::new(READERS), writer: Turns::new(1) }) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes or checks the file, off the async threads.
    pub(super) async fn prepare(self: &Arc<Self>, if_missing: schema::IfMissing) -> Result<(), StoreError> {
        let connections = Arc::clone(self);
        off_thread(move || {
            let _entry = ledger::enter().ok_or_else(|| error::forked(&connections.path))?;
            schema::prepare(&connections.path, if_missing).map_err(|e| e.into_store_error(&connections.path))
        })
        .await
    }

    /// What the next call does to the file, off the async threads.
    pub(super) async fn plan(self) -> Result<Migration, StoreError> {
        off_thread(move || {
            let _entry = ledger::enter().ok_or_else(|| error::forked(&self.path))?;
            schema::plan(&self.path).map_err(|failure| failure.into_store_error(&self.path))
        })
        .await
    }

    /// Copies the file as it is, off the async threads.
    pub(super) async fn back_up(self, to: PathBuf) -> Result<SqliteBackup, StoreError> {
        off_thread(move || {
            // Two connections: the file and its copy.
            let _entries = ledger::enter().zip(ledger::enter()).ok_or_else(|| error::forked(&self.path))?;
            backup::back_up(&self.path, &to).map_err(|failure| failure.into_store_error(&self.path))
        })
        .await
    }

    /// Runs `job` on a connection of `lane`, off the async threads. Once it has its turn it runs to its end, even if
    /// the caller has gone.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        lane: Lane,
        job: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let free = Arc::clone(&self.turns(lane).free);
        let turn = free.acquire_owned().await.expect("this semaphore is never closed");
        let connections = Arc::clone(self);
        off_thread(move || {
            let _turn = turn;
            connections.run_now(lane, job)
        })
        .await
    }

    fn run_now<T>(&self, lane: Lane, job: impl FnOnce(&mut Connection) -> Result<T, Failure>) -> Result<T, StoreError> {
        let turns = self.turns(lane);
        let idle = turns.idle().pop();
        let mut link = self.current(idle)?;
        // A connection that failed is closed, not kept: what is wrong with it may not pass.
        let answer = job(&mut link.db).map_err(|failure| failure.into_store_error(&self.path))?;
        turns.idle().push(link);
        Ok(answer)
    }

    /// `idle` if it is open on the file that is at the path now; else a fresh connection.
    fn current(&self, idle: Option<Link>) -> Result<Link, StoreError> {
        let file = FileId::of(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => error::missing(&self.path),
            _ => error::from_io(&self.path, source),
        })?;
        match idle {
            Some(link) if link.file == file => Ok(link),
            _ => {
                let entry = ledger::enter().ok_or_else(|| error::forked(&self.path))?;
                let db = schema::connect(&self.path).map_err(|failure| failure.into_store_error(&self.path))?;
                Ok(Link { db, file, _entry: entry })
            }
        }
    }

    fn turns(&self, lane: Lane) -> &Turns {
        let pool = self.pool.get();
        match lane {
            Lane::Readers => &pool.readers,
            Lane::Writer => &pool.writer,
        }
    }

    /// Runs `change` on the connection that the writer has idle.
    #[cfg(test)]
    pub(super) fn change_writer(&self, change: impl FnOnce(&Connection)) {
        change(&self.turns(Lane::Writer).idle().last().expect("a creation came before").db);
    }
}

impl Turns {
    fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), idle: Mutex::new(Vec::with_capacity(count)) }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Link>> {
        // Held for a push or a pop only.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which file a path leads to: a connection stays with its file when the path is given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    #[cfg(unix)]
    device_and_inode: (u64, u64),
}

impl FileId {
    /// Asks by name: to open the file and close it again would release SQLite's locks on it.
    fn of(path: &Path) -> io::Result<Self> {
        #[cfg_attr(not(unix), allow(unused_variables))] // asked all the same: the file must exist
        let metadata = fs::metadata(path)?;
        Ok(Self {
            #[cfg(unix)]
            device_and_inode: {
                use std::os::unix::fs::MetadataExt;
                (metadata.dev(), metadata.ino())
            },
        })
    }
}

async fn off_thread<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let runtime = Handle::try_current()
        .map_err(|error| StoreError::unavailable("the SQLite store is used from a tokio runtime alone", error))?;
    runtime.spawn_blocking(job).await.unwrap_or_else(|error| Err(unfinished(error)))
}

fn unfinished(error: JoinError) -> StoreError {
    StoreError::unavailable("a call was given up, since it panicked or its tokio runtime shuts down: try again", error)
}

//! A copy of the file, of one moment, while it is in use.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use keystrata_hierarchy::StoreError;
use rusqlite::{
    Connection,
    backup::{Backup, StepResult},
    ffi,
};

use super::{
    error::{self, Failure, shown},
    schema,
};

/// Writes the database in `file` to `target`, which must not be there, under a name of its own until it is whole.
pub(super) fn back_up(file: &Path, target: &Path) -> Result<SqliteBackup, Failure> {
    let failed = |error| Failure::from(error::from_io(target, error));
    // A link that leads nowhere is something too.
    if fs::symlink_metadata(target).is_ok() {
        return Err(exists(target));
    }
    let (source, _) = schema::connect_unmigrated(file)?;
    let folder = target.parent().unwrap_or(Path::new("/"));
    let unfinished =
        tempfile::Builder::new().prefix(".keystrata-").tempfile_in(folder).map_err(failed)?.into_temp_path();
    copy(&source, &unfinished)?;
    let accounts = verify(&unfinished).map_err(|failure| failure.into_store_error(target))?;
    let bytes = fs::metadata(&unfinished).map_err(failed)?.len();
    match unfinished.persist_noclobber(target) {
        Ok(()) => schema::sync_folder(folder).map_err(failed)?,
        Err(taken) if taken.error.kind() == std::io::ErrorKind::AlreadyExists => return Err(exists(target)),
        Err(other) => return Err(failed(other.error)),
    }
    Ok(SqliteBackup { bytes, accounts })
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteBackup {
    /// Bytes of the file.
    pub bytes: u64,
    /// Accounts in it, shredded ones included.
    pub accounts: u64,
}

/// In one step: the copy is of one moment, and others go on reading and writing beside it.
fn copy(source: &Connection, file: &Path) -> Result<(), Failure> {
    let mut target = schema::open(file)?;
    let (backup, deadline) = (Backup::new(source, &mut target)?, Instant::now() + schema::BUSY_TIMEOUT);
    while backup.step(-1)? != StepResult::Done {
        if Instant::now() >= deadline {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    drop(backup);
    // Closing moves everything into the file, synchronised, and removes the files beside it.
    target.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// As whoever restores it would open it.
fn verify(file: &Path) -> Result<u64, Failure> {
    let (db, version) = schema::connect_unmigrated(file)?;
    let verdict: String = db.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Err(StoreError::incompatible("the copy is damaged, and was deleted: look after the disk").into());
    }
    // The first version had no table of accounts.
    let table = if version == 1 { "kek" } else { "account" };
    let sql = format!("SELECT count(DISTINCT path) FROM {table}");
    let accounts: i64 = db.query_row(&sql, [], |row| row.get(0))?;
    db.close().map_err(|(_, error)| error)?;
    Ok(accounts.unsigned_abs())
}

fn exists(target: &Path) -> Failure {
    let message = format!("{} is already there and stays as it is: choose another name", shown(target));
    StoreError::incompatible(message).into()
}

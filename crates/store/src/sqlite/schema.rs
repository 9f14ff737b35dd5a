//! The file: how a new one is made, and what is refused before anything is read from it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use keystrata_hierarchy::StoreError;
use keystrata_primitives::KekRecord;
use rusqlite::{Connection, MAIN_DB, OpenFlags, TransactionBehavior, limits::Limit};

use super::{
    changes,
    error::{self, Failure, shown},
    rows,
};
use crate::Migration;

/// How long a call waits for another process's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// No SQLite database has less than a page.
const SMALLEST_PAGE_BYTES: u64 = 512;

/// `KStr` in the header of every file: `file` and this crate tell a KEK store from other databases by it.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"KStr");

/// The tables below. A release that changes them counts on, and teaches `connect` to move older files forward.
const SCHEMA_VERSION: i32 = 2;

/// Version 1, and since. `record` is a whole KEK record, version 1; the columns before it are copies of its fields that
/// SQLite finds it by, and are compared with it whenever it is read. State 1 is primary.
const RECORDS: &str = "
    CREATE TABLE kek (
        path    BLOB NOT NULL,
        kek_id  BLOB NOT NULL CHECK (length(kek_id) = 16),
        version INTEGER NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
        state   INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4),
        record  BLOB NOT NULL,
        PRIMARY KEY (path, kek_id),
        UNIQUE (path, version)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX kek_primary ON kek (path) WHERE state = 1;
";

/// Version 2 has these too. `account` is the head of a path: the primary, which may be disabled, the lowest version that is
/// used, and the tombstone of a path that was shredded; its time is an unsigned number in a signed column. `wrap` finds the
/// records by what wraps them; see `crate::wrappers`.
const ACCOUNTS: &str = "
    CREATE TABLE account (
        path          BLOB NOT NULL PRIMARY KEY,
        primary_id    BLOB CHECK (length(primary_id) = 16),
        min_version   INTEGER NOT NULL CHECK (min_version BETWEEN 1 AND 4294967295),
        shredded_at   INTEGER,
        shredded_keks INTEGER CHECK (shredded_keks BETWEEN 0 AND 4294967295),
        CHECK ((shredded_at IS NULL) = (shredded_keks IS NULL)),
        CHECK (shredded_at IS NULL OR primary_id IS NULL)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE wrap (
        wrapper BLOB NOT NULL CHECK (length(wrapper) = 32),
        path    BLOB NOT NULL,
        kek_id  BLOB NOT NULL,
        PRIMARY KEY (wrapper, path, kek_id)
    ) STRICT, WITHOUT ROWID;
";

/// What to do where no file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfMissing {
    Create,
    Refuse,
}

/// Makes sure that a store is at `file`, or says why it cannot be used. Leaves no connection open.
pub(super) fn prepare(file: &Path, if_missing: IfMissing) -> Result<(), Failure> {
    look_at(file, if_missing)?;
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let prepared = connect(file).and_then(|db| {
            check_length(file, &db)?;
            set_write_ahead(file, &db)
        });
        match prepared {
            // Changing the journal mode, and opening while another process closes, do not wait by themselves.
            Err(failure) if failure.is_busy() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// What can be said without opening the file, and what has to be: SQLite takes an empty file, or a stump, for a database
/// that is yet to be filled.
fn look_at(file: &Path, if_missing: IfMissing) -> Result<(), Failure> {
    let name = shown(file);
    match fs::metadata(file) {
        Ok(metadata) if !metadata.is_file() => {
            Err(incompatible(format!("{name} is not a file: give the path of a KEK store")))
        }
        // A store that was cut to nothing must not come back as a new one that lacks every KEK.
        Ok(metadata) if metadata.len() == 0 => {
            Err(incompatible(format!("{name} is empty: restore it from a backup, or delete it to begin a new store")))
        }
        Ok(metadata) if metadata.len() < SMALLEST_PAGE_BYTES => Err(error::not_a_database(file).into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match if_missing {
            IfMissing::Create => create(file),
            IfMissing::Refuse => Err(error::missing(file).into()),
        },
        Err(error) => Err(error::from_io(file, error).into()),
    }
}

/// Refuses a file that ends within a page, which SQLite would fill up with zeros.
fn check_length(file: &Path, db: &Connection) -> Result<(), Failure> {
    let page_bytes: u32 = db.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let len = fs::metadata(file).map_err(|error| error::from_io(file, error))?.len();
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    // A process that was killed may have left a page half written; then the log has it whole and SQLite mends it.
    let log_is_empty = fs::metadata(log).map_or(true, |metadata| metadata.len() == 0);
    if log_is_empty && !len.is_multiple_of(u64::from(page_bytes)) {
        let name = shown(file);
        return Err(incompatible(format!("{name} is cut short: stop its users and restore it from a backup")));
    }
    Ok(())
}

/// A connection to the store at `file`, which has to be one.
pub(super) fn connect(file: &Path) -> Result<Connection, Failure> {
    let (mut db, version) = connect_as_it_is(file)?;
    if version == 1 {
        migrate(file, &mut db)?;
    } else {
        check_version(file, version)?;
    }
    Ok(db)
}

/// What [`connect`] would do to the file.
pub(super) fn plan(file: &Path) -> Result<Migration, Failure> {
    let (_, from) = connect_unmigrated(file)?;
    let steps = if from == 1 { FROM_1.to_vec() } else { Vec::new() };
    Ok(Migration { from, to: SCHEMA_VERSION, steps })
}

/// A connection to the store at `file` as this release or an earlier one wrote it.
pub(super) fn connect_unmigrated(file: &Path) -> Result<(Connection, i32), Failure> {
    look_at(file, IfMissing::Refuse)?;
    let (db, version) = connect_as_it_is(file)?;
    check_length(file, &db)?;
    if version != 1 {
        check_version(file, version)?;
    }
    Ok((db, version))
}

/// What [`migrate`] does, for the operator.
const FROM_1: [&str; 4] = [
    "rewrite the file without what was freed, which may still hold wrapped secrets; that takes as much space again",
    "add the table of accounts: primary, lowest version in use, tombstone",
    "add the index of what wraps each KEK",
    "refuse writes by releases that know version 1 alone: update all processes that use the store first",
];

/// A connection to the store at `file` of whatever version, and the version.
fn connect_as_it_is(file: &Path) -> Result<(Connection, i32), Failure> {
    let mut db = open(file)?;
    if db.is_readonly(MAIN_DB)? {
        return Err(StoreError::Unavailable { message: error::read_only(file), source: None }.into());
    }
    // One transaction, so that all three are of one moment.
    let snapshot = db.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let application_id: i32 = snapshot.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = version(&snapshot)?;
    snapshot.commit()?;
    if application_id != APPLICATION_ID {
        let name = shown(file);
        return Err(incompatible(format!("{name} is a database of another program: give the path of a KEK store")));
    }
    Ok((db, version))
}

/// Brings a file of version 1 forward, once for all who have it open. A release of before then refuses to write it.
fn migrate(file: &Path, db: &mut Connection) -> Result<(), Failure> {
    // That release did not overwrite what it freed: its rotations left copies that no shredding would find.
    db.execute_batch("VACUUM")?;
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match version(&change)? {
        1 => {}
        already => return check_version(file, already),
    }
    change.execute_batch(ACCOUNTS)?;
    // By the primary of each path, and paths that somebody has taken it from, which must not pass for new ones.
    change.execute_batch(
        "INSERT INTO account (path, primary_id, min_version)
            SELECT path, max(CASE WHEN state = 1 THEN kek_id END), 1 FROM kek GROUP BY path;",
    )?;
    {
        let mut statement = change.prepare("SELECT path, kek_id, version, state, record FROM kek")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            // A record that is broken stays so; whoever reads it is told.
            if let Ok(record) = rows::read_row(row) {
                changes::insert_wraps(&change, &record)?;
            }
        }
    }
    change.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    change.commit()?;
    Ok(())
}

/// Refuses a file that another release has taken over, however long this process has had it open.
pub(super) fn check_still_current(db: &Connection) -> Result<(), Failure> {
    let version = version(db)?;
    check_version(Path::new(db.path().unwrap_or("the store")), version)
}

fn version(db: &Connection) -> Result<i32, Failure> {
    Ok(db.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

fn check_version(file: &Path, version: i32) -> Result<(), Failure> {
    let name = shown(file);
    match version {
        SCHEMA_VERSION => Ok(()),
        newer if newer > SCHEMA_VERSION => Err(incompatible(format!(
            "{name} has schema version {newer}, and this release knows version {SCHEMA_VERSION}: update keystrata"
        ))),
        other => Err(incompatible(format!(
            "{name} has schema version {other}, which no release wrote: restore it from a backup"
        ))),
    }
}

/// Makes a new store under a name of its own and gives it its final name once it is whole, unless another was quicker.
fn create(file: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::from(error::from_io(file, error));
    let folder = file.parent().unwrap_or(Path::new("/"));
    // Mode 0600 from the start; SQLite gives the files beside it the same. Only the path is kept: closing a handle on
    // the file would release SQLite's locks on it.
    let unfinished =
        tempfile::Builder::new().prefix(".keystrata-").tempfile_in(folder).map_err(failed)?.into_temp_path();
    {
        let mut db = open(&unfinished)?;
        set_write_ahead(file, &db)?;
        let tables = db.transaction()?;
        tables.execute_batch(RECORDS)?;
        tables.execute_batch(ACCOUNTS)?;
        tables.pragma_update(None, "application_id", APPLICATION_ID)?;
        tables.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        tables.commit()?;
        // Closing the last connection moves everything into the file, synchronised, and removes the files beside it.
        db.close().map_err(|(_, error)| error)?;
    }
    match unfinished.persist_noclobber(file) {
        Ok(()) => sync_folder(folder).map_err(failed),
        Err(taken) if taken.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(other) => Err(failed(other.error)),
    }
}

pub(super) fn open(file: &Path) -> Result<Connection, Failure> {
    // Never CREATE: a file that vanished must not come back empty.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    // A record is at most half of this; more is not read into memory.
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(2 * KekRecord::MAX_BYTES).unwrap_or(i32::MAX))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // What is deleted is overwritten with zeros.
    db.pragma_update(None, "secure_delete", true)?;
    // Whoever can write the file cannot make this process run functions by it.
    db.pragma_update(None, "trusted_schema", false)?;
    Ok(db)
}

/// Also asked of a file that was there: one restored from `VACUUM INTO`, say, has lost the mode.
fn set_write_ahead(file: &Path, db: &Connection) -> Result<(), Failure> {
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode == "wal" {
        return Ok(());
    }
    let name = shown(file);
    Err(incompatible(format!("{name} lies where SQLite cannot use a write-ahead log: put it on a local disk")))
}

fn incompatible(message: String) -> Failure {
    StoreError::incompatible(message).into()
}

/// Makes a new name in `folder` last through a loss of power.
#[cfg(unix)]
pub(super) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// A folder cannot be opened as a file here; the file system orders its own changes.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)] // the same signature everywhere
pub(super) fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}

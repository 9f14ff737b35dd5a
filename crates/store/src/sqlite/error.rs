//! What SQLite says, in the classes of [`StoreError`], with what to do.

use std::{io, path::Path, sync::Arc};

use keystrata_hierarchy::StoreError;
use rusqlite::{ErrorCode, ffi};

/// Why a job on a connection failed.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// Whether another connection was in the way and will not be for long.
    pub(super) fn is_busy(&self) -> bool {
        let Self::Sqlite(error) = self else { return false };
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed)
        )
    }

    pub(super) fn into_store_error(self, file: &Path) -> StoreError {
        match self {
            Self::Sqlite(error) => from_sqlite(file, error),
            Self::Store(error) => error,
        }
    }
}

/// The one place that gives SQLite's errors their class.
fn from_sqlite(file: &Path, error: rusqlite::Error) -> StoreError {
    let name = shown(file);
    let unavailable = |message: String| (true, message);
    let incompatible = |message: String| (false, message);
    let (may_pass, message) = match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted,
        ) => unavailable(format!("{name} was locked by another process for over 5 seconds: try again")),
        Some(ErrorCode::DiskFull) => {
            unavailable(format!("no space is left for {name}, and nothing was stored: free some, then try again"))
        }
        Some(ErrorCode::ReadOnly) => unavailable(read_only(file)),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            unavailable(format!(
                "{name} cannot be opened: this process must be able to read and write it, and to make files in its folder"
            ))
        }
        Some(ErrorCode::SystemIoFailure | ErrorCode::NoLargeFileSupport) => {
            unavailable(format!("the disk failed while {name} was used: look into the system's log, then try again"))
        }
        Some(ErrorCode::OutOfMemory) => unavailable(format!("there is not enough memory to use {name}")),
        Some(ErrorCode::NotADatabase) => return not_a_database(file),
        Some(ErrorCode::DatabaseCorrupt) => {
            incompatible(format!("{name} is damaged: stop its users and restore it from a backup"))
        }
        // What is left are statements that do not fit the tables, and values that do not fit the statements.
        _ if is_about_the_tables(&error) => incompatible(format!(
            "the tables in {name} are not those of a KEK store: check the path, or restore it from a backup"
        )),
        _ => unavailable(format!("SQLite failed on {name}: see the cause, then try again")),
    };
    let source: Option<keystrata_hierarchy::Cause> = Some(Arc::new(error));
    if may_pass { StoreError::Unavailable { message, source } } else { StoreError::Incompatible { message, source } }
}

/// The plain `SQLITE_ERROR` (no such table or column), and what rusqlite says of values of another type.
fn is_about_the_tables(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(ffi::Error { extended_code, .. }, _)
        | rusqlite::Error::SqlInputError { error: ffi::Error { extended_code, .. }, .. } => {
            matches!(extended_code & 0xff, ffi::SQLITE_ERROR | ffi::SQLITE_CONSTRAINT | ffi::SQLITE_TOOBIG)
        }
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::QueryReturnedNoRows => true,
        _ => false,
    }
}

/// A failure of the file system outside SQLite.
pub(super) fn from_io(file: &Path, error: io::Error) -> StoreError {
    let name = shown(file);
    let message = match error.kind() {
        io::ErrorKind::NotFound => {
            let folder = file.parent().map_or_else(|| "its folder".into(), shown);
            format!("{name} cannot be made, since {folder} does not exist: make the folder, or check the path")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => read_only(file),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("no space is left for {name}, and nothing was stored: free some, then try again")
        }
        _ => format!("{name} cannot be used: see the cause, and check the path"),
    };
    StoreError::unavailable(message, error)
}

pub(super) fn not_a_database(file: &Path) -> StoreError {
    let name = shown(file);
    StoreError::incompatible(format!("{name} is not an SQLite database: check the path, or restore it from a backup"))
}

pub(super) fn missing(file: &Path) -> StoreError {
    let message =
        format!("there is no KEK store at {}: check the path, or make one with `keystrata init`", shown(file));
    StoreError::Unavailable { message, source: None }
}

pub(super) fn read_only(file: &Path) -> String {
    format!(
        "{} is read-only, and so may be its folder: this process must be able to write both, since SQLite keeps files \
         beside it",
        shown(file)
    )
}

pub(super) fn forked(file: &Path) -> StoreError {
    let message = format!(
        "this process was forked from one that had {} open, and SQLite's locks do not survive that: fork before the \
         first use of the store, or after dropping it",
        shown(file)
    );
    StoreError::Unavailable { message, source: None }
}

/// A path for a message: quoted, and on one line whatever is in it.
#[allow(clippy::unnecessary_debug_formatting)] // a newline in a path must not split the message
pub(super) fn shown(path: &Path) -> String {
    format!("{path:?}")
}

//! What PostgreSQL says, in the classes of [`StoreError`], with what to do. `docs/stores.md` has the table.

use std::{error::Error as _, io, sync::Arc};

use keystrata_hierarchy::StoreError;
use tokio_postgres::{Error, error::SqlState};

/// Why a job on a connection failed.
#[derive(Debug)]
pub(super) enum Failure {
    Postgres(Error),
    Store(StoreError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// Whether the connection is gone, so that another may do better.
    pub(super) fn is_lost(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        match error.code() {
            Some(code) => is_goodbye(code),
            None => error.is_closed() || io_kind(error).is_some(),
        }
    }

    pub(super) fn into_store_error(self, at: &str) -> StoreError {
        match self {
            Self::Postgres(error) => from_postgres(at, error),
            Self::Store(error) => error,
        }
    }
}

/// The server ends the session, for reasons that are not the session's.
fn is_goodbye(code: &SqlState) -> bool {
    let goodbyes = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    ];
    code.code().starts_with("08") || goodbyes.contains(code)
}

fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// The one place that gives PostgreSQL's errors their class.
pub(super) fn from_postgres(at: &str, error: Error) -> StoreError {
    let (may_pass, message) = match error.code() {
        Some(code) => by_code(at, code),
        None => (true, without_code(at, &error)),
    };
    let source: Option<keystrata_hierarchy::Cause> = Some(Arc::new(error));
    if may_pass { StoreError::Unavailable { message, source } } else { StoreError::Incompatible { message, source } }
}

/// What the server answered: whether it may pass, and what to do.
fn by_code(at: &str, code: &SqlState) -> (bool, String) {
    let unavailable = |what: &str| (true, format!("{at}: {what}"));
    let incompatible = |what: &str| (false, format!("{at}: {what}"));
    match code {
        code if is_goodbye(code) => unavailable("the server ended the connection: try again"),
        &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            unavailable("the server refuses the user or the password: check the URL, and the server's pg_hba.conf")
        }
        &SqlState::INVALID_CATALOG_NAME => unavailable("there is no such database: check the URL"),
        &SqlState::INSUFFICIENT_PRIVILEGE => {
            unavailable("the user may not do this: grant it what docs/stores.md lists, or use another user")
        }
        &SqlState::READ_ONLY_SQL_TRANSACTION => unavailable(READ_ONLY),
        &SqlState::TOO_MANY_CONNECTIONS => {
            unavailable("the server has no connection left: lower pool_size, or raise its max_connections")
        }
        &SqlState::DISK_FULL => {
            unavailable("the server's disk is full, and nothing was stored: free some, then try again")
        }
        &SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE => {
            unavailable("the server was too slow, or another transaction held a lock too long: try again")
        }
        &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED => {
            unavailable("another transaction was in the way: try again")
        }
        &SqlState::UNDEFINED_TABLE
        | &SqlState::UNDEFINED_COLUMN
        | &SqlState::UNDEFINED_FUNCTION
        | &SqlState::DATATYPE_MISMATCH
        | &SqlState::WRONG_OBJECT_TYPE
        | &SqlState::INVALID_SCHEMA_NAME => incompatible(NOT_ITS_TABLES),
        &SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED => {
            incompatible("the database is damaged: stop its users and restore it from a backup")
        }
        // Classes: integrity constraints, insufficient resources, operator intervention.
        code => match code.code().get(..2) {
            Some("23") => incompatible(NOT_ITS_TABLES),
            Some("53") => unavailable("the server lacks resources: see the cause, then try again"),
            _ => unavailable("the server failed: see the cause, then try again"),
        },
    }
}

pub(super) const READ_ONLY: &str =
    "no server there takes writes: name the leader in the URL, or end its read-only mode";

const NOT_ITS_TABLES: &str = "the tables are not those of a KEK store: check the URL, or restore it from a backup";

/// The connection failed, or what came over it was nothing the client knows.
fn without_code(at: &str, error: &Error) -> String {
    // The client says by this that the last host, too, was read-only.
    if io_kind(error) == Some(io::ErrorKind::PermissionDenied) {
        return format!("{at}: {READ_ONLY}");
    }
    let is_tls = error.source().is_some_and(is_about_tls);
    if is_tls || error.to_string().contains("TLS") {
        return format!(
            "{at}: no TLS connection that the server's certificate proves to be with that host: check the host's name, \
             the server's certificate and sslrootcert"
        );
    }
    if error.is_closed() {
        return format!("{at}: the connection was closed: try again");
    }
    format!(
        "{at}: cannot be reached, or does not answer as PostgreSQL does: check the URL and the server, then try again"
    )
}

fn is_about_tls(source: &(dyn std::error::Error + 'static)) -> bool {
    let Some(io) = source.downcast_ref::<io::Error>() else { return source.is::<rustls::Error>() };
    io.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

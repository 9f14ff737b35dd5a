//! The statements, and what a row must hold before it is believed.

use std::sync::Arc;

use keystrata_hierarchy::{Creation, Rotation, StoreError};
use keystrata_primitives::{KekId, KekIdentity, KekRecord, KekState, KeyPath, RecordError};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::{error::Failure, schema};

pub(super) fn record(db: &Connection, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, Failure> {
    let sql = "SELECT path, kek_id, version, state, record FROM kek WHERE path = ?1 AND kek_id = ?2";
    one(db, sql, params![path.as_bytes(), id.as_bytes()])
}

pub(super) fn primary(db: &Connection, path: &KeyPath) -> Result<Option<KekRecord>, Failure> {
    one(db, "SELECT path, kek_id, version, state, record FROM kek WHERE path = ?1 AND state = 1", [path.as_bytes()])
}

pub(super) fn records(db: &Connection, path: &KeyPath) -> Result<Vec<KekRecord>, Failure> {
    let sql = "SELECT path, kek_id, version, state, record FROM kek WHERE path = ?1 ORDER BY version";
    all(db, sql, [path.as_bytes()])
}

pub(super) fn primaries(db: &Connection, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, Failure> {
    // No path is as short as no bytes.
    let after = after.map_or(&[][..], KeyPath::as_bytes);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = "SELECT path, kek_id, version, state, record FROM kek
        WHERE state = 1 AND path > ?1 ORDER BY path LIMIT ?2";
    all(db, sql, params![after, limit])
}

pub(super) fn create(db: &mut Connection, identity: &KekIdentity, bytes: &[u8]) -> Result<Creation, Failure> {
    // Immediate: with the write lock from the start, nobody comes between the look and the write.
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::check_still_current(&change)?;
    if change.prepare_cached("SELECT 1 FROM kek WHERE path = ?1")?.exists([identity.path.as_bytes()])? {
        return Ok(Creation::Exists);
    }
    insert(&change, identity, bytes)?;
    change.commit()?;
    Ok(Creation::Created)
}

pub(super) fn rotate(
    db: &mut Connection,
    previous: KekId,
    record: &KekRecord,
    bytes: &[u8],
) -> Result<Rotation, Failure> {
    let path = &record.identity.path;
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::check_still_current(&change)?;
    let old = match primary(&change, path)? {
        Some(old) if old.identity.id == previous => old,
        _ => return Ok(Rotation::Superseded),
    };
    StoreError::check_later(&old, record)?;
    let retired = KekRecord { state: KekState::Retired, retired_at: record.created_at, ..old };
    let retired_bytes = retired.encode().map_err(|error| StoreError::corrupt(path, error))?;
    // The old one first: an account has at most one primary at any time.
    change
        .prepare_cached("UPDATE kek SET state = ?3, record = ?4 WHERE path = ?1 AND kek_id = ?2")?
        .execute(params![path.as_bytes(), previous.as_bytes(), KekState::Retired as u8, retired_bytes])?;
    insert(&change, &record.identity, bytes)?;
    change.commit()?;
    Ok(Rotation::Rotated)
}

fn insert(change: &Connection, identity: &KekIdentity, bytes: &[u8]) -> Result<(), Failure> {
    let KekIdentity { path, id, version, .. } = identity;
    change
        .prepare_cached("INSERT INTO kek (path, kek_id, version, state, record) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![path.as_bytes(), id.as_bytes(), version.get(), KekState::Primary as u8, bytes])?;
    Ok(())
}

fn one(db: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<Option<KekRecord>, Failure> {
    let found = db.prepare_cached(sql)?.query_row(params, |row| Ok(read(row))).optional()?;
    found.transpose()
}

fn all(db: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<Vec<KekRecord>, Failure> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(read(row)?);
    }
    Ok(records)
}

/// Why the columns of a row and the record in it cannot both be right.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the record is not the one that its row is found by: its {0} differs")]
struct Misplaced(&'static str);

/// The record of a row, if it is the one that the row's columns announce.
fn read(row: &Row<'_>) -> Result<KekRecord, Failure> {
    let bytes = |index| row.get_ref(index)?.as_blob().map_err(rusqlite::Error::from);
    let path = KeyPath::from_bytes(bytes(0)?).map_err(|error| StoreError::Incompatible {
        message: "a row has an account path that is none: restore the database from a backup".into(),
        source: Some(Arc::new(error)),
    })?;
    let record = KekRecord::parse(bytes(4)?).map_err(|error| not_a_record(&path, error))?;
    let identity = &record.identity;
    let differs = if identity.path != path {
        Some("account path")
    } else if identity.id.as_bytes() != bytes(1)? {
        Some("KEK id")
    } else if i64::from(identity.version.get()) != row.get(2)? {
        Some("version")
    } else if record.state as i64 != row.get(3)? {
        Some("state")
    } else {
        None
    };
    match differs {
        None => Ok(record),
        Some(field) => Err(StoreError::Corrupt { path, source: Arc::new(Misplaced(field)) }.into()),
    }
}

fn not_a_record(path: &KeyPath, error: RecordError) -> Failure {
    match error {
        // Not broken: a backup would not help.
        RecordError::UnknownVersion(_)
        | RecordError::UnknownSuite(_)
        | RecordError::UnknownState(_)
        | RecordError::UnknownWrapper(_) => StoreError::Incompatible {
            message: format!("account {path} has a KEK record that this release does not know: update keystrata"),
            source: Some(Arc::new(error)),
        }
        .into(),
        _ => StoreError::corrupt(path, error).into(),
    }
}

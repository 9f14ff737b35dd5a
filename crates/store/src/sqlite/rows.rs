//! The statements that read, and what a row must hold before it is believed.

use keystrata_hierarchy::{AccountCopy, KekId, KekRecord, KekVersion, KeyPath, PathHead, WrapperQuery};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::error::Failure;
use crate::{
    rows::{Account, Misplaced, RawAccount, RawRecord, read_path},
    wrappers::index_key,
};

pub(super) fn head(db: &Connection, path: &KeyPath) -> Result<Option<PathHead>, Failure> {
    let sql =
        "SELECT a.path, a.primary_id, a.min_version, a.shredded_at, a.shredded_keks, k.kek_id, k.version, k.state,
        k.record FROM account a LEFT JOIN kek k ON k.path = a.path AND k.kek_id = a.primary_id WHERE a.path = ?1";
    let found = db.prepare_cached(sql)?.query_row([path.as_bytes()], |row| Ok(read_head(row))).optional()?;
    found.transpose()
}

pub(super) fn accounts(db: &Connection, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, Failure> {
    let sql =
        "SELECT a.path, a.primary_id, a.min_version, a.shredded_at, a.shredded_keks, k.kek_id, k.version, k.state,
        k.record FROM account a LEFT JOIN kek k ON k.path = a.path AND k.kek_id = a.primary_id
        WHERE a.path > ?1 ORDER BY a.path LIMIT ?2";
    // No path is as short as no bytes.
    let after = after.map_or(&[][..], KeyPath::as_bytes);
    all(db, sql, params![after, sql_limit(limit)], read_head)
}

pub(super) fn record(db: &Connection, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, Failure> {
    let sql =
        "SELECT a.path, a.primary_id, a.min_version, a.shredded_at, a.shredded_keks, k.kek_id, k.version, k.state,
        k.record FROM account a LEFT JOIN kek k ON k.path = a.path AND k.kek_id = ?2 WHERE a.path = ?1";
    let read =
        |row: &Row<'_>| -> Result<Option<KekRecord>, Failure> { Ok(read_account(row)?.usable(raw_record(row, 5)?)?) };
    let found = db.prepare_cached(sql)?.query_row(params![path.as_bytes(), id.as_bytes()], |row| Ok(read(row)));
    Ok(found.optional()?.transpose()?.flatten())
}

/// The record of this KEK, whatever stands at the head of its path.
pub(super) fn any_record(db: &Connection, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, Failure> {
    let sql = "SELECT path, kek_id, version, state, record FROM kek WHERE path = ?1 AND kek_id = ?2";
    let found = db.prepare_cached(sql)?.query_row(params![path.as_bytes(), id.as_bytes()], |row| Ok(read_row(row)));
    found.optional()?.transpose()
}

/// What stands at the head of a path, whether its primary can be read or not.
pub(super) fn account(db: &Connection, path: &KeyPath) -> Result<Option<Account>, Failure> {
    let sql = "SELECT path, primary_id, min_version, shredded_at, shredded_keks FROM account WHERE path = ?1";
    let found = db.prepare_cached(sql)?.query_row([path.as_bytes()], |row| Ok(read_account(row))).optional()?;
    found.transpose()
}

pub(super) fn export(db: &mut Connection, path: &KeyPath) -> Result<Option<AccountCopy>, Failure> {
    // One transaction, so that the account and its records are of one moment.
    let snapshot = db.transaction_with_behavior(TransactionBehavior::Deferred)?;
    export_within(&snapshot, path)
}

pub(super) fn export_within(db: &Connection, path: &KeyPath) -> Result<Option<AccountCopy>, Failure> {
    let sql = "SELECT path, kek_id, version, state, record FROM kek WHERE path = ?1 ORDER BY version";
    let records = all(db, sql, [path.as_bytes()], read_row)?;
    let account = match account(db, path)? {
        Some(account) => account,
        None if records.is_empty() => return Ok(None),
        // Somebody deleted it by other means; what is left must not pass for a new account.
        None => Account { path: path.clone(), primary: None, min_version: KekVersion::FIRST, tombstone: None },
    };
    Ok(Some(account.copy(records)))
}

pub(super) fn by_wrapper(
    db: &Connection,
    query: &WrapperQuery,
    after: Option<&(KeyPath, KekId)>,
    limit: usize,
) -> Result<Vec<KekRecord>, Failure> {
    let sql = "SELECT w.path, w.kek_id, k.version, k.state, k.record
        FROM wrap w LEFT JOIN kek k ON k.path = w.path AND k.kek_id = w.kek_id
        WHERE w.wrapper = ?1 AND (w.path, w.kek_id) > (?2, ?3) ORDER BY w.path, w.kek_id LIMIT ?4";
    let (path, id) = after.map_or((&[][..], &[][..]), |(path, id)| (path.as_bytes(), &id.as_bytes()[..]));
    let read = |row: &Row<'_>| -> Result<KekRecord, Failure> {
        let record = read_row(row)?;
        if query.matches(&record) { Ok(record) } else { Err(Misplaced("wrapper").of(record.identity.path).into()) }
    };
    all(db, sql, params![index_key(query), path, id, sql_limit(limit)], read)
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) fn all<T>(
    db: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The head of a path from the first five columns.
fn read_account(row: &Row<'_>) -> Result<Account, Failure> {
    let account = RawAccount {
        path: row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?,
        primary_id: row.get_ref(1)?.as_blob_or_null().map_err(rusqlite::Error::from)?,
        min_version: row.get(2)?,
        shredded_at: row.get(3)?,
        shredded_keks: row.get(4)?,
    };
    Ok(account.read()?)
}

fn read_head(row: &Row<'_>) -> Result<PathHead, Failure> {
    Ok(read_account(row)?.head(raw_record(row, 5)?)?)
}

/// The record of a row that begins with its path.
pub(super) fn read_row(row: &Row<'_>) -> Result<KekRecord, Failure> {
    let path = read_path(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
    Ok(raw_record(row, 1)?.read(path)?)
}

/// The columns KEK id, version, state and record.
fn raw_record<'a>(row: &'a Row<'_>, first: usize) -> Result<RawRecord<'a>, Failure> {
    let bytes = |index| row.get_ref(index)?.as_blob_or_null().map_err(rusqlite::Error::from);
    Ok(RawRecord {
        kek_id: bytes(first)?,
        version: row.get(first + 1)?,
        state: row.get(first + 2)?,
        record: bytes(first + 3)?,
    })
}

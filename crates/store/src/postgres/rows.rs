//! The statements that read.

use keystrata_hierarchy::{AccountCopy, KekId, KekRecord, KeyPath, PathHead, WrapperQuery};
use tokio_postgres::Row;

use super::{connections::Queries, error::Failure};
use crate::{
    rows::{Account, Misplaced, RawAccount, RawRecord, read_path},
    wrappers::index_key,
};

pub(super) async fn head(db: &mut impl Queries, path: &KeyPath) -> Result<Option<PathHead>, Failure> {
    let sql =
        "SELECT a.path, a.primary_id, a.min_version, a.shredded_at, a.shredded_keks, k.kek_id, k.version, k.state,
        k.record FROM account a LEFT JOIN kek k ON k.path = a.path AND k.kek_id = a.primary_id WHERE a.path = $1";
    db.query(sql, &[&path.as_bytes()]).await?.first().map(read_head).transpose()
}

pub(super) async fn accounts(
    db: &mut impl Queries,
    after: Option<&KeyPath>,
    limit: usize,
) -> Result<Vec<PathHead>, Failure> {
    let sql =
        "SELECT a.path, a.primary_id, a.min_version, a.shredded_at, a.shredded_keks, k.kek_id, k.version, k.state,
        k.record FROM account a LEFT JOIN kek k ON k.path = a.path AND k.kek_id = a.primary_id
        WHERE a.path > $1 ORDER BY a.path LIMIT $2";
    // No path is as short as no bytes.
    let after = after.map_or(&[][..], KeyPath::as_bytes);
    db.query(sql, &[&after, &sql_limit(limit)]).await?.iter().map(read_head).collect()
}

pub(super) async fn record(db: &mut impl Queries, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, Failure> {
    let sql =
        "SELECT a.path, a.primary_id, a.min_version, a.shredded_at, a.shredded_keks, k.kek_id, k.version, k.state,
        k.record FROM account a LEFT JOIN kek k ON k.path = a.path AND k.kek_id = $2 WHERE a.path = $1";
    let found = db.query(sql, &[&path.as_bytes(), &&id.as_bytes()[..]]).await?;
    match found.first() {
        Some(row) => Ok(read_account(row)?.usable(raw_record(row, 5)?)?),
        None => Ok(None),
    }
}

/// The record of this KEK, whatever stands at the head of its path.
pub(super) async fn any_record(db: &mut impl Queries, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, Failure> {
    let sql = "SELECT path, kek_id, version, state, record FROM kek WHERE path = $1 AND kek_id = $2";
    db.query(sql, &[&path.as_bytes(), &&id.as_bytes()[..]]).await?.first().map(read_row).transpose()
}

/// One statement, so that the account and its records are of one moment.
pub(super) async fn export(db: &mut impl Queries, path: &KeyPath) -> Result<Option<AccountCopy>, Failure> {
    let sql =
        "SELECT a.path, a.primary_id, a.min_version, a.shredded_at, a.shredded_keks, k.kek_id, k.version, k.state,
        k.record FROM account a LEFT JOIN kek k ON k.path = a.path WHERE a.path = $1 ORDER BY k.version";
    let rows = db.query(sql, &[&path.as_bytes()]).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut records = Vec::with_capacity(rows.len());
    for row in &rows {
        let raw = raw_record(row, 5)?;
        if raw.kek_id.is_some() {
            records.push(raw.read(path.clone())?);
        }
    }
    Ok(Some(read_account(first)?.copy(records)))
}

pub(super) async fn by_wrapper(
    db: &mut impl Queries,
    query: &WrapperQuery,
    after: Option<(&KeyPath, KekId)>,
    limit: usize,
) -> Result<Vec<KekRecord>, Failure> {
    // Row by row, as for `accounts`.
    let sql = "SELECT w.path, w.kek_id, k.version, k.state, k.record FROM wrap w LEFT JOIN LATERAL (
            SELECT * FROM kek WHERE kek.path = w.path AND kek.kek_id = w.kek_id LIMIT 1
        ) k ON true WHERE w.wrapper = $1 AND (w.path, w.kek_id) > ($2, $3) ORDER BY w.path, w.kek_id LIMIT $4";
    let id = after.map(|(_, id)| *id.as_bytes());
    let path = after.map_or(&[][..], |(path, _)| path.as_bytes());
    let id = id.as_ref().map_or(&[][..], |id| &id[..]);
    let rows = db.query(sql, &[&&index_key(query)[..], &path, &id, &sql_limit(limit)]).await?;
    let read = |row| {
        let record = read_row(row)?;
        if query.matches(&record) { Ok(record) } else { Err(Misplaced("wrapper").of(record.identity.path).into()) }
    };
    rows.iter().map(read).collect()
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The head of a path from the first five columns.
pub(super) fn read_account(row: &Row) -> Result<Account, Failure> {
    let account = RawAccount {
        path: row.try_get(0)?,
        primary_id: row.try_get(1)?,
        min_version: row.try_get(2)?,
        shredded_at: row.try_get(3)?,
        shredded_keks: row.try_get(4)?,
    };
    Ok(account.read()?)
}

fn read_head(row: &Row) -> Result<PathHead, Failure> {
    Ok(read_account(row)?.head(raw_record(row, 5)?)?)
}

/// The record of a row that begins with its path.
pub(super) fn read_row(row: &Row) -> Result<KekRecord, Failure> {
    Ok(raw_record(row, 1)?.read(read_path(row.try_get(0)?)?)?)
}

/// The columns KEK id, version, state and record.
fn raw_record(row: &Row, first: usize) -> Result<RawRecord<'_>, Failure> {
    Ok(RawRecord {
        kek_id: row.try_get(first)?,
        version: row.try_get(first + 1)?,
        state: row.try_get::<_, Option<i16>>(first + 2)?.map(i64::from),
        record: row.try_get(first + 3)?,
    })
}

//! The statements that write, each call in one transaction.

use keystrata_hierarchy::{AccountCopy, Creation, Import, Raise, Rotation, Shred, StoreError, Tombstone, Update};
use keystrata_primitives::{KekId, KekRecord, KekState, KekVersion, KeyPath};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{error::Failure, rows, schema};
use crate::{rows::Account, wrappers::index_keys};

/// With the write lock from the start, so that nobody comes between the look and the write.
fn begin(db: &mut Connection) -> Result<Transaction<'_>, Failure> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::check_still_current(&change)?;
    Ok(change)
}

/// What stands at the head of a path that may be changed.
fn live_account(change: &Connection, path: &KeyPath) -> Result<Option<Account>, Failure> {
    let account = rows::account(change, path)?;
    if let Some(account) = &account {
        account.refuse_if_shredded()?;
    }
    Ok(account)
}

pub(super) fn create(db: &mut Connection, record: &KekRecord, bytes: &[u8]) -> Result<Creation, Failure> {
    let path = &record.identity.path;
    let change = begin(db)?;
    // Records without an account are what somebody left who deleted it by other means.
    if live_account(&change, path)?.is_some() || has_records(&change, path)? {
        return Ok(Creation::Exists);
    }
    insert_account(&change, path, (Some(record.identity.id), KekVersion::FIRST, None))?;
    insert_record(&change, record, bytes)?;
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
    let change = begin(db)?;
    match live_account(&change, path)? {
        Some(account) if account.primary == Some(previous) => {}
        _ => return Ok(Rotation::Superseded),
    }
    let old = match rows::any_record(&change, path, previous)? {
        Some(old) if old.state == KekState::Primary => old,
        _ => return Ok(Rotation::Superseded),
    };
    let retired = StoreError::check_later(old, record)?;
    let retired_bytes = retired.encode().map_err(|error| StoreError::corrupt(path, error))?;
    // The old one first: an account has at most one primary at any time. What wraps it stays.
    replace_record(&change, &retired, &retired_bytes)?;
    insert_record(&change, record, bytes)?;
    change
        .prepare_cached("UPDATE account SET primary_id = ?2 WHERE path = ?1")?
        .execute(params![path.as_bytes(), record.identity.id.as_bytes()])?;
    change.commit()?;
    Ok(Rotation::Rotated)
}

pub(super) fn update(db: &mut Connection, expected: &KekRecord, new: &KekRecord) -> Result<Update, Failure> {
    let (path, id) = (&expected.identity.path, expected.identity.id);
    let change = begin(db)?;
    let Some(account) = live_account(&change, path)? else { return Ok(Update::Changed) };
    let stored = match rows::any_record(&change, path, id)? {
        Some(stored) if stored == *expected => stored,
        _ => return Ok(Update::Changed),
    };
    let bytes = StoreError::check_update(&stored, new, account.primary == Some(id))?;
    replace_record(&change, new, &bytes)?;
    delete_wraps(&change, &stored)?;
    insert_wraps(&change, new)?;
    change.commit()?;
    Ok(Update::Updated)
}

pub(super) fn raise_min_version(db: &mut Connection, path: &KeyPath, to: KekVersion) -> Result<Raise, Failure> {
    let change = begin(db)?;
    let Some(head) = rows::head(&change, path)? else { return Ok(Raise::AbovePrimary) };
    head.refuse_if_shredded()?;
    let raise = head.raise(to);
    if raise == Raise::Raised {
        change
            .prepare_cached("UPDATE account SET min_version = ?2 WHERE path = ?1")?
            .execute(params![path.as_bytes(), to.get()])?;
        change.commit()?;
    }
    Ok(raise)
}

pub(super) fn shred(db: &mut Connection, path: &KeyPath, at: u64) -> Result<Shred, Failure> {
    let change = begin(db)?;
    // Not the head: a primary that is broken must not keep an account from being shredded.
    if let Some(Account { tombstone: Some(tombstone), .. }) = rows::account(&change, path)? {
        return Ok(Shred::Already(tombstone));
    }
    let tombstone = Tombstone { at, keks: destroy_records(&change, path)? };
    let changed = change
        .prepare_cached("UPDATE account SET primary_id = NULL, shredded_at = ?2, shredded_keks = ?3 WHERE path = ?1")?
        .execute(params![path.as_bytes(), at.cast_signed(), tombstone.keks])?;
    match (changed, tombstone.keks) {
        (0, 0) => return Ok(Shred::Unknown),
        (0, _) => insert_account(&change, path, (None, KekVersion::FIRST, Some(tombstone)))?,
        _ => {}
    }
    change.commit()?;
    empty_log(db);
    Ok(Shred::Shredded(tombstone))
}

/// Gives the number of records that there were. One that does not parse is deleted: what is left of it cannot be told
/// from a secret.
fn destroy_records(change: &Connection, path: &KeyPath) -> Result<u32, Failure> {
    let sql = "SELECT path, kek_id, version, state, record FROM kek WHERE path = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        let id = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?.to_vec();
        Ok((id, rows::read_row(row).ok()))
    };
    let records = rows::all(change, sql, [path.as_bytes()], read)?;
    let count = records.len();
    for (id, record) in records {
        if let Some(record) = record {
            delete_wraps(change, &record)?;
            let destroyed = KekRecord { state: KekState::Destroyed, wraps: Vec::new(), ..record };
            let bytes = destroyed.encode().map_err(|error| StoreError::corrupt(path, error))?;
            replace_record(change, &destroyed, &bytes)?;
        } else {
            for sql in
                ["DELETE FROM kek WHERE path = ?1 AND kek_id = ?2", "DELETE FROM wrap WHERE path = ?1 AND kek_id = ?2"]
            {
                change.prepare_cached(sql)?.execute(params![path.as_bytes(), id])?;
            }
        }
    }
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The write-ahead log still has the wrapped secrets until it is moved into the file and cut off. If another process reads
/// just now, that is left to whoever does it next.
fn empty_log(db: &Connection) {
    let _ = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

pub(super) fn import(db: &mut Connection, copy: &AccountCopy, bytes: &[Vec<u8>]) -> Result<Import, Failure> {
    let change = begin(db)?;
    if let Some(stored) = rows::export_within(&change, &copy.path)? {
        return Ok(if stored == *copy { Import::Same } else { Import::Differs });
    }
    insert_account(&change, &copy.path, (copy.primary, copy.min_version, copy.tombstone))?;
    for (record, bytes) in copy.records.iter().zip(bytes) {
        insert_record(&change, record, bytes)?;
    }
    change.commit()?;
    Ok(Import::Imported)
}

fn has_records(change: &Connection, path: &KeyPath) -> Result<bool, Failure> {
    Ok(change.prepare_cached("SELECT 1 FROM kek WHERE path = ?1")?.exists([path.as_bytes()])?)
}

fn insert_account(
    change: &Connection,
    path: &KeyPath,
    (primary, min_version, tombstone): (Option<KekId>, KekVersion, Option<Tombstone>),
) -> Result<(), Failure> {
    let (at, keks) = tombstone.map(|tombstone| (tombstone.at.cast_signed(), tombstone.keks)).unzip();
    let primary = primary.map(|id| id.as_bytes().to_vec());
    change.prepare_cached("INSERT INTO account VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        path.as_bytes(),
        primary,
        min_version.get(),
        at,
        keks
    ])?;
    Ok(())
}

fn insert_record(change: &Connection, record: &KekRecord, bytes: &[u8]) -> Result<(), Failure> {
    let identity = &record.identity;
    change
        .prepare_cached("INSERT INTO kek (path, kek_id, version, state, record) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            identity.path.as_bytes(),
            identity.id.as_bytes(),
            identity.version.get(),
            record.state as u8,
            bytes
        ])?;
    insert_wraps(change, record)
}

fn replace_record(change: &Connection, record: &KekRecord, bytes: &[u8]) -> Result<(), Failure> {
    let identity = &record.identity;
    change
        .prepare_cached("UPDATE kek SET state = ?3, record = ?4 WHERE path = ?1 AND kek_id = ?2")?
        .execute(params![identity.path.as_bytes(), identity.id.as_bytes(), record.state as u8, bytes])?;
    Ok(())
}

pub(super) fn insert_wraps(change: &Connection, record: &KekRecord) -> Result<(), Failure> {
    let mut insert = change.prepare_cached("INSERT INTO wrap (wrapper, path, kek_id) VALUES (?1, ?2, ?3)")?;
    for key in index_keys(record) {
        insert.execute(params![key, record.identity.path.as_bytes(), record.identity.id.as_bytes()])?;
    }
    Ok(())
}

fn delete_wraps(change: &Connection, record: &KekRecord) -> Result<(), Failure> {
    let mut delete = change.prepare_cached("DELETE FROM wrap WHERE wrapper = ?1 AND path = ?2 AND kek_id = ?3")?;
    for key in index_keys(record) {
        delete.execute(params![key, record.identity.path.as_bytes(), record.identity.id.as_bytes()])?;
    }
    Ok(())
}

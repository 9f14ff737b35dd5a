//! The statements that write, each call in one transaction that holds the lock of its account's row.

use keystrata_hierarchy::{
    AccountCopy, Creation, Import, KekId, KekRecord, KekState, KekVersion, KeyPath, Raise, Rotation, Shred, StoreError,
    Tombstone, Update,
};

use super::{
    connections::{Change, Lease, Queries},
    error::Failure,
    rows, schema,
};
use crate::{rows::Account, wrappers::index_keys};

/// The head of a path, locked until the transaction ends.
///
/// What is read after it is read by statements of their own: one that waited for the lock would go on with the records
/// that it had found before.
async fn lock(change: &mut Change<'_>, path: &KeyPath) -> Result<Option<Account>, Failure> {
    let sql = "SELECT a.path, a.primary_id, a.min_version, a.shredded_at, a.shredded_keks, s.version
        FROM account a, keystrata_schema s WHERE a.path = $1 FOR UPDATE OF a";
    let found = change.query(sql, &[&path.as_bytes()]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    check_version(row.try_get(5)?)?;
    rows::read_account(row).map(Some)
}

/// The same, unless the path is shredded.
async fn lock_live(change: &mut Change<'_>, path: &KeyPath) -> Result<Option<Account>, Failure> {
    let account = lock(change, path).await?;
    if let Some(account) = &account {
        account.refuse_if_shredded()?;
    }
    Ok(account)
}

/// Refuses tables that another release has taken over, however long this process has been connected.
fn check_version(found: i32) -> Result<(), StoreError> {
    if found == schema::VERSION { Ok(()) } else { Err(schema::not_this_version("the PostgreSQL store", found)) }
}

/// One statement and so one round trip: this is the write that seals wait for.
pub(super) async fn create(db: &mut Lease, record: &KekRecord, bytes: &[u8]) -> Result<Creation, Failure> {
    let sql = "WITH made AS (
            INSERT INTO account (path, primary_id, min_version)
            SELECT $1, $2, 1 FROM keystrata_schema WHERE version = $6
            ON CONFLICT (path) DO NOTHING RETURNING path
        ), stored AS (
            INSERT INTO kek (path, kek_id, version, state, record) SELECT path, $2, $3, 1, $4 FROM made
        ), indexed AS (
            INSERT INTO wrap (wrapper, path, kek_id) SELECT key, path, $2 FROM made, unnest($5::bytea[]) AS key
        )
        SELECT path FROM made";
    let identity = &record.identity;
    let (path, id, version) =
        (identity.path.as_bytes(), &identity.id.as_bytes()[..], i64::from(identity.version.get()));
    let made = db.query(sql, &[&path, &id, &version, &bytes, &keys_of(record), &schema::VERSION]).await?;
    if !made.is_empty() {
        return Ok(Creation::Created);
    }
    let mut change = db.begin().await?;
    match lock_live(&mut change, &identity.path).await? {
        Some(_) => Ok(Creation::Exists),
        // Only another release's table stays without the row.
        None => match change.query("SELECT version FROM keystrata_schema", &[]).await?.first() {
            Some(row) => check_version(row.try_get(0)?).map(|()| Creation::Exists).map_err(Into::into),
            None => Err(StoreError::incompatible("the PostgreSQL store has lost its schema version").into()),
        },
    }
}

pub(super) async fn rotate(
    db: &mut Lease,
    previous: KekId,
    record: &KekRecord,
    bytes: &[u8],
) -> Result<Rotation, Failure> {
    let path = &record.identity.path;
    let mut change = db.begin().await?;
    match lock_live(&mut change, path).await? {
        Some(account) if account.primary == Some(previous) => {}
        _ => return Ok(Rotation::Superseded),
    }
    let old = match rows::any_record(&mut change, path, previous).await? {
        Some(old) if old.state == KekState::Primary => old,
        _ => return Ok(Rotation::Superseded),
    };
    let retired = StoreError::check_later(old, record)?;
    let retired_bytes = retired.encode().map_err(|error| StoreError::corrupt(path, error))?;
    // The old one first: an account has at most one primary at any time. What wraps it stays.
    replace_record(&mut change, &retired, &retired_bytes).await?;
    insert_records(&mut change, path, &[record], &[bytes]).await?;
    let sql = "UPDATE account SET primary_id = $2 WHERE path = $1";
    change.execute(sql, &[&path.as_bytes(), &&record.identity.id.as_bytes()[..]]).await?;
    change.commit().await?;
    Ok(Rotation::Rotated)
}

pub(super) async fn update(db: &mut Lease, expected: &KekRecord, new: &KekRecord) -> Result<Update, Failure> {
    let (path, id) = (&expected.identity.path, expected.identity.id);
    let mut change = db.begin().await?;
    let Some(account) = lock_live(&mut change, path).await? else { return Ok(Update::Changed) };
    let stored = match rows::any_record(&mut change, path, id).await? {
        Some(stored) if stored == *expected => stored,
        _ => return Ok(Update::Changed),
    };
    let bytes = StoreError::check_update(&stored, new, account.primary == Some(id))?;
    replace_record(&mut change, new, &bytes).await?;
    let sql = "DELETE FROM wrap WHERE path = $1 AND kek_id = $2";
    change.execute(sql, &[&path.as_bytes(), &&id.as_bytes()[..]]).await?;
    insert_wraps(&mut change, path, &[new]).await?;
    change.commit().await?;
    Ok(Update::Updated)
}

pub(super) async fn raise_min_version(db: &mut Lease, path: &KeyPath, to: KekVersion) -> Result<Raise, Failure> {
    let mut change = db.begin().await?;
    if lock_live(&mut change, path).await?.is_none() {
        return Ok(Raise::AbovePrimary);
    }
    let Some(head) = rows::head(&mut change, path).await? else { return Ok(Raise::AbovePrimary) };
    let raise = head.raise(to);
    if raise == Raise::Raised {
        let sql = "UPDATE account SET min_version = $2 WHERE path = $1";
        change.execute(sql, &[&path.as_bytes(), &i64::from(to.get())]).await?;
        change.commit().await?;
    }
    Ok(raise)
}

pub(super) async fn shred(db: &mut Lease, path: &KeyPath, at: u64) -> Result<Shred, Failure> {
    let mut change = db.begin().await?;
    let Some(account) = lock(&mut change, path).await? else { return Ok(Shred::Unknown) };
    if let Some(tombstone) = account.tombstone {
        return Ok(Shred::Already(tombstone));
    }
    let tombstone = Tombstone { at, keks: destroy_records(&mut change, path).await? };
    let sql = "UPDATE account SET primary_id = NULL, shredded_at = $2, shredded_keks = $3 WHERE path = $1";
    change.execute(sql, &[&path.as_bytes(), &at.cast_signed(), &i64::from(tombstone.keks)]).await?;
    change.commit().await?;
    Ok(Shred::Shredded(tombstone))
}

/// Gives the number of records that there were. One that does not parse is deleted: what is left of it cannot be told
/// from a secret.
async fn destroy_records(change: &mut Change<'_>, path: &KeyPath) -> Result<u32, Failure> {
    let sql = "SELECT path, kek_id, version, state, record FROM kek WHERE path = $1";
    let found = change.query(sql, &[&path.as_bytes()]).await?;
    let (mut ids, mut bytes, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    for row in &found {
        let id: Vec<u8> = row.try_get(1)?;
        match rows::read_row(row) {
            Ok(record) => {
                let destroyed = KekRecord { state: KekState::Destroyed, wraps: Vec::new(), ..record };
                bytes.push(destroyed.encode().map_err(|error| StoreError::corrupt(path, error))?);
                ids.push(id);
            }
            Err(_) => broken.push(id),
        }
    }
    change.execute("DELETE FROM wrap WHERE path = $1", &[&path.as_bytes()]).await?;
    let sql = "UPDATE kek SET state = 4, record = new.record
        FROM unnest($2::bytea[], $3::bytea[]) AS new (kek_id, record) WHERE path = $1 AND kek.kek_id = new.kek_id";
    change.execute(sql, &[&path.as_bytes(), &ids, &bytes]).await?;
    if !broken.is_empty() {
        let sql = "DELETE FROM kek WHERE path = $1 AND kek_id = ANY ($2::bytea[])";
        change.execute(sql, &[&path.as_bytes(), &broken]).await?;
    }
    Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
}

pub(super) async fn import(db: &mut Lease, copy: &AccountCopy, bytes: &[Vec<u8>]) -> Result<Import, Failure> {
    let path = copy.path.as_bytes();
    let sql = "INSERT INTO account (path, primary_id, min_version, shredded_at, shredded_keks)
        SELECT $1, $2, $3, $4, $5 FROM keystrata_schema WHERE version = $6 ON CONFLICT (path) DO NOTHING";
    let primary = copy.primary.map(|id| id.as_bytes().to_vec());
    let (at, keks) = copy.tombstone.map(|stone| (stone.at.cast_signed(), i64::from(stone.keks))).unzip();
    let min_version = i64::from(copy.min_version.get());
    let mut change = db.begin().await?;
    let made = change.execute(sql, &[&path, &primary, &min_version, &at, &keks, &schema::VERSION]).await?;
    if made == 0 {
        // Locked, so that no half of a change is compared; the version of the tables is seen to on the way.
        lock(&mut change, &copy.path).await?;
        let is_same = rows::export(&mut change, &copy.path).await?.as_ref() == Some(copy);
        return Ok(if is_same { Import::Same } else { Import::Differs });
    }
    let records: Vec<_> = copy.records.iter().collect();
    let bytes: Vec<_> = bytes.iter().map(Vec::as_slice).collect();
    insert_records(&mut change, &copy.path, &records, &bytes).await?;
    change.commit().await?;
    Ok(Import::Imported)
}

fn keys_of(record: &KekRecord) -> Vec<Vec<u8>> {
    index_keys(record).into_iter().map(Vec::from).collect()
}

async fn insert_records(
    change: &mut Change<'_>,
    path: &KeyPath,
    records: &[&KekRecord],
    bytes: &[&[u8]],
) -> Result<(), Failure> {
    let sql = "INSERT INTO kek (path, kek_id, version, state, record)
        SELECT $1, * FROM unnest($2::bytea[], $3::bigint[], $4::smallint[], $5::bytea[])";
    let ids: Vec<_> = records.iter().map(|record| &record.identity.id.as_bytes()[..]).collect();
    let versions: Vec<_> = records.iter().map(|record| i64::from(record.identity.version.get())).collect();
    let states: Vec<_> = records.iter().map(|record| i16::from(record.state as u8)).collect();
    change.execute(sql, &[&path.as_bytes(), &ids, &versions, &states, &bytes]).await?;
    insert_wraps(change, path, records).await
}

async fn insert_wraps(change: &mut Change<'_>, path: &KeyPath, records: &[&KekRecord]) -> Result<(), Failure> {
    let sql = "INSERT INTO wrap (wrapper, path, kek_id) SELECT key, $1, id FROM unnest($2::bytea[], $3::bytea[]) AS new (key, id)";
    let (mut keys, mut ids) = (Vec::new(), Vec::new());
    for record in records {
        for key in keys_of(record) {
            keys.push(key);
            ids.push(&record.identity.id.as_bytes()[..]);
        }
    }
    change.execute(sql, &[&path.as_bytes(), &keys, &ids]).await?;
    Ok(())
}

async fn replace_record(change: &mut Change<'_>, record: &KekRecord, bytes: &[u8]) -> Result<(), Failure> {
    let sql = "UPDATE kek SET state = $3, record = $4 WHERE path = $1 AND kek_id = $2";
    let (path, id) = (record.identity.path.as_bytes(), &record.identity.id.as_bytes()[..]);
    change.execute(sql, &[&path, &id, &i16::from(record.state as u8), &bytes]).await?;
    Ok(())
}

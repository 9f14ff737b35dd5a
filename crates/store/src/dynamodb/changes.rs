//! What is written: each change one transaction, on condition that the account's head is still the one that it began with.

use std::collections::BTreeSet;

use keystrata_hierarchy::{
    AccountCopy, Creation, Import, KekId, KekRecord, KekState, KekVersion, KeyPath, Raise, Rotation, Shred, StoreError,
    Tombstone, Update,
};

use super::{
    commit::{Base, TRANSACTION, Write},
    error::{Failure, Kind},
    items::{Head, Stored},
    keys::Key,
    list,
    reads::{self, Snapshot},
    table::{Table, pause},
};
use crate::{
    rows::Account,
    wrappers::{IndexKey, index_keys},
};

/// How often a change begins anew because others have changed the account meanwhile.
const ATTEMPTS: u32 = 16;
/// Bytes of records in one transaction: DynamoDB's limit is 4 MB, names and the JSON around them not counted.
const TRANSACTION_BYTES: usize = 2 << 20;

/// Runs a change until it is not in the way of another. `$change` is a block that gives its outcome, or the head, the
/// other writes and the outcome once they are done.
macro_rules! change {
    ($table:expr, $change:expr) => {{
        for attempt in 1..=ATTEMPTS {
            let (head, writes, base, outcome) = match $change {
                Next::Answer(outcome) => return Ok(outcome),
                Next::Commit(head, writes, base, outcome) => (head, writes, base, outcome),
            };
            match $table.commit(&head, writes, &base).await {
                Ok(()) => return Ok(outcome),
                Err(failure) if failure.kind == Kind::Condition => pause(attempt).await,
                Err(failure) => return Err(failure),
            }
        }
        Err($table.busy().into())
    }};
}

enum Next<T> {
    Answer(T),
    Commit(Box<Head>, Vec<Write>, Base, T),
}

impl<T> Next<T> {
    fn replace(head: Head, old: &Head, writes: Vec<Write>, outcome: T) -> Self {
        Self::Commit(Box::new(head), writes, Base::Revision(old.revision.clone()), outcome)
    }
}

/// The head of `path`, unless it is shredded.
async fn live(table: &Table, path: &KeyPath) -> Result<Option<Head>, Failure> {
    let head = reads::head_to_change(table, path).await?;
    if let Some(head) = &head {
        head.account.refuse_if_shredded()?;
    }
    Ok(head)
}

pub(super) async fn create(table: &Table, record: &KekRecord, bytes: &[u8]) -> Result<Creation, Failure> {
    let path = &record.identity.path;
    change!(table, {
        if live(table, path).await?.is_some() {
            return Ok(Creation::Exists);
        }
        let account = Account {
            path: path.clone(),
            primary: Some(record.identity.id),
            min_version: KekVersion::FIRST,
            tombstone: None,
        };
        let head = Head::new(account, Some(Stored::new(record, bytes.to_vec())))?;
        Next::Commit(Box::new(head), list::enter_account(path, [record]), Base::Nothing, Creation::Created)
    })
}

pub(super) async fn rotate(
    table: &Table,
    previous: KekId,
    record: &KekRecord,
    bytes: &[u8],
) -> Result<Rotation, Failure> {
    let path = &record.identity.path;
    change!(table, {
        let head = match live(table, path).await? {
            Some(head) if head.account.primary == Some(previous) => head,
            _ => return Ok(Rotation::Superseded),
        };
        let old = match head.primary().map(|primary| primary.record(path)).transpose()? {
            Some(old) if old.state == KekState::Primary => old,
            _ => return Ok(Rotation::Superseded),
        };
        let retired = StoreError::check_later(old, record)?;
        let retired_bytes = retired.encode().map_err(|error| StoreError::corrupt(path, error))?;
        let retired = Stored::new(&retired, retired_bytes);
        let mut new = head.changed()?.with_primary(Some(Stored::new(record, bytes.to_vec())));
        new.others.toggle(&retired);
        let item = retired.item(&Key::kek(path, &head.life, previous));
        // What is there under its id, if ids are ever given twice, is not overwritten.
        let mut writes = vec![Write::Put { item, only_if: Base::Nothing }];
        writes.extend(list::enter_wrappers(path, &index_keys(record)));
        Next::replace(new, &head, writes, Rotation::Rotated)
    })
}

pub(super) async fn update(table: &Table, expected: &KekRecord, new: &KekRecord) -> Result<Update, Failure> {
    let (path, id) = (&expected.identity.path, expected.identity.id);
    change!(table, {
        if live(table, path).await?.is_none() {
            return Ok(Update::Changed);
        }
        let Some(snapshot) = Snapshot::take(table, path).await? else { return Ok(Update::Changed) };
        let head = &snapshot.head;
        head.account.refuse_if_shredded()?;
        let is_primary = head.account.primary == Some(id);
        let at = snapshot.others.iter().find(|(_, stored)| stored.kek_id() == Some(id));
        let stored = if is_primary { head.primary() } else { at.map(|(_, stored)| stored) };
        match stored.map(|stored| stored.record(path)).transpose()? {
            Some(found) if found == *expected => {}
            _ => return Ok(Update::Changed),
        }
        let replacement = Stored::new(new, StoreError::check_update(expected, new, is_primary)?);
        let mut changed = head.changed()?;
        let mut writes = wrapper_changes(&snapshot, expected, new);
        match at {
            Some((key, stored)) if !is_primary => {
                changed.others.toggle(stored);
                changed.others.toggle(&replacement);
                writes.push(Write::Set { item: replacement.item(key) });
            }
            _ => changed = changed.with_primary(Some(replacement)),
        }
        Next::replace(changed, head, writes, Update::Updated)
    })
}

/// Into which lists of wrappers the account comes by this update, and which it leaves.
fn wrapper_changes(snapshot: &Snapshot, expected: &KekRecord, new: &KekRecord) -> Vec<Write> {
    let path = &expected.identity.path;
    let (before, after) = (index_keys(expected), index_keys(new));
    let mut writes = list::enter_wrappers(path, after.difference(&before));
    if let Some(others) = wrappers_beside(snapshot, expected.identity.id) {
        writes.extend(list::leave_wrappers(path, before.difference(&after).filter(|key| !others.contains(*key))));
    }
    writes
}

/// What wraps the account's other records; `None` if one does not say.
fn wrappers_beside(snapshot: &Snapshot, id: KekId) -> Option<BTreeSet<IndexKey>> {
    let path = &snapshot.head.account.path;
    let all = snapshot.others.iter().map(|(_, stored)| stored).chain(snapshot.head.primary());
    let others = all.filter(|stored| stored.kek_id() != Some(id)).map(|stored| stored.record(path).ok());
    others.map(|record| record.as_ref().map(index_keys)).try_fold(BTreeSet::new(), |mut keys, of_one| {
        keys.extend(of_one?);
        Some(keys)
    })
}

pub(super) async fn raise_min_version(table: &Table, path: &KeyPath, to: KekVersion) -> Result<Raise, Failure> {
    change!(table, {
        let Some(head) = live(table, path).await? else { return Ok(Raise::AbovePrimary) };
        match head.clone().path_head()?.raise(to) {
            Raise::Raised => {
                let mut raised = head.changed()?;
                raised.account.min_version = to;
                Next::replace(raised, &head, Vec::new(), Raise::Raised)
            }
            other => Next::Answer(other),
        }
    })
}

/// The tombstone first, with all that goes into one transaction; from then on nobody is given the rest. Then the rest.
pub(super) async fn shred(table: &Table, path: &KeyPath, at: u64) -> Result<Shred, Failure> {
    let outcome = entomb(table, path, at).await?;
    if outcome != Shred::Unknown {
        sweep(table, path).await?;
    }
    Ok(outcome)
}

async fn entomb(table: &Table, path: &KeyPath, at: u64) -> Result<Shred, Failure> {
    change!(table, {
        let Some(head) = reads::head_to_change(table, path).await? else { return Ok(Shred::Unknown) };
        if let Some(tombstone) = head.account.tombstone {
            return Ok(Shred::Already(tombstone));
        }
        // Even if records of it are lost: the others have to go all the same.
        let Some(snapshot) = Snapshot::seen(table, path).await? else { return Ok(Shred::Unknown) };
        let head = &snapshot.head;
        if let Some(tombstone) = head.account.tombstone {
            return Ok(Shred::Already(tombstone));
        }
        let keks = snapshot.others.len() + usize::from(head.primary().is_some());
        let tombstone = Tombstone { at, keks: u32::try_from(keks).unwrap_or(u32::MAX) };
        let mut dead = head.changed()?.with_primary(None);
        dead.account.tombstone = Some(tombstone);
        let mut writes = destroy(&snapshot)?;
        writes.truncate(TRANSACTION - 1);
        Next::replace(dead, head, writes, Shred::Shredded(tombstone))
    })
}

/// Writes that leave no wrapped secret of the account; that of the primary first, which the head loses by the same
/// transaction. A record that does not parse is deleted: what is left of it cannot be told from a secret.
fn destroy(snapshot: &Snapshot) -> Result<Vec<Write>, StoreError> {
    let Snapshot { head, others, strays, .. } = snapshot;
    let path = &head.account.path;
    let key_of_primary = head.account.primary.map(|id| Key::kek(path, &head.life, id));
    let all = key_of_primary.iter().zip(head.primary()).chain(others.iter().map(|(key, stored)| (key, stored)));
    let (mut writes, mut wrappers) = (Vec::new(), BTreeSet::new());
    for (key, stored) in all {
        match stored.record(path) {
            Ok(record) if record.state == KekState::Destroyed => {}
            Ok(record) => {
                wrappers.extend(index_keys(&record));
                writes.push(Write::Set { item: Stored::destroyed(record)?.item(key) });
            }
            Err(_) => writes.push(Write::Delete { key: key.clone() }),
        }
    }
    writes.extend(strays.iter().map(|key| Write::Delete { key: key.clone() }));
    writes.extend(list::leave_wrappers(path, &wrappers));
    Ok(writes)
}

/// Destroys what is left of a shredded account, until there is nothing: more than goes into a transaction, or what another
/// change was just writing.
async fn sweep(table: &Table, path: &KeyPath) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        let Some(snapshot) = Snapshot::look(table, path).await? else { return Ok(()) };
        let left = destroy(&snapshot)?;
        if left.is_empty() {
            return Ok(());
        }
        for writes in left.chunks(TRANSACTION) {
            table.transact(writes).await?;
        }
    }
    Err(table.busy().into())
}

pub(super) async fn import(table: &Table, copy: &AccountCopy, bytes: &[Vec<u8>]) -> Result<Import, Failure> {
    change!(table, {
        if reads::head_to_change(table, &copy.path).await?.is_some() {
            let is_same = reads::export(table, &copy.path).await?.as_ref() == Some(copy);
            return Ok(if is_same { Import::Same } else { Import::Differs });
        }
        let (head, mut writes) = parts(copy, bytes)?;
        // What does not go into one transaction goes before, where nobody finds it without the head.
        while let Some(end) = overflow(&writes) {
            let rest = writes.split_off(end);
            table.transact(&writes.into_iter().map(|(write, _)| write).collect::<Vec<_>>()).await?;
            writes = rest;
        }
        let writes = writes.into_iter().map(|(write, _)| write).collect();
        Next::Commit(Box::new(head), writes, Base::Nothing, Import::Imported)
    })
}

/// The head of a copy and its other writes, with the bytes of each.
fn parts(copy: &AccountCopy, bytes: &[Vec<u8>]) -> Result<(Head, Vec<(Write, usize)>), StoreError> {
    let AccountCopy { path, records, primary, min_version, tombstone } = copy;
    let account = Account { path: path.clone(), primary: *primary, min_version: *min_version, tombstone: *tombstone };
    let mut head = Head::new(account, None)?;
    let mut writes = Vec::new();
    let mut of_primary = None;
    for (record, bytes) in records.iter().zip(bytes) {
        let stored = Stored::new(record, bytes.clone());
        if *primary == Some(record.identity.id) {
            of_primary = Some(stored);
            continue;
        }
        head.others.toggle(&stored);
        let item = stored.item(&Key::kek(path, &head.life, record.identity.id));
        writes.push((Write::Set { item }, bytes.len()));
    }
    writes.extend(list::enter_account(path, records).into_iter().map(|write| (write, 0)));
    Ok((head.with_primary(of_primary), writes))
}

/// How many of the writes go into a transaction before the last one, if not all fit into that with the head.
fn overflow(writes: &[(Write, usize)]) -> Option<usize> {
    let mut bytes = 0;
    let fits = |(count, (_, len)): &(usize, &(Write, usize))| {
        bytes += len;
        *count < TRANSACTION - 1 && (bytes <= TRANSACTION_BYTES || *count == 0)
    };
    let fitting = writes.iter().enumerate().take_while(fits).count();
    (fitting < writes.len()).then_some(fitting)
}

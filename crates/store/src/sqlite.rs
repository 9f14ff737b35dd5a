//! A store in an SQLite file.

mod backup;
mod changes;
mod connections;
mod error;
mod ledger;
mod rows;
mod schema;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Creation, Import, KekStore, PathHead, Raise, Rotation, Shred, StoreError, Update, WrapperQuery,
};
use keystrata_primitives::{KekId, KekRecord, KekVersion, KeyPath};
use rusqlite::Connection;

pub use self::backup::SqliteBackup;
use self::{
    connections::{Connections, Lane},
    error::Failure,
};
use crate::Migration;

/// A [`KekStore`] in one SQLite file, for any number of tasks and processes of one machine.
///
/// The file is in write-ahead mode with full synchronisation: a creation that returned survives a kill and a loss of
/// power. Beside it SQLite keeps `-wal` and `-shm` while it is in use; the three belong together, so back up with
/// [`back_up`](Self::back_up) or SQLite's own tools, not by copying the file. It must lie on a local disk: SQLite's locks do not work
/// over network file systems.
///
/// Calls run on the blocking threads of the tokio runtime that they are made on, reads four at a time and writes one at
/// a time. A call that is dropped is still carried out once it has begun. A call that finds the file locked by
/// another process waits up to five seconds. Dropping the store closes the file, which may write to the disk.
///
/// If the file is moved or replaced, the next call uses what is at the path then.
///
/// # Fork
/// SQLite's file locks do not follow a process into a forked child, and what a child wrote that relied on them would be
/// lost. So a child never uses its parent's connections, and opens its own only if the parent had none at the fork: fork
/// before the first call (opening a store leaves no connection behind) or after dropping every store. Otherwise every call
/// in the child is [`StoreError::Unavailable`]. A program that uses SQLite by itself has to keep to the same order.
///
/// # Shredding
/// What a shredding deletes is overwritten with zeros in the file, and the write-ahead log is moved into it and cut off,
/// unless another process reads at that moment; then the next that finds the file idle does so. What stays are the
/// blocks of the disk that the log had, as far as the file system and the device keep them, and every backup.
///
/// # Do not open the file yourself
/// On Unix, closing *any* handle on the file releases all locks that this process has on it. Leave it to SQLite as long as
/// a store is open.
pub struct SqliteKekStore {
    connections: Arc<Connections>,
}

impl SqliteKekStore {
    /// Opens the store at `path`, and makes an empty one if nothing is there.
    ///
    /// A new file appears whole or not at all and is private to its owner (mode 0600). Several processes may open the
    /// same new path at once. A relative path is taken from the current folder of now.
    ///
    /// # Errors
    /// [`StoreError::Incompatible`] for what is no KEK store that this release can use: another kind of file, an empty
    /// one, another program's database, one of a newer release. [`StoreError::Unavailable`] if the system gives no access
    /// or no space. Nothing that exists is changed then.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), schema::IfMissing::Create).await
    }

    /// Opens the store at `path`, which has to be there: for commands that have no use for an empty store.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`StoreError::Unavailable`] if nothing is at `path`.
    pub async fn open_existing(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), schema::IfMissing::Refuse).await
    }

    /// What opening the store at `path` will do to it, if an earlier release wrote it: the first call of this release carries
    /// it over. Changes nothing.
    ///
    /// # Errors
    /// As [`open_existing`](Self::open_existing).
    pub async fn plan_migration(path: impl AsRef<Path>) -> Result<Migration, StoreError> {
        Connections::new(absolute(path.as_ref())?).plan().await
    }

    /// Writes a copy of the store at `path`, as of one moment, to a new file at `to`, while tasks and processes use it. The copy
    /// is a store of its own; it was checked before it got its name, and is private to its owner. One that an earlier release
    /// wrote is copied as it is, and not carried over.
    ///
    /// It holds what a later [shredding](KekStore::shred) destroys: delete backups too, or wait until they are too old.
    ///
    /// # Errors
    /// As [`open_existing`](Self::open_existing); [`StoreError::Incompatible`] also if something is at `to` already, which stays
    /// as it is. No part of a copy is left then.
    pub async fn back_up(path: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<SqliteBackup, StoreError> {
        Connections::new(absolute(path.as_ref())?).back_up(absolute(to.as_ref())?).await
    }

    async fn open_with(path: &Path, if_missing: schema::IfMissing) -> Result<Self, StoreError> {
        let connections = Arc::new(Connections::new(absolute(path)?));
        connections.prepare(if_missing).await?;
        Ok(Self { connections })
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.connections.run(Lane::Readers, job).await
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.connections.run(Lane::Writer, job).await
    }
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|error| {
        StoreError::unavailable(format!("{} is not the path of a file: give one", error::shown(path)), error)
    })
}

impl fmt::Debug for SqliteKekStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteKekStore").field("path", &self.connections.path()).finish_non_exhaustive()
    }
}

#[async_trait]
impl KekStore for SqliteKekStore {
    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        let path = path.clone();
        self.read(move |db| rows::head(db, &path)).await
    }

    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        let path = path.clone();
        self.read(move |db| rows::record(db, &path, id)).await
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        let path = path.clone();
        self.read(move |db| rows::export(db, &path)).await
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        let bytes = StoreError::check_new_primary(record)?;
        let record = record.clone();
        self.write(move |db| changes::create(db, &record, &bytes)).await
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        let bytes = StoreError::check_new_primary(record)?;
        let record = record.clone();
        self.write(move |db| changes::rotate(db, previous, &record, &bytes)).await
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        StoreError::check_same_kek(expected, new)?;
        let (expected, new) = (expected.clone(), new.clone());
        self.write(move |db| changes::update(db, &expected, &new)).await
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        let path = path.clone();
        self.write(move |db| changes::raise_min_version(db, &path, to)).await
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        let path = path.clone();
        self.write(move |db| changes::shred(db, &path, at)).await
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        let bytes = StoreError::check_copy(copy)?;
        let copy = copy.clone();
        self.write(move |db| changes::import(db, &copy, &bytes)).await
    }

    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        let after = after.cloned();
        self.read(move |db| rows::accounts(db, after.as_ref(), limit)).await
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        let (wrapper, after) = (wrapper.clone(), after.map(|(path, id)| (path.clone(), id)));
        self.read(move |db| rows::by_wrapper(db, &wrapper, after.as_ref(), limit)).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keystrata_primitives::{KekCheck, KekIdentity, KekState, KekVersion, RootKeyId, Suite, WrappedSecret, Wrapper};
    use rusqlite::TransactionBehavior;

    use super::*;

    fn record(account: &str) -> KekRecord {
        let path = KeyPath::account(account).unwrap();
        let id = KekId::generate().unwrap();
        KekRecord {
            identity: KekIdentity { suite: Suite::default(), version: KekVersion::FIRST, id, path },
            state: KekState::Primary,
            check: KekCheck::from_bytes([1; 32]),
            created_at: 0,
            retired_at: 0,
            wraps: vec![WrappedSecret {
                wrapper: Wrapper::Root(RootKeyId::new("test:root").unwrap()),
                ciphertext: vec![2; 8192],
            }],
        }
    }

    /// A store with one account whose writer is idle, so that a test can change it.
    async fn store(folder: &tempfile::TempDir) -> SqliteKekStore {
        let store = SqliteKekStore::open(folder.path().join("keys.db")).await.unwrap();
        store.create(&record("first")).await.unwrap();
        store
    }

    /// The outcome of a creation that must fail, and does not stand in the way of the next.
    async fn refusal(store: &SqliteKekStore, what_to_do: &str) {
        let refused = store.create(&record("second")).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused}");
        let message = refused.to_string();
        assert!(message.contains(what_to_do) && message.contains("keys.db") && !message.contains('\n'), "{message}");
        assert!(store.primary(&KeyPath::account("second").unwrap()).await.unwrap().is_none());
        assert_eq!(store.create(&record("second")).await.unwrap(), Creation::Created);
    }

    #[tokio::test]
    async fn a_full_disk_is_unavailable_and_nothing_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store.connections.change_writer(|db| {
            let pages: u32 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
            db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        });
        refusal(&store, "free some").await;
    }

    #[tokio::test]
    async fn a_database_that_turns_read_only_is_unavailable() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store.connections.change_writer(|db| db.pragma_update(None, "query_only", true).unwrap());
        refusal(&store, "must be able to write").await;
    }

    #[tokio::test]
    async fn a_lock_held_too_long_is_unavailable_and_reads_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store.connections.change_writer(|db| db.busy_timeout(Duration::ZERO).unwrap());
        let mut other = Connection::open(folder.path().join("keys.db")).unwrap();
        let lock = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let refused = store.create(&record("second")).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused}");
        assert!(refused.to_string().contains("try again"), "{refused}");
        assert!(store.primary(&KeyPath::account("first").unwrap()).await.unwrap().is_some());
        lock.rollback().unwrap();
        assert_eq!(store.create(&record("second")).await.unwrap(), Creation::Created);
    }

    #[tokio::test]
    async fn every_connection_synchronises_fully() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store.connections.change_writer(|db| {
            let synchronous: i64 = db.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
            let journal: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
            assert_eq!((synchronous, journal.as_str()), (2, "wal"));
        });
    }
}

//! A store in a PostgreSQL database.

mod changes;
mod config;
mod connections;
mod error;
mod rows;
mod schema;
mod tls;

use std::fmt;

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Creation, Import, KekId, KekRecord, KekStore, KekVersion, KeyPath, PathHead, Raise, Rotation, Shred,
    StoreError, Update, WrapperQuery,
};

pub use self::config::{PostgresConfig, PostgresConfigError};
use self::connections::Connections;
use crate::Migration;

/// A [`KekStore`] in one schema of a PostgreSQL database, for any number of machines; tested with
/// version 15.
///
/// Every read and write goes to the server that takes writes (of several hosts in the URL, the first that does), so that a
/// read sees every write before it. Every write is one transaction that is flushed to disk, and to the replicas that the
/// server's `synchronous_standby_names` lists, before it is answered: a session that would not wait for the disk is told
/// to, and a server with `fsync` or `full_page_writes` off is refused.
///
/// [`migrate`](Self::migrate) makes the tables, or brings older ones forward; it needs a role that may. All else needs
/// to use the schema, and to select, insert, update and delete in its tables: see `docs/stores.md`.
///
/// A call takes a connection of the pool, opening one if fewer than [`PostgresConfig::pool_size`] are open, and fails when
/// [`PostgresConfig::call_timeout`] is over. Connections live on the tokio runtime that the call which opened them ran on; one that was
/// closed is noticed and replaced, and a read whose connection breaks is tried once more on another. A call that is
/// dropped may still be carried out. A forked child opens connections of its own.
pub struct PostgresKekStore {
    connections: Connections,
}

impl PostgresKekStore {
    /// Connects once, and checks that the schema holds a store of this release.
    ///
    /// # Errors
    /// [`StoreError::Incompatible`] if the schema holds no KEK store, or one that this release does not know, or if the
    /// server may lose what it has confirmed. [`StoreError::Unavailable`] if it cannot be reached or used.
    pub async fn open(config: PostgresConfig) -> Result<Self, StoreError> {
        let connections = Connections::new(config).await?;
        connections.check().await?;
        Ok(Self { connections })
    }

    /// Makes the schema and its tables, or brings those of an older release forward; does nothing if they are of this one.
    /// Several processes may do it at once. Gives the version that the schema has then.
    ///
    /// Older releases do not write to a schema that was brought forward.
    ///
    /// # Errors
    /// As [`open`](Self::open). Nothing is changed then.
    pub async fn migrate(config: PostgresConfig) -> Result<i32, StoreError> {
        schema::migrate(&Connections::new(config).await?).await
    }

    /// What [`migrate`](Self::migrate) would do; from version 0 where there is no store. Changes nothing.
    ///
    /// # Errors
    /// As `migrate`.
    pub async fn plan_migration(config: PostgresConfig) -> Result<Migration, StoreError> {
        schema::plan(&Connections::new(config).await?).await
    }
}

impl fmt::Debug for PostgresKekStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresKekStore").field("config", self.connections.config()).finish_non_exhaustive()
    }
}

/// A job that takes a connection and gives it back.
macro_rules! with {
    ($db:ident => $job:expr) => {
        |mut $db| async move {
            let answer = $job.await;
            ($db, answer)
        }
    };
}

#[async_trait]
impl KekStore for PostgresKekStore {
    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        self.connections.read(with!(db => rows::head(&mut db, path))).await
    }

    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        self.connections.read(with!(db => rows::record(&mut db, path, id))).await
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        self.connections.read(with!(db => rows::export(&mut db, path))).await
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        let bytes = StoreError::check_new_primary(record)?;
        self.connections.write(with!(db => changes::create(&mut db, record, &bytes))).await
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        let bytes = StoreError::check_new_primary(record)?;
        self.connections.write(with!(db => changes::rotate(&mut db, previous, record, &bytes))).await
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        StoreError::check_same_kek(expected, new)?;
        self.connections.write(with!(db => changes::update(&mut db, expected, new))).await
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        self.connections.write(with!(db => changes::raise_min_version(&mut db, path, to))).await
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        self.connections.write(with!(db => changes::shred(&mut db, path, at))).await
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        let bytes = StoreError::check_copy(copy)?;
        self.connections.write(with!(db => changes::import(&mut db, copy, &bytes))).await
    }

    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        self.connections.read(with!(db => rows::accounts(&mut db, after, limit))).await
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        self.connections.read(with!(db => rows::by_wrapper(&mut db, wrapper, after, limit))).await
    }
}

//! A store in a DynamoDB table.

mod changes;
mod commit;
mod config;
mod endpoint;
mod error;
mod items;
mod keys;
mod list;
mod reads;
mod schema;
mod table;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use keystrata_hierarchy::{
    AccountCopy, Creation, Import, KekId, KekRecord, KekStore, KekVersion, KeyPath, PathHead, Raise, Rotation, Shred,
    StoreError, Update, WrapperQuery,
};

pub use self::config::{DynamoDbConfig, DynamoDbConfigError};
use self::{error::Failure, table::Table};
use crate::Migration;

/// A [`KekStore`] in one DynamoDB table, for any number of machines of one region.
///
/// Every read is strongly consistent. Every change of an account is one transaction, on condition that the account is as it
/// was when the change began, and durable in several availability zones when it is answered. What goes beyond DynamoDB's 100
/// items of a transaction goes before it where nobody finds it (an account of some hundred KEKs that is imported), or
/// after it, when nobody is given it any more (one that is shredded).
///
/// [`migrate`](Self::migrate) makes the table. All else needs to get, query, put and delete items of it and nothing more: see
/// `docs/stores.md`.
///
/// A request that DynamoDB refused because it is busy, or because another transaction is in the way, is sent up to eight times
/// with growing pauses; a read without an answer once more; all of it within [`DynamoDbConfig::call_timeout`]. A change
/// without an answer is looked into and, if it was not done, sent once more: its condition can hold only once. If even that
/// does not tell, it is [`StoreError::Unavailable`]. The SDK's own
/// retries are off. A call that is dropped may still be carried out. A forked child has connections of its own.
///
/// A global table's replicas in other regions follow later: all processes have to use the same region.
pub struct DynamoDbKekStore {
    table: Arc<Table>,
}

impl DynamoDbKekStore {
    /// Finds region, credentials and endpoint, and checks that the table holds a store of this release.
    ///
    /// # Errors
    /// [`StoreError::Incompatible`] if the table is not that of a KEK store, or of one that this release does not know.
    /// [`StoreError::Unavailable`] if it is not there, or cannot be reached or used.
    pub async fn open(config: DynamoDbConfig) -> Result<Self, StoreError> {
        let table = Table::new(config).await?;
        table.in_time(schema::open(&table)).await?;
        Ok(Self { table: Arc::new(table) })
    }

    /// Makes the table, paid by request, with deletion protection and point-in-time recovery, unless there is one; waits until
    /// it can be used, and writes down the schema version. Does nothing if that is there. Several processes may do it
    /// at once. Gives the version that the table has then.
    ///
    /// A table that you have made yourself has a partition key `pk` and a sort key `sk`, both strings; of its settings only
    /// point-in-time recovery is touched.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancellation
    /// Dropping the future may leave a table that is no store yet. Asking again goes on.
    pub async fn migrate(config: DynamoDbConfig) -> Result<i32, StoreError> {
        schema::migrate(&Table::new(config).await?).await
    }

    /// What [`migrate`](Self::migrate) would do; from version 0 where there is no store. Changes nothing.
    ///
    /// # Errors
    /// As `migrate`.
    pub async fn plan_migration(config: DynamoDbConfig) -> Result<Migration, StoreError> {
        let table = Table::new(config).await?;
        table.in_time(schema::plan(&table)).await
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, Failure>> + Send) -> Result<T, StoreError> {
        self.table.in_time(async { Ok(call.await?) }).await
    }
}

impl fmt::Debug for DynamoDbKekStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbKekStore").field("config", self.table.config()).finish_non_exhaustive()
    }
}

#[async_trait]
impl KekStore for DynamoDbKekStore {
    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        let head = self.call(reads::head(&self.table, path)).await?;
        head.map(items::Head::path_head).transpose()
    }

    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        self.call(reads::record(&self.table, path, id)).await
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        self.call(reads::export(&self.table, path)).await
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        let bytes = StoreError::check_new_primary(record)?;
        self.call(changes::create(&self.table, record, &bytes)).await
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        let bytes = StoreError::check_new_primary(record)?;
        self.call(changes::rotate(&self.table, previous, record, &bytes)).await
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        StoreError::check_same_kek(expected, new)?;
        self.call(changes::update(&self.table, expected, new)).await
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        self.call(changes::raise_min_version(&self.table, path, to)).await
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        self.call(changes::shred(&self.table, path, at)).await
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        let bytes = StoreError::check_copy(copy)?;
        self.call(changes::import(&self.table, copy, &bytes)).await
    }

    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        self.call(reads::accounts(&self.table, after, limit)).await
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        self.call(reads::by_wrapper(&self.table, wrapper, after, limit)).await
    }
}

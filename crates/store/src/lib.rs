//! KEK stores for Keystrata: adapters that put a database behind [`KekStore`](keystrata_hierarchy::KekStore).
//!
//! | adapter | feature | for |
//! |---|---|---|
#![cfg_attr(
    feature = "sqlite",
    doc = "| [`SqliteKekStore`] | `sqlite`, on by default | one machine, any number of processes |"
)]
#![cfg_attr(not(feature = "sqlite"), doc = "| `SqliteKekStore` | `sqlite`, off in this build | one machine |")]
#![cfg_attr(feature = "postgres", doc = "| [`PostgresKekStore`] | `postgres` | a fleet |")]
#![cfg_attr(not(feature = "postgres"), doc = "| `PostgresKekStore` | `postgres`, off in this build | a fleet |")]
#![cfg_attr(feature = "dynamodb", doc = "| [`DynamoDbKekStore`] | `dynamodb` | a fleet in AWS |")]
#![cfg_attr(not(feature = "dynamodb"), doc = "| `DynamoDbKekStore` | `dynamodb`, off in this build | a fleet in AWS |")]
//!
//! `docs/stores.md` says how each is set up and backed up, and what its errors mean.
#![cfg_attr(
    feature = "sqlite",
    doc = r#"
```
use keystrata_hierarchy::{KekStore, KeyPath};
use keystrata_store::SqliteKekStore;

# #[tokio::main]
# async fn main() -> Result<(), Box<dyn std::error::Error>> {
# let folder = tempfile::tempdir()?;
# let path = folder.path().join("keys.db");
let store = SqliteKekStore::open(&path).await?;
assert!(store.primary(&KeyPath::account("acme")?).await?.is_none());

let again = SqliteKekStore::open_existing(&path).await?; // never makes a store by a typo
assert!(again.primaries(None, 10).await?.is_empty());
# Ok(())
# }
```
"#
)]
//! [`open()`] makes one from a URI, so that a service moves from one to another by its settings alone.
//!
//! A store of your own implements `KekStore` and runs `keystrata_hierarchy::test_util::conformance::kek_store`.
#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

#[cfg(feature = "dynamodb")]
mod dynamodb;
mod migration;
mod open;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "dynamodb"))]
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "dynamodb"))]
mod wrappers;

#[cfg(feature = "dynamodb")]
pub use self::dynamodb::{DynamoDbConfig, DynamoDbConfigError, DynamoDbKekStore};
#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresConfig, PostgresConfigError, PostgresKekStore};

#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteBackup, SqliteKekStore};
pub use self::{
    migration::Migration,
    open::{OpenStoreError, StoreUri, create, migrate, open, plan_migration},
};

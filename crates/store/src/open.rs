//! From a URI to a store.

use std::{path::PathBuf, sync::Arc};

use keystrata_hierarchy::{KekStore, StoreError};

use crate::Migration;
#[cfg(feature = "sqlite")]
use crate::SqliteKekStore;
#[cfg(feature = "dynamodb")]
use crate::{DynamoDbConfig, DynamoDbKekStore};
#[cfg(feature = "postgres")]
use crate::{PostgresConfig, PostgresKekStore};

/// Opens the store that `uri` names, which has to be there: a misspelt name must not become a new, empty store.
///
/// | URI | store | cargo feature |
/// |---|---|---|
/// | `sqlite:PATH` | a file of this machine | `sqlite`, on by default |
/// | `postgres://USER@db.example/DATABASE` | PostgreSQL | `postgres` |
/// | `dynamodb:TABLE?region=…` | DynamoDB; see `DynamoDbConfig::from_uri` | `dynamodb` |
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let uri = format!("sqlite:{}", folder.path().join("keys.db").display());
/// keystrata_store::create(&uri).await?; // once
/// let store = keystrata_store::open(&uri).await?;
/// assert!(store.accounts(None, 10).await?.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`OpenStoreError`], in one line that says what to do and repeats nothing of the URI that might be secret.
///
/// # Cancellation
/// Dropping the future opens nothing.
pub async fn open(uri: &str) -> Result<Arc<dyn KekStore>, OpenStoreError> {
    match StoreUri::parse(uri)? {
        #[cfg(feature = "sqlite")]
        StoreUri::Sqlite(path) => Ok(Arc::new(SqliteKekStore::open_existing(path).await?)),
        #[cfg(feature = "postgres")]
        StoreUri::Postgres => Ok(Arc::new(PostgresKekStore::open(postgres(uri)?).await?)),
        #[cfg(feature = "dynamodb")]
        StoreUri::DynamoDb => Ok(Arc::new(DynamoDbKekStore::open(dynamodb(uri)?).await?)),
        #[allow(unreachable_patterns)] // where all are compiled
        other => Err(other.feature_off()),
    }
}

/// [`open`], and makes an empty store first if nothing is there.
///
/// # Errors
/// As `open`.
///
/// # Cancellation
/// Dropping the future may leave an empty store, never part of one.
pub async fn create(uri: &str) -> Result<Arc<dyn KekStore>, OpenStoreError> {
    match StoreUri::parse(uri)? {
        #[cfg(feature = "sqlite")]
        StoreUri::Sqlite(path) => Ok(Arc::new(SqliteKekStore::open(path).await?)),
        #[cfg(feature = "postgres")]
        StoreUri::Postgres => {
            PostgresKekStore::migrate(postgres(uri)?).await?;
            open(uri).await
        }
        #[cfg(feature = "dynamodb")]
        StoreUri::DynamoDb => {
            DynamoDbKekStore::migrate(dynamodb(uri)?).await?;
            open(uri).await
        }
        #[allow(unreachable_patterns)] // where all are compiled
        other => Err(other.feature_off()),
    }
}

/// What [`migrate`] would do to the store that `uri` names. Changes nothing. An SQLite file has to be there; where a server has
/// no store yet, the schema version is 0.
///
/// # Errors
/// As [`open`]; a store of a newer release is [`StoreError::Incompatible`].
pub async fn plan_migration(uri: &str) -> Result<Migration, OpenStoreError> {
    match StoreUri::parse(uri)? {
        #[cfg(feature = "sqlite")]
        StoreUri::Sqlite(path) => Ok(SqliteKekStore::plan_migration(path).await?),
        #[cfg(feature = "postgres")]
        StoreUri::Postgres => Ok(PostgresKekStore::plan_migration(postgres(uri)?).await?),
        #[cfg(feature = "dynamodb")]
        StoreUri::DynamoDb => Ok(DynamoDbKekStore::plan_migration(dynamodb(uri)?).await?),
        #[allow(unreachable_patterns)] // where all are compiled
        other => Err(other.feature_off()),
    }
}

/// Brings the store that `uri` names to the schema of this release, and tells what it did. On a server it makes a store where
/// there is none, which takes a role that may. Once all is there, this does nothing.
///
/// # Errors
/// As [`plan_migration`].
///
/// # Cancellation
/// Dropping the future may leave the store as it was or migrated; a DynamoDB table also made and without a store yet.
pub async fn migrate(uri: &str) -> Result<Migration, OpenStoreError> {
    let plan = plan_migration(uri).await?;
    match StoreUri::parse(uri)? {
        _ if plan.steps.is_empty() => {}
        #[cfg(feature = "postgres")]
        StoreUri::Postgres => drop(PostgresKekStore::migrate(postgres(uri)?).await?),
        #[cfg(feature = "dynamodb")]
        StoreUri::DynamoDb => drop(DynamoDbKekStore::migrate(dynamodb(uri)?).await?),
        // A file is carried over by whoever opens it.
        _ => drop(open(uri).await?),
    }
    Ok(plan)
}

#[cfg(feature = "postgres")]
fn postgres(uri: &str) -> Result<PostgresConfig, OpenStoreError> {
    PostgresConfig::from_url(uri).map_err(|error| OpenStoreError::Malformed { why: error.to_string() })
}

#[cfg(feature = "dynamodb")]
fn dynamodb(uri: &str) -> Result<DynamoDbConfig, OpenStoreError> {
    DynamoDbConfig::from_uri(uri).map_err(|error| OpenStoreError::Malformed { why: error.to_string() })
}

/// What a store's URI names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreUri {
    /// `sqlite:PATH`.
    Sqlite(PathBuf),
    /// `postgres://…` or `postgresql://…`, whose password is not shown.
    Postgres,
    /// `dynamodb:…`.
    DynamoDb,
}

impl StoreUri {
    /// Checks the form of a URI, as far as its feature is compiled, without opening anything.
    ///
    /// # Errors
    /// [`OpenStoreError::UnknownScheme`] or [`OpenStoreError::Malformed`].
    pub fn parse(uri: &str) -> Result<Self, OpenStoreError> {
        let malformed = |why: &str| Err(OpenStoreError::Malformed { why: why.to_owned() });
        match uri.split_once(':') {
            // SQLite's own name for a database that is gone at exit; KEKs in it would be gone too.
            Some(("sqlite", ":memory:")) => {
                malformed("KEKs must outlive the process: name a file, as in sqlite:keystrata.db")
            }
            Some(("sqlite", "")) => malformed("name a file, as in sqlite:keystrata.db"),
            Some(("sqlite", path)) => Ok(Self::Sqlite(path.into())),
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => postgres(uri).map(|_| Self::Postgres),
            #[cfg(not(feature = "postgres"))]
            Some(("postgres" | "postgresql", rest)) if rest.len() > 2 && rest.starts_with("//") => Ok(Self::Postgres),
            #[cfg(not(feature = "postgres"))]
            Some(("postgres" | "postgresql", _)) => {
                malformed("write a PostgreSQL store as postgres://USER@db.example/DATABASE")
            }
            #[cfg(feature = "dynamodb")]
            Some(("dynamodb", _)) => dynamodb(uri).map(|_| Self::DynamoDb),
            #[cfg(not(feature = "dynamodb"))]
            Some(("dynamodb", "")) => malformed("name a table, as in dynamodb:keystrata"),
            #[cfg(not(feature = "dynamodb"))]
            Some(("dynamodb", _)) => Ok(Self::DynamoDb),
            _ => Err(OpenStoreError::UnknownScheme),
        }
    }

    fn feature_off(&self) -> OpenStoreError {
        let (service, feature) = match self {
            Self::Sqlite(_) => ("SQLite", "sqlite"),
            Self::Postgres => ("PostgreSQL", "postgres"),
            Self::DynamoDb => ("DynamoDB", "dynamodb"),
        };
        OpenStoreError::FeatureOff { service, feature }
    }
}

/// Why there is no store for a URI. Each message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// No scheme, or none that is known.
    #[error("a store is named by a URI that begins with sqlite:, postgres: or dynamodb:, as in sqlite:keystrata.db")]
    UnknownScheme,
    /// The scheme is known, and this build has not compiled it.
    #[error("this build has no {service}: build it with the cargo feature `{feature}`")]
    FeatureOff {
        /// What the scheme stands for.
        service: &'static str,
        /// The cargo feature, of `keystrata-store` and of the `keystrata` command.
        feature: &'static str,
    },
    /// The rest of the URI is not what its scheme wants.
    #[error("{why}")]
    Malformed {
        /// What to write.
        why: String,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_compiled_says_which_feature_it_needs() {
        let off: &[(&str, &str)] = &[
            #[cfg(not(feature = "postgres"))]
            ("postgres://app:hunter2@db.example/keys", "`postgres`"),
            #[cfg(not(feature = "dynamodb"))]
            ("dynamodb:keystrata", "`dynamodb`"),
        ];
        for (uri, feature) in off {
            for message in [
                open(uri).await.map(drop).unwrap_err().to_string(),
                create(uri).await.map(drop).unwrap_err().to_string(),
                migrate(uri).await.unwrap_err().to_string(),
            ] {
                assert!(message.contains(feature) && !message.contains("hunter2"), "{message}");
            }
        }
    }

    #[test]
    fn what_names_no_store_is_refused_in_one_line_and_not_repeated() {
        for uri in [
            "",
            "keys.db",
            "sqlite",
            "sqlite:",
            "sqlite::memory:",
            "postgres:",
            "postgres:hunter2",
            "dynamodb:",
            "mysql://hunter2@db.example",
        ] {
            let message = StoreUri::parse(uri).unwrap_err().to_string();
            assert!(!message.contains('\n') && !message.contains("hunter2"), "{message}");
        }
        assert_eq!(StoreUri::parse("sqlite:odd:name").unwrap(), StoreUri::Sqlite("odd:name".into()));
    }
}

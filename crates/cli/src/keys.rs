//! Opens what the settings name.

use std::sync::Arc;

use anyhow::Result;
use keystrata_hierarchy::{Hierarchy, RootKey};
use keystrata_store::SqliteKekStore;

use crate::{
    args::SettingsArgs,
    kms::{GuardedRoot, KmsBudget},
    settings::{RootLocation, StoreLocation},
};

/// The engine over the store and the root key of the settings; both must exist.
pub(crate) async fn open(settings: &SettingsArgs) -> Result<Hierarchy> {
    let (root, store) = (settings.root()?, settings.store()?);
    let root = open_root(&root, settings.kms_budget(&root)?).await?;
    let store = open_store(&store).await?;
    Ok(Hierarchy::builder().root_key(root.key()).store(store).build()?)
}

/// A root key that exists.
pub(crate) enum OpenRoot {
    /// In a file.
    Local(Arc<dyn RootKey>),
    /// In a KMS.
    Kms(GuardedRoot),
}

impl OpenRoot {
    pub(crate) fn key(&self) -> Arc<dyn RootKey> {
        match self {
            Self::Local(root) => Arc::clone(root),
            Self::Kms(root) => Arc::clone(root) as Arc<dyn RootKey>,
        }
    }
}

/// The root key, which must exist, behind the budget that one in a KMS must have.
pub(crate) async fn open_root(location: &RootLocation, budget: Option<KmsBudget>) -> Result<OpenRoot> {
    let root = keystrata_kms::open(&location.to_string()).await?;
    Ok(match budget {
        Some(budget) => OpenRoot::Kms(budget.around(root)),
        None => OpenRoot::Local(root),
    })
}

/// The store, which must exist: a misspelt path must not become a new, empty store.
pub(crate) async fn open_store(location: &StoreLocation) -> Result<SqliteKekStore> {
    Ok(SqliteKekStore::open_existing(location.path()).await?)
}

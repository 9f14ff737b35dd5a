//! Opens what the settings name.

use std::sync::Arc;

use anyhow::Result;
use keystrata_hierarchy::{Hierarchy, RootKey};
use keystrata_store::SqliteKekStore;

use crate::{
    args::SettingsArgs,
    settings::{RootLocation, StoreLocation},
};

/// The engine over the store and the root key of the settings; both must exist.
pub(crate) async fn open(settings: &SettingsArgs) -> Result<Hierarchy> {
    let (root, store) = (settings.root()?, settings.store()?);
    let root = open_root(&root).await?;
    let store = open_store(&store).await?;
    Ok(Hierarchy::builder().root_key(root).store(store).build()?)
}

/// The root key, which must exist.
pub(crate) async fn open_root(location: &RootLocation) -> Result<Arc<dyn RootKey>> {
    Ok(keystrata_kms::open(&location.to_string()).await?)
}

/// The store, which must exist: a misspelt path must not become a new, empty store.
pub(crate) async fn open_store(location: &StoreLocation) -> Result<SqliteKekStore> {
    Ok(SqliteKekStore::open_existing(location.path()).await?)
}

//! Opens what the settings name.

use std::sync::Arc;

use anyhow::Result;
use keystrata_hierarchy::{Hierarchy, KekStore, RootKey, Roots};
use keystrata_kms::Budget;
use keystrata_store::{Migration, SqliteKekStore};

use crate::{
    args::SettingsArgs,
    kms::{self, GuardedRoot},
    settings::{RootLocation, StoreLocation},
};

/// The engine over the store and the root keys of the settings; all must exist.
pub(crate) async fn open(settings: &SettingsArgs) -> Result<Hierarchy> {
    open_with_store(settings).await.map(|(keys, _)| keys)
}

/// The same, and the store.
pub(crate) async fn open_with_store(settings: &SettingsArgs) -> Result<(Hierarchy, Arc<dyn KekStore>)> {
    let (_, location) = (settings.root()?, settings.store()?); // before anything is opened
    let mut roots = Roots::builder();
    for (nth, root) in open_roots(settings).await?.iter().enumerate() {
        roots = if nth == 0 { roots.current(root.key()) } else { roots.former(root.key()) };
    }
    let store = open_store(&location).await?;
    let keys = Hierarchy::builder().roots(roots.build()?).store(Arc::clone(&store)).build()?;
    Ok((keys, store))
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

/// The root keys of the settings, the current one first, behind one budget.
pub(crate) async fn open_roots(settings: &SettingsArgs) -> Result<Vec<OpenRoot>> {
    let locations = settings.roots()?;
    let budget = settings.shared_budget(&locations)?;
    let mut roots = Vec::new();
    for location in &locations {
        roots.push(open_root(location, budget.as_ref()).await?);
    }
    Ok(roots)
}

/// The root key, which must exist, behind the budget that one in a KMS must have.
pub(crate) async fn open_root(location: &RootLocation, budget: Option<&Arc<Budget>>) -> Result<OpenRoot> {
    let root = keystrata_kms::open(&location.to_string()).await?;
    Ok(match (location, budget) {
        (RootLocation::Kms(_), Some(budget)) => OpenRoot::Kms(kms::guarded(root, Arc::clone(budget))),
        _ => OpenRoot::Local(root),
    })
}

/// The store, which must exist: a misspelt path must not become a new, empty store.
pub(crate) async fn open_store(location: &StoreLocation) -> Result<Arc<dyn KekStore>> {
    Ok(match location {
        // Not by its URI: a path need not be text.
        StoreLocation::Sqlite(path) => Arc::new(SqliteKekStore::open_existing(path).await?),
        StoreLocation::Server(uri) => keystrata_store::open(uri).await?,
    })
}

/// The store, and an empty one first if there is none.
pub(crate) async fn create_store(location: &StoreLocation) -> Result<Arc<dyn KekStore>> {
    Ok(match location {
        StoreLocation::Sqlite(path) => Arc::new(SqliteKekStore::open(path).await?),
        StoreLocation::Server(uri) => keystrata_store::create(uri).await?,
    })
}

/// Brings the store to this release's schema, or only tells what that takes.
pub(crate) async fn migrate_store(location: &StoreLocation, dry_run: bool) -> Result<Migration> {
    Ok(match location {
        StoreLocation::Sqlite(path) => {
            let plan = SqliteKekStore::plan_migration(path).await?;
            if !dry_run && !plan.steps.is_empty() {
                // A file is carried over by whoever opens it.
                SqliteKekStore::open_existing(path).await?;
            }
            plan
        }
        StoreLocation::Server(uri) if dry_run => keystrata_store::plan_migration(uri).await?,
        StoreLocation::Server(uri) => keystrata_store::migrate(uri).await?,
    })
}

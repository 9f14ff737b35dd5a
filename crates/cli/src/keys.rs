//! Opens what the settings name.

use std::sync::Arc;

use anyhow::Result;
use keystrata_hierarchy::{Hierarchy, HierarchyBuilder, KekStore, Policy, RootKey, Roots};
use keystrata_kms::Budget;
use keystrata_store::{Migration, SqliteKekStore};

use crate::{
    args::SettingsArgs,
    audit,
    kms::{self, GuardedRoot, Work},
    no_root::NoRootKey,
    settings::{RootLocation, RootLocations, StoreLocation},
};

/// The engine with what it stands on.
pub(crate) struct Opened {
    pub(crate) keys: Hierarchy,
    pub(crate) store: Arc<dyn KekStore>,
    pub(crate) roots: OpenRoots,
}

/// The engine over the store and the root keys of the settings; all must exist.
pub(crate) async fn open(settings: &SettingsArgs) -> Result<Hierarchy> {
    open_for(settings, Work::Few).await.map(|opened| opened.keys)
}

/// The same and the rest, for calls by the one or by the thousand.
pub(crate) async fn open_for(settings: &SettingsArgs, work: Work) -> Result<Opened> {
    let (_, location) = (settings.roots()?, settings.store()?); // before anything is opened
    let roots = open_roots(settings, work).await?;
    let store = open_store(&location).await?;
    let keys = builder(settings, &store)?.roots(roots.list()?).build()?;
    Ok(Opened { keys, store, roots })
}

/// The engine for what needs no root key: whoever may not call the KMS can disable and destroy all the same.
pub(crate) async fn open_without_roots(
    settings: &SettingsArgs,
    policy: Policy,
) -> Result<(Hierarchy, Arc<dyn KekStore>)> {
    let store = open_store(&settings.store()?).await?;
    let keys = builder(settings, &store)?.root_key(NoRootKey::new()?).policy(policy).build()?;
    Ok((keys, store))
}

/// All but root keys and policy.
pub(crate) fn builder(settings: &SettingsArgs, store: &Arc<dyn KekStore>) -> Result<HierarchyBuilder> {
    let builder = Hierarchy::builder().store(Arc::clone(store)).actor(&audit::actor());
    Ok(match settings.audit()? {
        None => builder,
        Some(path) => builder.audit(audit::open(&path)?),
    })
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

    pub(crate) fn in_kms(&self) -> Option<&GuardedRoot> {
        match self {
            Self::Local(_) => None,
            Self::Kms(root) => Some(root),
        }
    }
}

/// The root keys of the settings, opened, behind one budget.
pub(crate) struct OpenRoots {
    pub(crate) locations: RootLocations,
    pub(crate) current: Vec<OpenRoot>,
    pub(crate) former: Vec<OpenRoot>,
    pub(crate) recovery: Option<OpenRoot>,
}

impl OpenRoots {
    /// All of them, in the order of [`RootLocations::all`].
    pub(crate) fn all(&self) -> impl Iterator<Item = &OpenRoot> {
        self.unwrapping().chain(&self.recovery)
    }

    /// Those by which KEKs are unwrapped without an operator's word.
    pub(crate) fn unwrapping(&self) -> impl Iterator<Item = &OpenRoot> {
        self.current.iter().chain(&self.former)
    }

    /// Those in a KMS, which count calls.
    pub(crate) fn in_kms(&self) -> impl Iterator<Item = &GuardedRoot> {
        self.all().filter_map(OpenRoot::in_kms)
    }

    fn list(&self) -> Result<Roots> {
        let current = self.current.iter().fold(Roots::builder(), |roots, root| roots.current(root.key()));
        let roots = self.former.iter().fold(current, |roots, root| roots.former(root.key()));
        let roots = self.recovery.iter().fold(roots, |roots, root| roots.recovery(root.key()));
        Ok(roots.build()?)
    }
}

/// The root keys of the settings, which must exist.
pub(crate) async fn open_roots(settings: &SettingsArgs, work: Work) -> Result<OpenRoots> {
    let locations = settings.roots()?;
    let budget = settings.shared_budget(&locations, work)?;
    let current = open_all(&locations.current, budget.as_ref()).await?;
    let former = open_all(&locations.former, budget.as_ref()).await?;
    let recovery = open_all(locations.recovery.as_slice(), budget.as_ref()).await?.pop();
    Ok(OpenRoots { locations, current, former, recovery })
}

async fn open_all(locations: &[RootLocation], budget: Option<&Arc<Budget>>) -> Result<Vec<OpenRoot>> {
    let mut roots = Vec::new();
    for location in locations {
        roots.push(open_root(location, budget).await?);
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

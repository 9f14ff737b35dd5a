//! `keystrata init`: makes what is missing of store, root key and settings file, and overwrites nothing.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use keystrata_hierarchy::{KekStore, RootKey, RootKeyId};
use keystrata_kms::{ListPrice, LocalRootKey};
use keystrata_primitives::Wrapper;
use serde_json::json;

use crate::{
    args::{InitArgs, SettingsArgs},
    config::{self, ConfigFile},
    keys::{self, OpenRoot},
    kms::{GuardedRoot, KmsBudget, KmsLimits, Work},
    output,
    settings::{RootLocation, StoreLocation, below},
};

pub(crate) async fn run(args: &InitArgs, settings: &SettingsArgs) -> Result<()> {
    let plan = Plan::new(settings)?;
    let done = plan.carry_out().await?;
    output::print(&if args.json { plan.json(&done) } else { plan.text(&done) })
}

/// What there shall be, and which of it is to be made.
struct Plan {
    store: StoreLocation,
    make_store: bool,
    root: RootLocation,
    make_root: bool,
    /// For a root key in a KMS.
    budget: Option<KmsBudget>,
    config: PathBuf,
    make_config: bool,
}

/// What came of it.
struct Done {
    root_id: RootKeyId,
    /// The root key in a KMS that was tried out.
    kms: Option<GuardedRoot>,
}

impl Plan {
    fn new(settings: &SettingsArgs) -> Result<Self> {
        let config = settings.config.clone().unwrap_or_else(|| config::DEFAULT_NAME.into());
        let make_config = is_missing(&config)?;
        let file = if make_config { None } else { ConfigFile::load(Some(&config))? };
        let folder = config::folder_of(&config);
        let store = match choose("store", settings.store.as_ref(), file.as_ref().map(|file| &file.store), &config)? {
            Some(store) => store,
            None => StoreLocation::Sqlite(below(&folder, Path::new("keystrata.db"))),
        };
        let given_root = match &settings.root[..] {
            [] => None,
            [root] => Some(root),
            _ => bail!(
                "one root key is made or tried out here: give one --root, and write the others into {}",
                config.display()
            ),
        };
        let root_in_file = file.as_ref().map(|file| file.roots.first().cloned());
        let root = match choose("root", given_root, root_in_file.as_ref(), &config)? {
            Some(root) => root,
            None => RootLocation::Local(below(&folder, Path::new("keystrata.key"))),
        };
        let given = settings.kms_limits();
        // As with the others: an existing file is not changed, so it must hold what the next command needs to know.
        let limits = match &file {
            Some(file) if matches!(root, RootLocation::Kms(_)) => KmsLimits {
                rate: choose("kms_rate", given.rate.as_ref(), Some(&file.kms.rate), &config)?,
                burst: choose("kms_burst", given.burst.as_ref(), Some(&file.kms.burst), &config)?,
            },
            _ => given,
        };
        let budget = limits.budget_for(&root)?;
        let Some(store_path) = store.path() else {
            bail!(
                "{store} is not made here: make it with `keystrata store migrate`, and write its URI as `store` into {}",
                config.display()
            )
        };
        let make_store = is_missing(store_path)?;
        let make_root = root.path().map(is_missing).transpose()?.unwrap_or(false);
        Ok(Self { store, make_store, root, make_root, budget, config, make_config })
    }

    /// Store first and root key second: a step that fails leaves an empty store at worst, and the next run goes on from it.
    async fn carry_out(&self) -> Result<Done> {
        if !(self.make_store || self.make_root || self.make_config) {
            bail!(
                "{}, {} and {} are already there and stay as they are: use them, or start in another folder",
                self.root,
                self.store,
                self.config.display()
            );
        }
        let existing_root = if self.make_root {
            None
        } else {
            Some(keys::open_root(&self.root, self.budget.map(|budget| budget.shared(Work::Few)).as_ref()).await?)
        };
        if let Some(OpenRoot::Kms(root)) = &existing_root {
            // Now, while somebody looks who can grant what is missing.
            keystrata_kms::verify_root(root).await?;
        }
        let store = if self.make_store {
            keys::create_store(&self.store).await?
        } else {
            keys::open_store(&self.store).await?
        };
        let existing_key = existing_root.as_ref().map(OpenRoot::key);
        self.check_match(&*store, existing_key.as_deref()).await?;
        let root_id = match (existing_key, self.root.path()) {
            (Some(root), _) => root.id().clone(),
            (None, Some(path)) => LocalRootKey::create(path)?.id().clone(),
            (None, None) => bail!("{} cannot be made here: make it in its service", self.root),
        };
        if self.make_config {
            ConfigFile::create(&self.config, &self.store, &self.root, self.budget)
                .with_context(|| format!("settings file {} cannot be written", self.config.display()))?;
        }
        let kms = match existing_root {
            Some(OpenRoot::Kms(root)) => Some(root),
            _ => None,
        };
        Ok(Done { root_id, kms })
    }

    /// KEKs that the root key cannot unwrap are as good as lost; say so now, not at the first open.
    async fn check_match(&self, store: &dyn KekStore, root: Option<&dyn RootKey>) -> Result<()> {
        let Some(record) = store.primaries(None, 1).await?.into_iter().next() else { return Ok(()) };
        let Some(root) = root else {
            bail!(
                "{} holds KEKs and {} is not there: restore that key file from its backup, a new one cannot open them",
                self.store,
                self.root
            );
        };
        let is_ours = |wrapper: &Wrapper| matches!(wrapper, Wrapper::Root(id) if id == root.id());
        if !record.wraps.iter().any(|wrap| is_ours(&wrap.wrapper)) {
            bail!("the KEKs in {} are not wrapped by {}: name the root key that wrapped them", self.store, self.root);
        }
        Ok(())
    }

    fn text(&self, done: &Done) -> String {
        let verb = |made| if made { "made" } else { "kept" };
        let store = self.store.path().map_or_else(|| self.store.to_string(), |path| path.display().to_string());
        let (root, advice) = match &self.root {
            RootLocation::Local(path) => {
                let root = path.display();
                let advice = format!(
                    "Back up both {root} and {store}, in different places: without either, nothing sealed opens again, and who\n\
                     has both opens everything. Copy the store while no command uses it. Keep the root key out of version control.\n\
                     A root key in a file has no passphrase and is for development; production names a KMS with --root.\n"
                );
                (root.to_string(), advice)
            }
            RootLocation::Kms(uri) => {
                let cost = done.kms.as_ref().map_or_else(String::new, tried_out);
                let advice = format!(
                    "The root key was tried out and does what is needed{cost}. Back up {store} while no command uses it: without it, or\n\
                     without the key in the KMS, nothing sealed opens again. Let nobody delete that key.\n"
                );
                (uri.clone(), advice)
            }
        };
        format!(
            "{} root key   {root}\n{} KEK store  {store}\n{} settings   {}\n\n{advice}",
            verb(self.make_root),
            verb(self.make_store),
            verb(self.make_config),
            self.config.display(),
        )
    }

    fn json(&self, done: &Done) -> String {
        let mut facts = json!({
            "store": { "location": self.store.to_string(), "made": self.make_store },
            "root": { "location": self.root.to_string(), "id": done.root_id.as_str(), "made": self.make_root },
            "config": { "location": self.config.display().to_string(), "made": self.make_config },
        });
        if let (Some(root), Some(budget)) = (&done.kms, self.budget) {
            facts["kms"] = json!({
                "rate": budget.rate, "burst": budget.burst,
                "calls": root.kms_calls(), "estimated_usd": root.estimated_usd(),
            });
        }
        format!("{facts:#}\n")
    }
}

/// How many calls that took, and what they cost.
fn tried_out(root: &GuardedRoot) -> String {
    let calls = root.kms_calls();
    let cost = root.estimated_usd().zip(ListPrice::of(root.id()));
    let cost = cost.map_or_else(String::new, |(usd, price)| {
        format!(", about ${usd:.6} by the list of {} of {}", price.service, price.as_of)
    });
    format!(" ({calls} calls{cost})")
}

/// A flag or variable, else what the settings file says, else nothing.
///
/// An existing file is not changed, so it must say what the next command, without the flag, would need to know.
fn choose<T: Clone + PartialEq + Display>(
    name: &str,
    given: Option<&T>,
    in_file: Option<&Option<T>>,
    config: &Path,
) -> Result<Option<T>> {
    let (config, flag) = (config.display(), name.replace('_', "-"));
    match (given, in_file) {
        (given, None) => Ok(given.cloned()),
        (_, Some(None)) => bail!("{config} names no {name}: add a line for it, or give another --config"),
        (Some(given), Some(Some(in_file))) if given != in_file => bail!(
            "{config} says {name} = {in_file}, not {given}: change that line, leave out --{flag}, or give another --config"
        ),
        (_, Some(Some(in_file))) => Ok(Some(in_file.clone())),
    }
}

/// Whether there is nothing at `path`. What cannot be looked at is not nothing.
fn is_missing(path: &Path) -> Result<bool> {
    // A link that leads nowhere is something: it would be replaced or written through.
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}

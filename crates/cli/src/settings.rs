//! Where the store and the root key are: flag, else environment (clap sees to both), else settings file.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::{Result, bail};
use keystrata_kms::{Budget, OpenRootError};
use keystrata_store::{OpenStoreError, StoreUri};

use crate::{
    args::SettingsArgs,
    config::ConfigFile,
    kms::{KmsBudget, KmsLimits, Work},
};

/// Where the wrapped KEKs are.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum StoreLocation {
    /// A database file.
    Sqlite(PathBuf),
    /// A database elsewhere, by its whole URI, which may hold a password.
    Server(String),
}

/// Where the root key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RootLocation {
    /// A key file, or a folder of them.
    Local(PathBuf),
    /// A key in a KMS, by its whole URI.
    Kms(String),
}

impl StoreLocation {
    /// The file, if it is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Server(_) => None,
        }
    }

    /// The same place, named from `folder` on if it is a relative path.
    pub(crate) fn within(&self, folder: &Path) -> Self {
        match self {
            Self::Sqlite(path) => Self::Sqlite(below(folder, path)),
            Self::Server(uri) => Self::Server(uri.clone()),
        }
    }
}

impl RootLocation {
    /// The file, if it is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            Self::Kms(_) => None,
        }
    }

    /// The same place, named from `folder` on if it is a relative path.
    pub(crate) fn within(&self, folder: &Path) -> Self {
        match self {
            Self::Local(path) => Self::Local(below(folder, path)),
            Self::Kms(uri) => Self::Kms(uri.clone()),
        }
    }
}

impl FromStr for StoreLocation {
    type Err = OpenStoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match StoreUri::parse(text) {
            Ok(StoreUri::Sqlite(path)) => Ok(Self::Sqlite(path)),
            Ok(_) => Ok(Self::Server(text.to_owned())),
            // Whoever parses flags and variables repeats what is wrong, and this may hold a password; opening it says the rest.
            Err(_) if ["postgres", "dynamodb:"].iter().any(|scheme| text.starts_with(scheme)) => {
                Ok(Self::Server(text.to_owned()))
            }
            Err(error) => Err(error),
        }
    }
}

impl FromStr for RootLocation {
    type Err = OpenRootError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        keystrata_kms::check_uri(text)?;
        match text.strip_prefix("local:") {
            Some(path) => Ok(Self::Local(path.into())),
            None => Ok(Self::Kms(text.to_owned())),
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Server(uri) => f.write_str(&without_secrets(uri)),
        }
    }
}

impl fmt::Debug for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreLocation({self})")
    }
}

/// A URI without user, password and parameters, any of which may be secret.
fn without_secrets(uri: &str) -> String {
    let uri = uri.split_once(['?', '#']).map_or(uri, |(before, _)| before);
    match uri.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        None if uri.starts_with("postgres") => {
            format!("{}:…", uri.split_once(':').map_or("postgres", |(scheme, _)| scheme))
        }
        None => uri.to_owned(),
    }
}

impl fmt::Display for RootLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "local:{}", path.display()),
            Self::Kms(uri) => f.write_str(uri),
        }
    }
}

impl SettingsArgs {
    /// The store to use.
    ///
    /// # Errors
    /// If nothing names one, or the settings file cannot be read.
    pub(crate) fn store(&self) -> Result<StoreLocation> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        match ConfigFile::load(self.config.as_deref())?.and_then(|file| file.store) {
            Some(store) => Ok(store),
            None => bail!("{}", not_named("store", "--store sqlite:PATH (or another URI)", "KEYSTRATA_STORE")),
        }
    }

    /// What flags and variables say about calls to a KMS.
    pub(crate) fn kms_limits(&self) -> KmsLimits {
        KmsLimits { rate: self.kms_rate, burst: self.kms_burst }
    }

    /// The calls that may go to `root`; `None` for a local one.
    ///
    /// # Errors
    /// If it is in a KMS and nothing says how many, or the settings file cannot be read.
    pub(crate) fn kms_budget(&self, root: &RootLocation) -> Result<Option<KmsBudget>> {
        let given = self.kms_limits();
        if let Ok(budget) = given.budget_for(root) {
            return Ok(budget); // nothing is missing, so no file need be there
        }
        let file = ConfigFile::load(self.config.as_deref())?.map(|file| file.kms);
        given.or(file.unwrap_or_default()).budget_for(root)
    }

    /// The root keys to use.
    ///
    /// # Errors
    /// If nothing names a current one, or the settings file cannot be read.
    pub(crate) fn roots(&self) -> Result<RootLocations> {
        let is_all_given = !self.root.is_empty() && !self.former_root.is_empty() && self.recovery_root.is_some();
        let file = if is_all_given { None } else { ConfigFile::load(self.config.as_deref())? };
        let (roots, former_roots, recovery_root) =
            file.map_or_else(Default::default, |file| (file.roots, file.former_roots, file.recovery_root));
        let given = |given: &[RootLocation], in_file| if given.is_empty() { in_file } else { given.to_vec() };
        let current = given(&self.root, roots);
        // The file may say what is to be while a flag says what is.
        let former_roots = former_roots.into_iter().filter(|root| !current.contains(root)).collect();
        let former = given(&self.former_root, former_roots);
        // On the day of need it is named as a former one, and then it is one.
        let recovery = self.recovery_root.clone().or(recovery_root).filter(|root| !self.former_root.contains(root));
        let roots = RootLocations { current, former, recovery };
        if roots.current.is_empty() {
            bail!("{}", not_named("root key", "--root local:PATH (or another URI)", "KEYSTRATA_ROOT"));
        }
        Ok(roots)
    }

    /// One budget for all of `roots` that are in a KMS; `None` if none is.
    ///
    /// # Errors
    /// As [`kms_budget`](Self::kms_budget).
    pub(crate) fn shared_budget(&self, roots: &RootLocations, work: Work) -> Result<Option<Arc<Budget>>> {
        for root in roots.all() {
            if let Some(budget) = self.kms_budget(root)? {
                return Ok(Some(budget.shared(work)));
            }
        }
        Ok(None)
    }

    /// Where what is done to accounts is recorded, if anywhere.
    ///
    /// # Errors
    /// If the settings file cannot be read.
    pub(crate) fn audit(&self) -> Result<Option<PathBuf>> {
        match &self.audit {
            Some(path) => Ok(Some(path.clone())),
            None => Ok(ConfigFile::load(self.config.as_deref())?.and_then(|file| file.audit)),
        }
    }
}

/// The root keys that the settings name.
#[derive(Clone, Debug)]
pub(crate) struct RootLocations {
    /// Each wraps every KEK; at least one.
    pub(crate) current: Vec<RootLocation>,
    /// They unwrap what they wrapped before.
    pub(crate) former: Vec<RootLocation>,
    /// It wraps every KEK, and unwraps when an operator says so.
    pub(crate) recovery: Option<RootLocation>,
}

impl RootLocations {
    pub(crate) fn all(&self) -> impl Iterator<Item = &RootLocation> {
        self.current.iter().chain(&self.former).chain(&self.recovery)
    }
}

/// `path` from `folder` on, without a `./` that nobody typed.
pub(crate) fn below(folder: &Path, path: &Path) -> PathBuf {
    if folder == Path::new(".") { path.to_owned() } else { folder.join(path) }
}

fn not_named(what: &str, flag: &str, variable: &str) -> String {
    format!("no {what} is named: give {flag}, set {variable}, or run `keystrata init` to make one here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_read_back_as_written() {
        for text in ["sqlite:keys.db", "sqlite:/var/lib/a b.db", "sqlite:odd:name"] {
            assert_eq!(text.parse::<StoreLocation>().unwrap().to_string(), text);
        }
        let arn = "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1234abcd";
        let vault = "vault-transit:https://vault.example:8200/transit/keys/k";
        let gcp = "gcp-kms:projects/p/locations/l/keyRings/r/cryptoKeys/k";
        for text in ["local:root.key", arn, vault, gcp] {
            let root = text.parse::<RootLocation>().unwrap();
            assert_eq!(root.to_string(), text);
            assert_eq!(root.within(Path::new("conf")).path().is_some(), text.starts_with("local:"));
        }
    }

    #[test]
    fn other_schemes_and_no_path_are_refused() {
        for text in ["", "keys.db", "sqlite", "sqlite:", "mysql://db.example/x", "sqlite::memory:"] {
            assert!(text.parse::<StoreLocation>().is_err(), "{text}");
        }
        for text in ["", "root.key", "local", "local:", "aws:x", "vault-transit:https://v.example/t/keys/k?token=x"] {
            assert!(text.parse::<RootLocation>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_location_is_shown_without_its_secrets() {
        for (uri, shown) in [
            ("postgres://app:hunter2@db.example:5432/keys?schema=hunter2", "postgres://db.example:5432/keys"),
            ("postgres://app:hunter2%40home@db.example/keys", "postgres://db.example/keys"),
            ("postgres://app@db.example/keys", "postgres://db.example/keys"),
            ("dynamodb:keystrata?region=eu-west-1", "dynamodb:keystrata"),
        ] {
            let location: StoreLocation = uri.parse().unwrap();
            assert_eq!(location.to_string(), shown);
            assert!(!format!("{location:?}").contains("hunter2"));
            assert_eq!(location.within(Path::new("conf")), location);
        }
    }

    #[test]
    fn relative_paths_start_at_the_folder_and_absolute_ones_stay() {
        let within = |text: &str| text.parse::<StoreLocation>().unwrap().within(Path::new("conf")).to_string();
        assert_eq!(within("sqlite:keys.db"), "sqlite:conf/keys.db");
        assert_eq!(within("sqlite:/keys.db"), "sqlite:/keys.db");
        assert_eq!(below(Path::new("."), Path::new("keys.db")), Path::new("keys.db"));
    }
}

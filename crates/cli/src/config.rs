//! The settings file, `keystrata.toml`.

use std::{
    fs, io,
    io::Write,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::{
    kms::{KmsBudget, KmsLimits},
    settings::{RootLocation, StoreLocation, below},
};

/// Its name in the current folder.
pub(crate) const DEFAULT_NAME: &str = "keystrata.toml";

/// What the file names. Relative paths have been put behind the file's own folder.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub(crate) store: Option<StoreLocation>,
    /// The current ones, in order; none if the file names none.
    pub(crate) roots: Vec<RootLocation>,
    pub(crate) former_roots: Vec<RootLocation>,
    pub(crate) recovery_root: Option<RootLocation>,
    pub(crate) audit: Option<PathBuf>,
    pub(crate) kms: KmsLimits,
}

/// The file as written. An unknown key is an error: a misspelt one would silently use another store.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<OneOrMore>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former_roots: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_rate: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_burst: Option<NonZeroU32>,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "root: expected a URI or a list of URIs")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(all) => all,
        }
    }
}

impl ConfigFile {
    /// Reads the file; `None` if it is the default one and not there.
    ///
    /// # Errors
    /// If it cannot be read, or a file that was asked for is not there.
    pub(crate) fn load(asked_for: Option<&Path>) -> Result<Option<Self>> {
        let path = asked_for.unwrap_or(Path::new(DEFAULT_NAME));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &folder_of(path))
                .map(Some)
                .with_context(|| format!("{} is not a settings file of this release", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match asked_for {
                None => Ok(None),
                Some(path) => bail!("there is no settings file {}; `keystrata init` makes one", path.display()),
            },
            Err(error) => Err(error).with_context(|| format!("settings file {} cannot be read", path.display())),
        }
    }

    fn parse(text: &str, folder: &Path) -> Result<Self> {
        // Not the error's own text: it quotes the file over several lines.
        let content: Content = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow!("line {line}: {}", error.message())
        })?;
        let store = content.store.map(|text| text.parse::<StoreLocation>().map_err(|error| anyhow!("store: {error}")));
        let roots = |name: &'static str, uris: &[String]| {
            let root = |uri: &String| match uri.parse::<RootLocation>() {
                Ok(root) => Ok(root.within(folder)),
                Err(error) => Err(anyhow!("{name}: {error}")),
            };
            uris.iter().map(root).collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            store: store.transpose()?.map(|store| store.within(folder)),
            roots: roots("root", content.root.as_ref().map_or(&[], OneOrMore::all))?,
            former_roots: roots("former_roots", &content.former_roots)?,
            recovery_root: roots("recovery_root", content.recovery_root.as_slice())?.pop(),
            audit: content.audit.map(|path| below(folder, &path)),
            kms: KmsLimits { rate: content.kms_rate, burst: content.kms_burst },
        })
    }

    /// Writes a new file at `path`. Paths below its folder are written as seen from there, others in full, so that the
    /// file means the same wherever it is used from.
    ///
    /// # Errors
    /// If there is a file already, or it cannot be written.
    pub(crate) fn create(
        path: &Path,
        store: &StoreLocation,
        root: &RootLocation,
        budget: Option<KmsBudget>,
    ) -> Result<()> {
        let folder = folder_of(path);
        let content = Content {
            store: Some(match store {
                StoreLocation::Sqlite(path) => format!("sqlite:{}", seen_from(&folder, path)?),
                StoreLocation::Server(uri) => uri.clone(),
            }),
            root: Some(OneOrMore::One(match root {
                RootLocation::Local(path) => format!("local:{}", seen_from(&folder, path)?),
                RootLocation::Kms(uri) => uri.clone(),
            })),
            former_roots: Vec::new(),
            recovery_root: None,
            audit: None,
            kms_rate: budget.map(|budget| budget.rate),
            kms_burst: budget.map(|budget| budget.burst),
        };
        let text = format!(
            "# Written by `keystrata init`. Relative paths start at this file's folder.\n{}",
            toml::to_string(&content).context("settings cannot be written as TOML")?
        );
        let mut file = tempfile::Builder::new()
            .prefix(".keystrata-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)) // less the umask: nothing secret in it
            .tempfile_in(&folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        Ok(())
    }
}

/// The folder that holds the file `path`.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn seen_from(folder: &Path, path: &Path) -> Result<String> {
    // `.` is dropped by `absolute`, so both sides look alike.
    let (folder, path) = (std::path::absolute(folder)?, std::path::absolute(path)?);
    let seen = path.strip_prefix(&folder).unwrap_or(&path);
    let text = seen.to_str().ok_or_else(|| anyhow!("{} is not UTF-8: choose another path", seen.display()))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile> {
        ConfigFile::parse(text, Path::new("conf"))
    }

    #[test]
    fn paths_start_at_the_folder_of_the_file() {
        let file = parse("store = \"sqlite:keys.db\"\nroot = \"local:/etc/root.key\"\n").unwrap();
        assert_eq!(file.store.unwrap().to_string(), "sqlite:conf/keys.db");
        assert_eq!(file.roots[0].to_string(), "local:/etc/root.key");
        assert!(parse("").unwrap().store.is_none() && parse("").unwrap().former_roots.is_empty());
        let file = parse("former_roots = [\"local:old.key\", \"local:/older.key\"]").unwrap();
        let former: Vec<_> = file.former_roots.iter().map(ToString::to_string).collect();
        assert_eq!(former, ["local:conf/old.key", "local:/older.key"]);
        let file = parse("root = [\"local:a.key\", \"local:b.key\"]\nrecovery_root = \"local:c.key\"\naudit = \"log\"")
            .unwrap();
        let all: Vec<_> = file.roots.iter().chain(&file.recovery_root).map(ToString::to_string).collect();
        assert_eq!(all, ["local:conf/a.key", "local:conf/b.key", "local:conf/c.key"]);
        assert_eq!(file.audit, Some("conf/log".into()));
    }

    #[test]
    fn what_is_not_understood_is_refused_in_one_line() {
        for text in ["kms_rate = 0", "kms_burst = -1", "kms_rate = \"9\"", "kms_rate = 5000000000"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in [
            "store",
            "stroe = \"sqlite:x\"",
            "store = 1",
            "\nstore = \"mysql:x\"",
            "root = \"x\"",
            "root = 1",
            "root = [\"local:a\", \"x\"]",
            "recovery_root = \"x\"",
            "audit = 1",
            "former_roots = [\"x\"]",
            "[a]\nb=1",
        ] {
            let message = format!("{:#}", parse(text).unwrap_err());
            assert!(!message.contains('\n'), "{message}");
        }
        assert!(parse("\n\nstore = 1").unwrap_err().to_string().starts_with("line 3: "));
    }

    #[test]
    fn limits_of_a_kms_are_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.toml");
        let store: StoreLocation = "sqlite:/keys.db".parse().unwrap();
        let root: RootLocation = "vault-transit:https://v.example/transit/keys/k".parse().unwrap();
        let (rate, burst) = (NonZeroU32::new(50).unwrap(), NonZeroU32::new(10).unwrap());
        ConfigFile::create(&path, &store, &root, Some(KmsBudget { rate, burst })).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("kms_rate = 50\nkms_burst = 10\n"), "{text}");
        let read = ConfigFile::load(Some(&path)).unwrap().unwrap().kms;
        assert_eq!(read, KmsLimits { rate: Some(rate), burst: Some(burst) });
    }

    #[test]
    fn created_file_reads_back_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.toml");
        let store: StoreLocation = format!("sqlite:{}/sub/keys.db", folder.path().display()).parse().unwrap();
        let root: RootLocation = "local:/elsewhere/root.key".parse().unwrap();
        ConfigFile::create(&path, &store, &root, None).unwrap();

        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("store = \"sqlite:sub/keys.db\""), "{text}");
        let file = ConfigFile::load(Some(&path)).unwrap().unwrap();
        assert_eq!((file.store, file.roots), (Some(store.clone()), vec![root.clone()]));

        assert!(ConfigFile::create(&path, &store, &root, None).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

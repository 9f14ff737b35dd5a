//! What cargo knows about the workspace.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::step;

/// The workspace and everything in its lock file.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Where cargo builds; ours to put other things into.
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// A package of the lock file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Whether it is one of ours.
    pub(crate) is_member: bool,
    pub(crate) manifest: PathBuf,
    pub(crate) rust_version: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// What a manifest asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Only tests, examples and benches see it.
    pub(crate) is_dev: bool,
}

/// Something cargo builds from a package.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `example`, `bench`, …
    pub(crate) kind: String,
    pub(crate) source: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let text = step::output(&mut step::cargo("metadata --format-version 1 --locked --all-features"))?;
        let value: Value = serde_json::from_str(&text).context("cargo metadata")?;
        let members: Vec<&str> = items(&value, "workspace_members").filter_map(Value::as_str).collect();
        Ok(Self {
            root: text_of(&value, "workspace_root").into(),
            target: text_of(&value, "target_directory").into(),
            packages: items(&value, "packages").map(|package| read_package(package, &members)).collect(),
        })
    }

    /// Our own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.is_member)
    }

    /// `path` as seen from the workspace's folder, for messages.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

impl Package {
    /// The targets of a kind.
    pub(crate) fn targets_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Target> {
        self.targets.iter().filter(move |target| target.kind == kind)
    }
}

fn read_package(package: &Value, members: &[&str]) -> Package {
    Package {
        name: text_of(package, "name"),
        version: text_of(package, "version"),
        is_member: members.contains(&text_of(package, "id").as_str()),
        manifest: text_of(package, "manifest_path").into(),
        rust_version: package["rust_version"].as_str().map(str::to_owned),
        features: package["features"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        dependencies: items(package, "dependencies")
            .map(|dependency| Dependency {
                name: text_of(dependency, "name"),
                is_dev: dependency["kind"].as_str() == Some("dev"),
            })
            .collect(),
        targets: items(package, "targets")
            .map(|target| Target {
                name: text_of(target, "name"),
                kind: items(target, "kind").next().and_then(Value::as_str).unwrap_or_default().to_owned(),
                source: text_of(target, "src_path").into(),
            })
            .collect(),
    }
}

fn text_of(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

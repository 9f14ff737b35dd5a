//! `cargo xtask lint`: what a reviewer should not have to look for.

use anyhow::Result;

use crate::{
    step::{self, cargo},
    workspace::{Package, Workspace},
};

pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::load()?;
    step::run("format", &mut cargo("fmt --all --check"))?;
    step::run("clippy", &mut cargo("clippy --locked --workspace --all-targets --all-features -- -D warnings"))?;
    for package in workspace.members() {
        for features in feature_sets(package) {
            let name = &package.name;
            step::run(
                &format!("clippy {name} with features [{features}]"),
                &mut cargo(&format!(
                    "clippy --locked -p {name} --no-default-features --features={features} -- -D warnings"
                )),
            )?;
        }
    }
    // Private items too: a broken link in them misleads the next author as much as one in public does a user.
    step::run(
        "docs",
        cargo("doc --locked --workspace --no-deps --all-features --document-private-items")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    step::run("benches and examples", &mut cargo("build --locked --workspace --all-features --benches --examples"))
}

/// Nothing on, then each feature alone; a package without features is already linted whole.
fn feature_sets(package: &Package) -> Vec<&str> {
    if package.features.is_empty() {
        return Vec::new();
    }
    let single = package.features.iter().map(String::as_str).filter(|&feature| feature != "default");
    std::iter::once("").chain(single).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_is_linted_alone_and_without_any() {
        let package = |features: &[&str]| Package {
            features: features.iter().map(|&feature| feature.to_owned()).collect(),
            ..Package::default()
        };
        assert_eq!(feature_sets(&package(&["default", "sqlite", "postgres"])), ["", "sqlite", "postgres"]);
        assert!(feature_sets(&package(&[])).is_empty());
    }
}

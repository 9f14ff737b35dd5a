//! Arrows between crates point one way, and the lower ones stay free of runtimes and cloud SDKs.

use anyhow::Result;

use super::Findings;
use crate::{
    step::{self, cargo},
    workspace::{Package, Workspace},
};

/// Our crates from the bottom up. One may depend on those of lower rows; its tests also on those of its own row.
const LAYERS: [&[&str]; 6] = [
    &["keystrata-memory"],
    &["keystrata-primitives"],
    &["keystrata-hierarchy"],
    &["keystrata-kms", "keystrata-store"],
    &["keystrata-simulate"],
    &["keystrata", "keystrata-benches", "keystrata-examples"],
];

/// Bytes in, bytes out: nothing that polls. A `*` stands for any rest of a name.
const RUNTIMES: &[&str] = &[
    "tokio*",
    "async-std",
    "async-io",
    "async-executor",
    "async-global-executor",
    "smol",
    "mio",
    "futures-executor",
    "compio*",
    "monoio",
    "glommio",
];

/// Whoever embeds the engine gets no client of a service with it. (`aws-lc-*` is a cipher library, not a client.)
const CLIENTS: &[&str] = &[
    "aws-sdk-*",
    "aws-config",
    "aws-runtime",
    "aws-sigv4",
    "aws-smithy-*",
    "aws-types",
    "google-*",
    "azure*",
    "vaultrs",
    "reqwest",
    "hyper*",
    "rustls*",
    "cryptoki*",
    "rusqlite",
    "libsqlite3-sys",
    "sqlx*",
    "tokio-postgres",
    "postgres*",
    "deadpool*",
    "redis",
];

pub(super) fn check(workspace: &Workspace) -> Result<Findings> {
    let mut findings: Findings = workspace.members().flat_map(wrong_arrows).collect();
    for (package, features, banned) in [
        ("keystrata-memory", "--all-features", RUNTIMES),
        ("keystrata-memory", "--all-features", CLIENTS),
        // The streams over tokio's traits are a feature that nobody gets without asking.
        ("keystrata-primitives", "--features default", RUNTIMES),
        ("keystrata-primitives", "--all-features", CLIENTS),
        ("keystrata-hierarchy", "--all-features", CLIENTS),
        // Each cloud is a feature, and none of them is on by default.
        ("keystrata-kms", "", CLIENTS),
    ] {
        let of = format!("-p {package} {features}");
        let of = of.trim_end();
        let tree = step::output(&mut cargo(&format!(
            "tree --locked {of} --target all -e normal,build --prefix none --format {{p}}"
        )))?;
        findings.extend(
            banned_in(&tree, banned)
                .map(|name| format!("{package} depends on {name}: see `cargo tree {of} -i {name}`")),
        );
    }
    Ok(findings)
}

/// Dependencies of one of our crates that do not point down.
fn wrong_arrows(package: &Package) -> Findings {
    let rank = |name: &str| LAYERS.iter().position(|row| row.contains(&name));
    let Some(own) = rank(&package.name) else {
        let ours = package.dependencies.iter().filter(|dependency| rank(&dependency.name).is_some());
        return ours
            .map(|dependency| format!("{} has no layer and depends on {}: give it one", package.name, dependency.name))
            .collect();
    };
    let is_wrong = |(other, is_dev): (usize, bool)| other > own || (other == own && !is_dev);
    package
        .dependencies
        .iter()
        .filter(|dependency| rank(&dependency.name).is_some_and(|other| is_wrong((other, dependency.is_dev))))
        .map(|dependency| format!("{} must not depend on {}, which is not below it", package.name, dependency.name))
        .collect()
}

/// The names in the output of `cargo tree --prefix none` that match a pattern.
fn banned_in<'a>(tree: &'a str, banned: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let mut names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().filter(|name| banned.iter().any(|pattern| matches(pattern, name)))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependencies =
            dependencies.iter().map(|&(name, is_dev)| Dependency { name: name.into(), is_dev }).collect();
        Package { name: name.into(), dependencies, ..Package::default() }
    }

    #[test]
    fn arrows_down_pass() {
        let engine = [("keystrata-primitives", false), ("keystrata-memory", false), ("tokio", false)];
        assert!(wrong_arrows(&package("keystrata-hierarchy", &engine)).is_empty());
        assert!(wrong_arrows(&package("keystrata-store", &[("keystrata-kms", true)])).is_empty());
        assert!(wrong_arrows(&package("xtask", &[("anyhow", false)])).is_empty());
    }

    #[test]
    fn arrows_up_and_sideways_are_found() {
        assert_eq!(wrong_arrows(&package("keystrata-primitives", &[("keystrata-hierarchy", false)])).len(), 1);
        assert_eq!(wrong_arrows(&package("keystrata-store", &[("keystrata-kms", false)])).len(), 1);
        assert_eq!(wrong_arrows(&package("keystrata-memory", &[("keystrata-primitives", true)])).len(), 1);
        assert_eq!(wrong_arrows(&package("newcomer", &[("keystrata-kms", false)])).len(), 1);
    }

    #[test]
    fn runtimes_and_clients_are_found_in_a_tree() {
        let tree = "keystrata-primitives v0.1.0 (dir)\nzeroize v1.9.2\ntokio-util v0.7.1\ntokio-util v0.7.1 (*)\n";
        assert_eq!(banned_in(tree, RUNTIMES).collect::<Vec<_>>(), ["tokio-util"]);
        let tree = "a v1.0.0\naws-lc-rs v1.0.0\naws-sdk-kms v1.0.0\nhyper-util v0.1.0\nrusqlite v0.43.0\n";
        assert_eq!(banned_in(tree, CLIENTS).collect::<Vec<_>>(), ["aws-sdk-kms", "hyper-util", "rusqlite"]);
        assert_eq!(banned_in("hypersomnia v1.0.0\nredis-lite v1.0.0", &["redis"]).count(), 0);
    }
}

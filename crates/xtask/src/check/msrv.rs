//! The oldest compiler: what the workspace states, no dependency exceeds.
//!
//! The standard library's API is held to it by clippy (`incompatible_msrv`), and the language by building with it.

use super::Findings;
use crate::workspace::{Package, Workspace};

pub(super) fn check(workspace: &Workspace) -> Findings {
    let stated: Vec<_> = workspace.members().map(|member| member.rust_version.as_deref()).collect();
    match stated.first().copied().flatten().and_then(parse) {
        Some(oldest) if stated.iter().all(|&other| other == stated[0]) => too_new(&workspace.packages, oldest),
        _ => vec!["every member needs `rust-version.workspace = true`".into()],
    }
}

fn too_new(packages: &[Package], oldest: (u32, u32, u32)) -> Findings {
    let needs_newer = |package: &&Package| {
        // None: the package states nothing, and building with the oldest compiler must tell.
        package.rust_version.as_deref().is_some_and(|needs| parse(needs).is_none_or(|needs| needs > oldest))
    };
    packages
        .iter()
        .filter(needs_newer)
        .map(|package| {
            let needs = package.rust_version.as_deref().unwrap_or_default();
            format!(
                "{} {} needs Rust {needs}, newer than the workspace's rust-version: pin an older one, or raise it",
                package.name, package.version
            )
        })
        .collect()
}

/// `1.95` and `1.95.0` are one.
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let version = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    parts.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(rust_version: Option<&str>) -> usize {
        let package = Package { rust_version: rust_version.map(str::to_owned), ..Package::default() };
        too_new(&[package], (1, 95, 0)).len()
    }

    #[test]
    fn dependencies_of_the_stated_compiler_or_an_older_one_pass() {
        assert_eq!([None, Some("1.95"), Some("1.95.0"), Some("1.63.0"), Some("1.9")].map(needs), [0; 5]);
    }

    #[test]
    fn dependencies_that_need_a_newer_compiler_are_found() {
        assert_eq!([Some("1.96"), Some("1.95.1"), Some("1.100"), Some("2.0"), Some("new")].map(needs), [1; 5]);
    }
}

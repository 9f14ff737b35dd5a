//! Versions of dependencies stand in one list, the workspace's.

use anyhow::{Context, Result};

use super::Findings;
use crate::workspace::Workspace;

pub(super) fn check(workspace: &Workspace) -> Result<Findings> {
    let mut findings = Findings::new();
    for package in workspace.members() {
        let path = workspace.relative(&package.manifest);
        let text = std::fs::read_to_string(&package.manifest).with_context(|| format!("read {path}"))?;
        findings.extend(own_versions(&text).map(|(number, line)| {
            format!("{path}:{number}: write `… .workspace = true`, and the version in the root's Cargo.toml: {line}")
        }));
    }
    Ok(findings)
}

/// Lines of a member's manifest that ask for a dependency in another way than through the workspace's list.
///
/// One line per dependency is required, so that a line can be judged alone: what is not understood is a finding.
fn own_versions(manifest: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_dependencies = false;
    manifest.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            in_dependencies = section.ends_with("dependencies");
            let has_own_section = section.contains("dependencies.");
            return has_own_section.then_some((index + 1, line));
        }
        let is_other = !in_dependencies || line.is_empty() || line.starts_with('#');
        (!is_other && !comes_from_the_list(line)).then_some((index + 1, line))
    })
}

fn comes_from_the_list(line: &str) -> bool {
    let Some((key, value)) = line.split_once('=') else { return false };
    let (key, value) = (key.trim(), value.trim());
    let is_inherited = (key.ends_with(".workspace") && value == "true") || value.contains("workspace = true");
    // A crate's tests may turn on its own features; that names no version.
    let is_itself = value.contains("path = \".\"") && !value.contains("version");
    is_inherited || is_itself
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inherited_dependencies_pass() {
        let manifest = "[package]\nversion = \"1\"\n[dependencies]\n# why\nserde.workspace = true\n\
            tokio = { workspace = true, features = [\"rt\"] }\n\n[dev-dependencies]\n\
            me = { path = \".\", features = [\"test-util\"] }\n\
            [target.'cfg(unix)'.dependencies]\nlibc.workspace = true\n[lints]\nworkspace = true\n";
        assert_eq!(own_versions(manifest).count(), 0);
    }

    #[test]
    fn own_versions_paths_and_sections_are_found() {
        for line in [
            "serde = \"1\"",
            "serde = { version = \"1\", features = [\"derive\"] }",
            "other = { path = \"../other\" }",
            "me = { path = \".\", version = \"1\" }",
            "fork = { git = \"x\" }",
            "tokio = {",
        ] {
            for section in ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"]
            {
                let manifest = format!("[{section}]\n{line}\n");
                assert_eq!(own_versions(&manifest).collect::<Vec<_>>(), [(2, line)]);
            }
        }
        assert_eq!(own_versions("[dependencies.serde]\nworkspace = true\n").count(), 1);
    }
}

//! `cargo xtask check`: rules about the tree that no compiler knows.

mod hygiene;
mod layers;
mod manifests;
mod msrv;
mod sources;

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{step, workspace::Workspace};

/// What is wrong, one line each.
type Findings = Vec<String>;

pub(crate) fn run() -> Result<()> {
    println!("==> check");
    let workspace = Workspace::load()?;
    let files = tracked_files(&workspace)?;
    let mut findings = layers::check(&workspace)?;
    findings.extend(manifests::check(&workspace)?);
    findings.extend(msrv::check(&workspace));
    findings.extend(sources::check(&workspace, &files)?);
    findings.extend(hygiene::check(&workspace, &files));
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        println!("{finding}");
    }
    bail!("check failed: {} finding(s)", findings.len());
}

/// A text file that is, or could be, in the repository.
struct TextFile {
    /// From the workspace's folder.
    path: PathBuf,
    text: String,
}

/// Tracked files and new ones that git does not ignore, if they hold text.
fn tracked_files(workspace: &Workspace) -> Result<Vec<TextFile>> {
    let listing = step::output(
        Command::new("git")
            .current_dir(&workspace.root)
            .args("ls-files -z --cached --others --exclude-standard".split(' ')),
    )
    .context("check looks at what git tracks: run it in a clone")?;
    let mut files = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from) {
        let full = workspace.root.join(&path);
        // Deleted and not yet committed.
        if !full.exists() {
            continue;
        }
        let bytes = std::fs::read(&full).with_context(|| format!("read {}", path.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(TextFile { path, text });
        }
    }
    Ok(files)
}

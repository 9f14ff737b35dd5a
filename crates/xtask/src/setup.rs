//! What the tests need besides cargo. Everything lands under the target folder; nothing is installed system-wide.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    step::{self, cargo},
    workspace::Workspace,
};

/// Fetches the locked dependencies, so that a slow network is not counted as a slow test.
pub(crate) fn dependencies() -> Result<()> {
    step::run("fetch dependencies", &mut cargo("fetch --locked"))
}

/// A Python with what `docs/vectors/check.py` imports; `None` while there is no such script.
pub(crate) fn vectors_python(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let vectors = workspace.root.join("docs/vectors");
    if !vectors.join("check.py").exists() {
        return Ok(None);
    }
    let venv = workspace.target.join("venv");
    let python = venv.join("bin/python");
    // An interrupted set-up leaves a folder without pip; venv repairs that in place.
    step::run("python venv", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    step::run(
        "python packages",
        Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(vectors.join("requirements.txt")),
    )?;
    Ok(Some(python))
}

//! `cargo xtask peers`: Keystrata beside other libraries, from their own workspace in `benches/peers`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{step::cargo, workspace::Workspace};

/// Builds all of them, optimised, and measures them in one run. What it prints is Markdown, or JSON and nothing else.
pub(crate) fn run(json: bool, rounds: Option<u32>) -> Result<()> {
    let workspace = Workspace::load()?;
    let folder = workspace.root.join("benches/peers");
    let target = workspace.target.join("peers");
    let mut build = cargo("build --locked --release");
    // What cargo says goes to stderr, so that stdout is the report's alone.
    succeed(build.current_dir(&folder).env("CARGO_TARGET_DIR", &target))?;
    let mut measure = Command::new(target.join("release/peers"));
    measure.args(json.then_some("--json"));
    if let Some(rounds) = rounds {
        measure.args(["--rounds", &rounds.to_string()]);
    }
    succeed(&mut measure)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if !status.success() {
        bail!("{status}: {command:?}");
    }
    Ok(())
}

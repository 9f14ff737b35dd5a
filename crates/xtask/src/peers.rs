//! `cargo xtask peers`: Keystrata beside other libraries, from their own workspace in `benches/peers`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{step::cargo, workspace::Workspace};

/// What can be left out, each a feature of that workspace: those that take long to build.
pub(crate) const OPTIONAL: [&str; 1] = ["aws-esdk"];

/// Builds all of them but those `without` which it is to be, optimised, and measures them in one run. What it prints is
/// Markdown, or JSON and nothing else.
pub(crate) fn run(json: bool, rounds: Option<u32>, without: &[String]) -> Result<()> {
    let workspace = Workspace::load()?;
    let folder = workspace.root.join("benches/peers");
    let target = workspace.target.join("peers");
    let with = OPTIONAL.into_iter().filter(|name| !without.iter().any(|left_out| left_out == name));
    let mut build = cargo("build --locked --release");
    build.args(["--features", &with.collect::<Vec<_>>().join(",")]);
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

//! `cargo xtask`: the project's chores, the same on every machine and in CI.
#![forbid(unsafe_code)]

mod check;
mod lint;
mod setup;
mod step;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "The project's chores", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests need, then run all of them, the examples and `check`.
    Test,
    /// Formatting, clippy and docs without a warning; every feature alone; benches and examples build.
    Lint,
    /// Layers between crates, where memory may be touched raw, versions, oldest compiler, tracked files.
    Check,
}

fn main() -> ExitCode {
    let done = match Args::parse().chore {
        Chore::Test => test::run(),
        Chore::Lint => lint::run(),
        Chore::Check => check::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `{:?}`: with RUST_BACKTRACE set that is a screen of frames after the one line that matters.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! `cargo xtask`: the project's chores, the same on every machine and in CI.
#![forbid(unsafe_code)]

mod benchmarks;
mod check;
mod fuzz;
mod lint;
mod peers;
mod setup;
mod step;
mod test;
mod workspace;

use std::{process::ExitCode, time::Duration};

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
    Test {
        /// Run the load tests instead: a budget on real servers, with figures.
        #[arg(long, conflicts_with = "soak")]
        load: bool,
        /// Run the long tests instead, for an hour or more: thousands of kills, a minute of many processes, very many accounts.
        #[arg(long)]
        soak: bool,
    },
    /// Run the fuzz targets, as many at a time as there are cores; a find fails, and says how to see it again.
    Fuzz {
        /// How long each target runs.
        #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
        seconds: u64,
        /// Which ones; all of them if none is named.
        targets: Vec<String>,
    },
    /// Run the benches and print the tables of docs/benchmarks.md, with machine, versions and date.
    Benchmarks {
        /// Which ones; all of them if none is named.
        names: Vec<String>,
    },
    /// Build and measure Keystrata beside other libraries; prints the tables of docs/benchmarks.md.
    Peers {
        /// Print JSON, and nothing else on stdout.
        #[arg(long)]
        json: bool,
        /// How often each case is timed.
        #[arg(long, value_name = "N")]
        rounds: Option<u32>,
        /// Leave this one out: it takes long to build.
        #[arg(long, value_name = "PEER", value_parser = peers::OPTIONAL)]
        without: Vec<String>,
    },
    /// Formatting, clippy and docs without a warning; every feature alone; benches and examples build.
    Lint,
    /// Layers between crates, where memory may be touched raw, versions, oldest compiler, tracked files.
    Check,
}

fn main() -> ExitCode {
    let done = match Args::parse().chore {
        Chore::Test { load: true, .. } => test::load(),
        Chore::Test { soak: true, .. } => test::soak(),
        Chore::Test { .. } => test::run(),
        Chore::Fuzz { seconds, targets } => fuzz::run(Duration::from_secs(seconds), &targets),
        Chore::Benchmarks { names } => benchmarks::run(&names),
        Chore::Peers { json, rounds, without } => peers::run(json, rounds, &without),
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

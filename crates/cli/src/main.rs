//! The command `keystrata`: seals and opens files for many accounts, and shows what the KEK store holds.
#![forbid(unsafe_code)]

mod account;
mod args;
mod audit;
mod completions;
mod config;
mod confirm;
mod demo;
mod failure;
mod files;
mod findings;
mod init;
mod input;
mod inspect;
mod job;
mod keys;
mod kms;
mod no_root;
mod numbers;
mod observe;
mod open;
mod output;
mod progress;
mod rekey;
mod reroot;
mod rewrap;
mod root;
mod seal;
mod settings;
mod simulate;
mod store;
mod utc;

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    args::{Args, Command},
    failure::Outcome,
};

fn main() -> ExitCode {
    let args = Args::of_command_line();
    let name = args.command.name();
    match start(args) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(failure::FINDINGS),
        Err(error) => {
            failure::report(name, &error);
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<Outcome> {
    no_core_dump();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the threads that do the work cannot be started")?;
    runtime.block_on(run(args))
}

/// A new subcommand is one line here and one in [`Command`].
async fn run(Args { command, settings }: Args) -> Result<Outcome> {
    let done = match command {
        Command::Store(args) => return store::run(&args, &settings).await,
        Command::Root(args) => return root::run(&args, &settings).await,
        Command::Account(args) => return account::run(&args, &settings).await,
        Command::Rewrap(args) => return rewrap::run(&args, &settings).await,
        Command::Rekey(args) => return rekey::run(&args, &settings).await,
        Command::Reroot(args) => return reroot::run(&args, &settings).await,
        Command::Init(args) => init::run(&args, &settings).await,
        Command::Seal(args) => seal::run(&args, &settings).await,
        Command::Open(args) => open::run(&args, &settings).await,
        Command::Inspect(args) => inspect::run(&args),
        Command::Demo(args) => demo::run(&args).await,
        Command::Simulate(args) => simulate::run(*args),
        Command::Observe(args) => observe::run(&args),
        Command::Completions(args) => completions::run(&args),
    };
    done.map(|()| Outcome::Done)
}

/// A crash must not write the plaintext at hand to a file. (A core handler that the kernel pipes to ignores this limit;
/// the pages that hold keys are out of its reach by other means.)
fn no_core_dump() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit is refused only where a sandbox forbids the call, and then it has its own view of core dumps.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

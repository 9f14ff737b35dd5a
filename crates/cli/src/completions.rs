//! `keystrata completions`.

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::{
    args::{Args, CompletionsArgs},
    output,
};

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "keystrata", &mut script);
    output::print(std::str::from_utf8(&script).context("the script is not UTF-8")?)
}

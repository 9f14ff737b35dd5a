//! `keystrata demo`: real files of many accounts, sealed and opened four ways, and the KMS calls of each counted.

mod corpus;
mod report;
mod strategy;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::value_parser;
use indicatif::{ProgressBar, ProgressStyle};
use keystrata_kms::ListPrice;

use self::{
    corpus::Corpus,
    report::{Report, StrategyReport},
    strategy::{Kind, Workload},
};
use crate::output;

/// Seal and open real files of many accounts under four strategies and count the KMS calls of each
///
/// Cuts the files of a folder into records, spreads them over accounts as unevenly as tenants are, then seals all, opens
/// all and compares every byte. The KMS is a key file that answers with an artificial latency; calls are counted there.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Strategies:
  direct              every object's key wrapped by the KMS itself: one call to seal, one to open
  account-kek         a KEK for each account, unwrapped by the KMS for every seal and every open
  account-kek-cached  the same, with decrypted KEKs kept in memory for their time to live
  group-kek-cached    the same, with the KEKs of 20 accounts each wrapped by the KEK of a group, and only that by the KMS

Examples:
  keystrata demo
  keystrata demo --input ~/documents --accounts 1000 --objects 50000
  keystrata demo --json | jq '.strategies[] | {name, kms_calls}'")]
pub(crate) struct DemoArgs {
    /// Folder whose files are cut into records; nothing in it is changed
    #[arg(long, value_name = "DIR", default_value = ".")]
    input: PathBuf,
    /// How many records to seal and open
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    objects: u32,
    /// How many accounts to spread them over
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = value_parser!(u32).range(1..=100_000))]
    accounts: u32,
    /// How long the stand-in for a KMS takes to answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = value_parser!(u64).range(0..=1_000))]
    kms_latency_ms: u64,
    /// What 10,000 KMS calls cost, in US dollars; the default is the list price of AWS KMS for symmetric keys
    #[arg(long, value_name = "USD", default_value_t = ListPrice::AWS_KMS.usd_per_10_000_calls, value_parser = price)]
    price_per_10k: f64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

fn price(text: &str) -> Result<f64, String> {
    let price: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if price.is_finite() && price >= 0.0 { Ok(price) } else { Err("a price is zero or more".to_owned()) }
}

/// Runs the strategies one after the other and prints what was found.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.accounts <= args.objects,
        "{} accounts cannot share {} objects: give at least one object for each account",
        args.accounts,
        args.objects
    );
    let corpus = Corpus::read(&args.input, args.objects as usize)?;
    let latency = Duration::from_millis(args.kms_latency_ms);
    let workload = Workload::new(corpus, args.accounts as usize, latency);
    let folder = tempfile::tempdir().context("cannot make a temporary folder for the demo's keys")?;

    let bar = ProgressBar::new(2 * Kind::ALL.len() as u64 * u64::from(args.objects));
    let style = "{msg:<28} [{bar:40}] {pos}/{len} {eta}";
    bar.set_style(ProgressStyle::with_template(style).context("the progress bar's template")?.progress_chars("=> "));
    let mut strategies = Vec::new();
    for kind in Kind::ALL {
        let outcome = workload.run(kind, folder.path(), &bar).await?;
        strategies.push(StrategyReport::new(kind.name(), &outcome, args.price_per_10k));
    }
    bar.finish_and_clear();

    let report = Report::new(&workload, strategies, args.kms_latency_ms, args.price_per_10k);
    output::print(&if args.json { report.to_json()? } else { report.to_table(&args.input) })
}

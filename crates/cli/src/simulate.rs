//! `keystrata simulate`: what a policy will cost, expose and delay, by the engine in virtual time.

mod table;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use keystrata_simulate::{
    Draft, Forecast, Prices, Progress, Scenario, SimulateError, Trace, forecast, forecast_trace, report,
};

use crate::output::{self, Content, Output};

/// Forecast what policies cost, how exposed they leave keys, and whether the KMS will throttle
///
/// Runs the engine itself, with its cache, budget, retries and breaker, in virtual time: one for each process of the fleet. A
/// day takes seconds. Only the KMS, the store and the ciphers are stood in for. The same seed gives the same numbers. Nothing
/// is read of the settings file, and no KMS is called.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata simulate
  keystrata simulate --accounts 500 --rate 200 --day-curve office --ttl 1m,5m,1h --topology account,group:20,direct
  keystrata simulate --trace trace.csv --ttl 1m,5m,1h --report plan.html
  keystrata simulate --scenario plan.toml --seed 2 --json | jq '.policies[] | {name, usd: .monthly_usd.total}'

A scenario is a TOML file of the same names with _ for -, lists as arrays and times as strings:
  accounts = 500
  rate = 200.0
  ttl = [\"1m\", \"5m\"]
  deploy = [\"10h/30s\"]

docs/planning.md tells what the figures mean and how to record a trace of your own.

With --json, keys: traffic, trace, outside, seed, policies [{name, policy, operations, hit_rate, kms_calls, added_latency_ms,
refused, monthly_usd, exposure, refreshes, evictions, over_time}].")]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    draft: Draft,
    /// Read what is not given here from this file
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Prices and quotas to use instead of those built in: a TOML file, see docs/planning.md
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Also write a page with plots for a browser, complete in itself
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV, a line for each policy, instead of a table
    #[arg(long)]
    csv: bool,
}

/// Simulates, on threads of its own, and prints.
pub(crate) fn run(args: SimulateArgs) -> Result<()> {
    let SimulateArgs { draft, scenario, prices, report: page, json, csv } = args;
    let draft = match &scenario {
        None => draft,
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("the scenario cannot be read from {}", file.display()))?;
            draft.over(Draft::parse(&text).map_err(|message| anyhow!("{}: {message}", file.display()))?)
        }
    };
    let prices = prices.as_deref().map_or_else(Prices::built_in, Prices::read)?;
    let scenario = Scenario::new(&draft, &prices)?;
    // Before the work: a place that cannot be written costs nobody's minutes.
    let page = page.map(|path| Output::prepare(&path, Content::Report)).transpose()?;
    let forecast = simulate(&scenario, &draft)?;
    if let Some(page) = page {
        page.write(report::html(&forecast).as_bytes())?;
    }
    if json {
        return output::print(&(serde_json::to_string_pretty(&forecast)? + "\n"));
    }
    output::print(&if csv { table::csv(&forecast)? } else { table::table(&forecast) })
}

fn simulate(scenario: &Scenario, draft: &Draft) -> Result<Forecast> {
    let progress = Progress::default();
    let done = thread::scope(|scope| {
        let work = scope.spawn(|| match &draft.trace {
            None => forecast(scenario, &progress),
            Some(path) => {
                let trace = Trace::read(path, &scenario.traffic, draft.processes.is_some(), scenario.seed)?;
                forecast_trace(scenario, &trace, &progress)
            }
        });
        watch(&progress, || work.is_finished());
        work.join()
    });
    done.unwrap_or_else(|_| Err(SimulateError::Engine("a simulation ended in the middle; this is a bug".into())))
        .map_err(Into::into)
}

/// A bar on stderr, where a person looks, until the work is finished.
fn watch(progress: &Progress, is_finished: impl Fn() -> bool) {
    let bar = ProgressBar::new(0);
    let style = "{msg} {wide_bar} {human_pos}/{human_len} operations, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message("simulating");
    // Short at first, so that a small simulation is not kept waiting for the bar.
    let mut pause = Duration::from_millis(1);
    while !is_finished() {
        let (done, expected) = progress.operations();
        if expected > 0 {
            bar.set_length(expected.max(done));
            bar.set_position(done);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    bar.finish_and_clear();
}

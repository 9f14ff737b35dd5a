//! What the demo found, as a table for people and as JSON for programs.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use keystrata_kms::estimated_cost;
use serde::Serialize;

use super::strategy::{Outcome, Workload};
use crate::numbers::grouped;

#[derive(Serialize)]
pub(super) struct Report {
    accounts: usize,
    objects: usize,
    /// Objects that came back byte for byte under every strategy.
    verified: u64,
    strategies: Vec<StrategyReport>,
    bytes: u64,
    files: usize,
    largest_account_objects: usize,
    kms_latency_ms: u64,
    price_per_10k_usd: f64,
}

#[derive(Serialize)]
pub(super) struct StrategyReport {
    name: &'static str,
    kms_calls: u64,
    /// Against the first strategy.
    saved_percent: f64,
    seconds: f64,
    cost_usd: f64,
    #[serde(skip)]
    verified: u64,
}

impl StrategyReport {
    pub(super) fn new(name: &'static str, outcome: &Outcome, price_per_10k: f64) -> Self {
        Self {
            name,
            kms_calls: outcome.kms_calls,
            saved_percent: 0.0,
            seconds: (outcome.elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0,
            cost_usd: estimated_cost(outcome.kms_calls, price_per_10k),
            verified: outcome.verified,
        }
    }
}

impl Report {
    pub(super) fn new(
        workload: &Workload,
        mut strategies: Vec<StrategyReport>,
        kms_latency_ms: u64,
        price_per_10k_usd: f64,
    ) -> Self {
        let baseline = strategies.first().map_or(0, |first| first.kms_calls);
        for strategy in &mut strategies {
            strategy.saved_percent = saved_percent(strategy.kms_calls, baseline);
        }
        Self {
            accounts: workload.accounts(),
            objects: workload.objects(),
            verified: strategies.iter().map(|strategy| strategy.verified).min().unwrap_or_default(),
            strategies,
            bytes: workload.corpus().bytes,
            files: workload.corpus().files,
            largest_account_objects: workload.largest_account(),
            kms_latency_ms,
            price_per_10k_usd,
        }
    }

    pub(super) fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    pub(super) fn to_table(&self, input: &Path) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header(["strategy", "KMS calls", "saved", "seconds", "cost"]);
        for strategy in &self.strategies {
            table.add_row([
                strategy.name.to_owned(),
                grouped(strategy.kms_calls),
                format!("{:.2} %", strategy.saved_percent),
                format!("{:.2}", strategy.seconds),
                format!("${:.4}", strategy.cost_usd),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!(
            "{} records ({} bytes) of {} files below {}, spread over {} accounts (the largest has {}).\n\
             Each was sealed, opened and compared under four strategies: {} of {} came back byte for byte.\n\n\
             {table}\n\n\
             KMS: a key file that answers after {} ms; calls are counted there. Cost at ${} per 10,000 calls.\n",
            grouped(self.objects as u64),
            grouped(self.bytes),
            grouped(self.files as u64),
            input.display(),
            grouped(self.accounts as u64),
            grouped(self.largest_account_objects as u64),
            grouped(self.verified),
            grouped(self.objects as u64),
            self.kms_latency_ms,
            self.price_per_10k_usd,
        )
    }
}

#[allow(clippy::cast_precision_loss)] // calls are millions, not 2^52
fn saved_percent(calls: u64, baseline: u64) -> f64 {
    if baseline == 0 {
        return 0.0;
    }
    let saved = 100.0 * (1.0 - calls as f64 / baseline as f64);
    (saved * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn savings_are_against_the_baseline_and_may_be_negative() {
        assert_eq!(saved_percent(40_000, 40_000).to_string(), "0");
        assert_eq!(saved_percent(200, 40_000).to_string(), "99.5");
        assert_eq!(saved_percent(40_200, 40_000).to_string(), "-0.5");
        assert_eq!(saved_percent(0, 0).to_string(), "0");
    }
}

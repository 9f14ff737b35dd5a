//! A forecast as a table for people and as CSV for spreadsheets.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use keystrata_simulate::{Forecast, PolicyForecast};

use crate::numbers::grouped;

pub(super) fn table(forecast: &Forecast) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header([
        "policy",
        "KMS calls",
        "a second",
        "peak",
        "× least",
        "hits",
        "p99 ms",
        "max ms",
        "refused",
        "$ a month",
        "quota left",
        "KEKs avg",
        "most",
        "revoked works",
    ]);
    for policy in &forecast.policies {
        table.add_row(row(policy));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{}\n{table}\n\n{}", header(forecast), footer(forecast))
}

fn row(policy: &PolicyForecast) -> [String; 14] {
    let PolicyForecast { kms_calls: calls, added_latency_ms: latency, exposure, .. } = policy;
    let quota_left = calls.quota_left_at_peak.map_or("-".into(), |left| format!("{:.1} %", left * 100.0));
    [
        policy.name.clone(),
        grouped(calls.total),
        format!("{:.3}", calls.per_second),
        grouped(calls.peak_second.into()),
        format!("{:.2}", calls.times_lower_bound),
        format!("{:.2} %", policy.hit_rate * 100.0),
        format!("{:.1}", latency.p99),
        format!("{:.1}", latency.max),
        grouped(policy.refused.total),
        format!("{:.2}", policy.monthly_usd.total),
        quota_left,
        format!("{:.1}", exposure.average_keks),
        grouped(exposure.most_keks.into()),
        seconds(exposure.longest_use_after_revocation_s),
    ]
}

fn header(forecast: &Forecast) -> String {
    let Forecast { traffic, trace, outside, seed, .. } = forecast;
    let operations = forecast.policies.first().map_or(0, |policy| policy.operations);
    let from = trace.as_ref().map_or_else(
        || {
            format!(
                "made up with seed {seed}: skew {}, {} routing, {} day",
                traffic.skew, traffic.routing, traffic.day_curve
            )
        },
        |trace| format!("recorded in {trace}"),
    );
    let quota = outside.quota.map_or("no quota".into(), |quota| format!("a quota of {quota} calls a second"));
    let mut text = format!(
        "{} operations over {} ({:.1} a second, {:.0} % seals) by {} processes for {} accounts, {from}.\n\
         KMS: {}, half of its answers within {} and 99 of 100 within {}, {quota}. Prices of {}.\n",
        grouped(operations),
        traffic.duration,
        forecast.operations_per_second(),
        traffic.seals * 100.0,
        grouped(traffic.processes.into()),
        grouped(traffic.accounts.into()),
        outside.provider.title,
        outside.latency,
        outside.latency_p99,
        outside.prices_as_of,
    );
    let events = traffic.bursts.iter().map(|burst| format!("burst {burst}"));
    let events = events.chain(traffic.deploys.iter().map(|deploy| format!("deploy {deploy}")));
    let events: Vec<_> = events.chain(outside.outages.iter().map(|outage| format!("outage {outage}"))).collect();
    if !events.is_empty() {
        let _ = writeln!(text, "With {}.", events.join(", "));
    }
    text
}

fn footer(forecast: &Forecast) -> String {
    let mut text = String::from(
        "× least: calls against one for each KEK that the KMS wraps, process and TTL with traffic. p99, max: what operations\n\
         waited for keys. KEKs: decrypted in memory, all processes together. Revoked works: the longest that a key was used\n\
         after the KMS had last allowed it.\n",
    );
    for policy in forecast.policies.iter().filter(|policy| policy.refused.total > 0) {
        let refused = &policy.refused;
        let kinds = [
            ("throttled", refused.throttled),
            ("denied", refused.denied),
            ("unavailable", refused.unavailable),
            ("over budget", refused.overloaded),
            ("other", refused.other),
        ];
        let kinds = kinds.into_iter().filter(|(_, count)| *count > 0);
        let kinds: Vec<_> = kinds.map(|(kind, count)| format!("{} {kind}", grouped(count))).collect();
        let _ = writeln!(text, "Refused under {}: {}.", policy.name, kinds.join(", "));
    }
    text
}

/// A time of any size in two or three digits.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if s >= 7_200.0 => format!("{:.1} h", s / 3_600.0),
        s if s >= 120.0 => format!("{:.1} min", s / 60.0),
        s => format!("{s:.1} s"),
    }
}

pub(super) fn csv(forecast: &Forecast) -> Result<String> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record([
        "policy",
        "topology",
        "ttl_s",
        "capacity",
        "refresh_ahead",
        "jitter",
        "budget",
        "operations",
        "hit_rate",
        "kms_calls",
        "kms_calls_per_second",
        "kms_calls_peak_second",
        "kms_calls_lower_bound",
        "kms_calls_throttled",
        "quota_left_at_peak",
        "waited",
        "latency_p50_ms",
        "latency_p99_ms",
        "latency_max_ms",
        "refused",
        "usd_month",
        "keks_average",
        "keks_most",
        "kek_seconds",
        "longest_use_after_revocation_s",
    ])?;
    for forecast in &forecast.policies {
        let PolicyForecast { policy, kms_calls: calls, added_latency_ms: latency, exposure, .. } = forecast;
        out.write_record([
            forecast.name.clone(),
            policy.topology.to_string(),
            policy.ttl.0.as_secs_f64().to_string(),
            policy.capacity.to_string(),
            policy.refresh_ahead.to_string(),
            policy.jitter.to_string(),
            policy.budget.to_string(),
            forecast.operations.to_string(),
            forecast.hit_rate.to_string(),
            calls.total.to_string(),
            calls.per_second.to_string(),
            calls.peak_second.to_string(),
            calls.lower_bound.to_string(),
            calls.throttled.to_string(),
            calls.quota_left_at_peak.map(|left| left.to_string()).unwrap_or_default(),
            latency.waited.to_string(),
            latency.p50.to_string(),
            latency.p99.to_string(),
            latency.max.to_string(),
            forecast.refused.total.to_string(),
            forecast.monthly_usd.total.to_string(),
            exposure.average_keks.to_string(),
            exposure.most_keks.to_string(),
            exposure.kek_seconds.to_string(),
            exposure.longest_use_after_revocation_s.to_string(),
        ])?;
    }
    let bytes = out.into_inner().context("the CSV could not be made")?;
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_at_any_size() {
        assert_eq!([0.04, 30.0, 300.0, 86_400.0].map(seconds), ["0.0 s", "30.0 s", "5.0 min", "24.0 h"]);
    }
}

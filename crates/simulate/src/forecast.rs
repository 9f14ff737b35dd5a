//! Running a scenario, and what comes of it.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    draft::Wraps,
    error::SimulateError,
    lane::{self, Task},
    measured::{Measured, Refusal},
    progress::Progress,
    runner::{Runner, threads},
    scenario::{KeyPolicy, Outside, Scenario, Traffic},
    span::SECOND,
    trace::Trace,
    traffic::{Fleet, Request, Stream},
};

/// A month for bills.
const MONTH_SECONDS: f64 = 30.0 * 86_400.0;
/// Into how many pieces a forecast's time is cut at most, for plots.
const PIECES: usize = 240;
/// How often a trace is read at most for one policy, unless there are more processors.
const MOST_READINGS: usize = 16;

/// What a scenario's policies come to.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// What was asked of the processes; of a trace, what was found in it.
    pub traffic: Traffic,
    /// The trace, if there was one.
    pub trace: Option<String>,
    /// What they asked of others.
    pub outside: Outside,
    /// Where the random numbers began.
    pub seed: u64,
    /// Each policy, in the order of the scenario.
    pub policies: Vec<PolicyForecast>,
}

impl Forecast {
    /// Operations a second, on the average of what was simulated: a part of a day has not the day's average.
    #[expect(clippy::cast_precision_loss, reason = "an average")]
    pub fn operations_per_second(&self) -> f64 {
        let operations = self.policies.first().map_or(0, |policy| policy.operations);
        operations as f64 / self.traffic.duration.as_seconds()
    }
}

/// What one policy comes to.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyForecast {
    /// A short name among the policies of its forecast.
    pub name: String,
    /// The policy.
    pub policy: KeyPolicy,
    /// Seals and opens.
    pub operations: u64,
    /// The part of them that found their KEK in memory.
    pub hit_rate: f64,
    /// Calls to the KMS, retries and throttled ones included.
    pub kms_calls: KmsCalls,
    /// What operations waited for keys, in milliseconds.
    pub added_latency_ms: LatencyForecast,
    /// Operations that failed.
    pub refused: Refused,
    /// US dollars for 30 days like this.
    pub monthly_usd: Cost,
    /// Keys in memory.
    pub exposure: Exposure,
    /// KEKs renewed ahead of their deadline.
    pub refreshes: u64,
    /// KEKs overwritten to make room.
    pub evictions: u64,
    /// For plots: the time cut into equal pieces.
    pub over_time: OverTime,
}

/// Calls to the KMS.
#[derive(Clone, Debug, Serialize)]
pub struct KmsCalls {
    /// All of them.
    pub total: u64,
    /// On the average.
    pub per_second: f64,
    /// In the second with the most.
    pub peak_second: u32,
    /// One for each KEK that the KMS wraps, process and TTL with traffic.
    pub lower_bound: u64,
    /// How many times that were made.
    pub times_lower_bound: f64,
    /// Those that the KMS throttled.
    pub throttled: u64,
    /// Those that it failed or did not answer.
    pub failed: u64,
    /// Those that it denied.
    pub denied: u64,
    /// What part of the quota is left in the second with the most calls; negative if they are more than that. None without a
    /// quota.
    pub quota_left_at_peak: Option<f64>,
}

/// What operations waited for keys, in milliseconds. Those that found theirs in memory waited for nothing.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyForecast {
    /// The part of the operations that waited.
    pub waited: f64,
    /// Half of all operations waited no longer.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The one that waited longest.
    pub max: f64,
    /// Half of those that waited, waited no longer.
    pub p50_of_waits: f64,
}

/// Operations that failed, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// All of them.
    pub total: u64,
    /// The KMS throttled, and retries did not help.
    pub throttled: u64,
    /// The KMS denied.
    pub denied: u64,
    /// The KMS did not answer.
    pub unavailable: u64,
    /// The process's own budget was used up.
    pub overloaded: u64,
    /// Anything else.
    pub other: u64,
}

/// US dollars for 30 days like those that were simulated.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// For calls.
    pub calls: f64,
    /// For the root key.
    pub key: f64,
    /// Together.
    pub total: f64,
}

/// Decrypted KEKs in memory, of all processes together.
#[derive(Clone, Debug, Serialize)]
pub struct Exposure {
    /// On the average.
    pub average_keks: f64,
    /// At the worst moment.
    pub most_keks: u32,
    /// KEKs times the seconds that they were in memory.
    pub kek_seconds: f64,
    /// The longest that a key was used after the KMS had last allowed it: so long a revocation can go unnoticed.
    pub longest_use_after_revocation_s: f64,
}

/// The time of a simulation, cut into equal pieces.
#[derive(Clone, Debug, Serialize)]
pub struct OverTime {
    /// How long a piece is.
    pub piece_s: f64,
    /// Calls a second to the KMS in each.
    pub calls_per_second: Vec<f64>,
    /// KEKs in memory in each.
    pub keks: Vec<f64>,
}

/// Simulates every policy of `scenario` with traffic that is made up, on as many threads as the machine has processors. The
/// same scenario gives the same forecast on every machine.
///
/// # Errors
/// [`SimulateError`], also if `progress` was stopped.
pub fn forecast(scenario: &Scenario, progress: &Progress) -> Result<Forecast, SimulateError> {
    forecast_in(scenario.traffic.processes as usize, scenario, progress)
}

/// In at most so many lanes where processes do not notice each other; what comes out does not depend on it.
fn forecast_in(lanes: usize, scenario: &Scenario, progress: &Progress) -> Result<Forecast, SimulateError> {
    let fleet = Arc::new(Fleet::new(&scenario.traffic, scenario.seed)?);
    progress.expect(fleet.expected().saturating_mul(scenario.policies.len() as u64));
    let run = |task: &Task<'_>| run_lane(task, Stream::new(&fleet, task.processes), progress);
    let runner = Runner { scenario, run: &run, lanes, operations: fleet.expected(), progress };
    Ok(assembled(scenario, None, runner.policies()?))
}

/// The same for traffic that was recorded.
///
/// # Errors
/// [`SimulateError`], also if `progress` was stopped.
pub fn forecast_trace(scenario: &Scenario, trace: &Trace, progress: &Progress) -> Result<Forecast, SimulateError> {
    let scenario = &Scenario { traffic: trace.traffic(&scenario.traffic), ..scenario.clone() };
    scenario.traffic.check_handles()?;
    progress.expect(trace.requests().saturating_mul(scenario.policies.len() as u64));
    let run = |task: &Task<'_>| {
        let (requests, failure) = trace.replay(task.processes)?;
        let measured = run_lane(task, requests, progress)?;
        failure.take().map_or(Ok(measured), Err)
    };
    let lanes = MOST_READINGS.max(threads());
    let runner = Runner { scenario, run: &run, lanes, operations: trace.requests(), progress };
    Ok(assembled(scenario, Some(trace.name()), runner.policies()?))
}

fn assembled(scenario: &Scenario, trace: Option<String>, policies: Vec<PolicyForecast>) -> Forecast {
    let (traffic, outside) = (scenario.traffic.clone(), scenario.outside.clone());
    Forecast { traffic, trace, outside, seed: scenario.seed, policies }
}

fn run_lane(
    task: &Task<'_>,
    requests: impl Iterator<Item = Request>,
    progress: &Progress,
) -> Result<Measured, SimulateError> {
    if task.policy.topology == Wraps::Direct {
        return lane::run_direct(task, requests, progress);
    }
    lane::run_cached(task, requests, progress)
}

impl PolicyForecast {
    #[expect(clippy::cast_precision_loss, reason = "ratios and averages")]
    pub(crate) fn new(scenario: &Scenario, policy: KeyPolicy, measured: &Measured) -> Self {
        let Scenario { traffic, outside, .. } = scenario;
        let duration = traffic.duration.as_seconds();
        let part = |of: u64| if measured.operations == 0 { 0.0 } else { of as f64 / measured.operations as f64 };
        let calls = &measured.calls;
        let peak = calls.per_second.iter().max().copied().unwrap_or_default();
        let price = |calls: f64| calls / 10_000.0 * outside.provider.usd_per_10_000_calls;
        let cost = price(calls.total as f64 / duration * MONTH_SECONDS);
        let key = outside.provider.usd_per_key_month;
        let average = if measured.keks.is_empty() {
            0.0
        } else {
            measured.keks.iter().map(|keks| f64::from(*keks)).sum::<f64>() / measured.keks.len() as f64
        };
        let refused = |refusal: Refusal| measured.refused[refusal as usize];
        Self {
            name: policy.name(&scenario.policies),
            policy,
            operations: measured.operations,
            hit_rate: part(measured.hits),
            kms_calls: KmsCalls {
                total: calls.total,
                per_second: calls.total as f64 / duration,
                peak_second: peak,
                lower_bound: measured.lower_bound,
                times_lower_bound: calls.total as f64 / (measured.lower_bound.max(1)) as f64,
                throttled: calls.throttled,
                failed: calls.failed,
                denied: calls.denied,
                quota_left_at_peak: outside.quota.map(|quota| 1.0 - f64::from(peak) / quota),
            },
            added_latency_ms: LatencyForecast::new(measured),
            refused: Refused {
                total: measured.refused.iter().sum(),
                throttled: refused(Refusal::Throttled),
                denied: refused(Refusal::Denied),
                unavailable: refused(Refusal::Unavailable),
                overloaded: refused(Refusal::Overloaded),
                other: refused(Refusal::Other),
            },
            monthly_usd: Cost { calls: cost, key, total: cost + key },
            exposure: Exposure {
                average_keks: average,
                most_keks: measured.keks.iter().max().copied().unwrap_or_default(),
                kek_seconds: average * duration,
                longest_use_after_revocation_s: measured.oldest_use as f64 / SECOND as f64,
            },
            refreshes: measured.refreshes,
            evictions: measured.evictions,
            over_time: OverTime::new(duration, measured),
        }
    }
}

impl LatencyForecast {
    #[expect(clippy::cast_precision_loss, reason = "times of an hour at most")]
    fn new(measured: &Measured) -> Self {
        let (waits, all) = (&measured.waits, measured.operations);
        let millis = |nanos: u64| nanos as f64 / 1e6;
        // The hits come before all that waited.
        let quantile = |part: f64| {
            let rank = part * all as f64;
            let among_waits = (rank - measured.hits as f64) / waits.len().max(1) as f64;
            if among_waits <= 0.0 || waits.is_empty() { 0.0 } else { millis(waits.value_at_quantile(among_waits)) }
        };
        Self {
            waited: if all == 0 { 0.0 } else { waits.len() as f64 / all as f64 },
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: if waits.is_empty() { 0.0 } else { millis(waits.max()) },
            p50_of_waits: if waits.is_empty() { 0.0 } else { millis(waits.value_at_quantile(0.5)) },
        }
    }
}

impl OverTime {
    #[expect(clippy::cast_precision_loss, reason = "averages")]
    fn new(duration: f64, measured: &Measured) -> Self {
        let pieces = PIECES.min(measured.calls.per_second.len().max(1));
        Self {
            piece_s: duration / pieces as f64,
            calls_per_second: averages(&measured.calls.per_second, pieces),
            keks: averages(&measured.keks, pieces),
        }
    }
}

/// The averages of `pieces` equal parts.
#[expect(clippy::cast_precision_loss, reason = "averages")]
fn averages(values: &[u32], pieces: usize) -> Vec<f64> {
    let bounds = |piece: usize| {
        let (from, to) = (values.len() * piece / pieces, values.len() * (piece + 1) / pieces);
        &values[from..to]
    };
    let average = |part: &[u32]| part.iter().map(|value| f64::from(*value)).sum::<f64>() / part.len().max(1) as f64;
    (0..pieces).map(|piece| average(bounds(piece))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{draft::Draft, prices::Prices};

    #[test]
    fn a_forecast_does_not_depend_on_how_processes_share_lanes() {
        let settings = "processes = 5\naccounts = 60\nrate = 30.0\nduration = \"15m\"\nttl = [\"1m\"]\n\
                        topology = [\"account\", \"group:10\", \"direct\"]\ndeploy = [\"5m/10s\"]\n\
                        outage = [\"8m/1m/throttled\"]\nprovider = \"none\"\n";
        let scenario = Scenario::new(&Draft::parse(settings).unwrap(), &Prices::built_in().unwrap()).unwrap();
        let [one, two, five] = [1, 2, 5].map(|lanes| {
            let forecast = forecast_in(lanes, &scenario, &Progress::default()).unwrap();
            serde_json::to_string(&forecast).unwrap()
        });
        assert!(one == two && two == five, "not the same in one, two and five lanes");
    }
}

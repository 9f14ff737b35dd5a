//! A forecast against reality: one trace, simulated by the command, and replayed by real processes on a real store and a
//! real KMS.
//!
//! Time is compressed by the TTL: six seconds for what would be five minutes, and so 48 seconds for 40 minutes. What the
//! engine does by time follows from the TTL, but for one thing that costs no KMS call: the primary is read again every half
//! minute.

mod fleet;
mod traffic;

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::Value;

use crate::{bao::Bao, keystrata};
use fleet::{Fleet, Policy, Replayed, is_child, replay_as_child};

const PROCESSES: u32 = 4;
const TTL: Duration = Duration::from_secs(6);
/// How far apart calls may be, as a part of the forecast.
const TOLERANCE: f64 = 0.02;

/// What the command forecasts.
struct Forecast {
    name: String,
    calls: u64,
    hit_rate: f64,
}

/// In the order in which the command combines them.
fn policies() -> Vec<Policy> {
    let policy = |group, refresh_ahead| Policy { group, refresh_ahead };
    vec![policy(None, true), policy(None, false), policy(Some(5), true), policy(Some(5), false)]
}

fn forecasts(folder: &Path) -> Vec<Forecast> {
    let ttl = format!("{}s", TTL.as_secs());
    // An OpenBao beside its client: no quota, and quicker than what the command takes for granted.
    let outside = ["--provider", "none", "--kms-latency", "2ms", "--kms-latency-p99", "20ms"];
    let lists = ["--topology", "account,group:5", "--ttl", &ttl, "--refresh-ahead", "on,off"];
    let arguments = [&["simulate", "--json", "--trace", "trace.csv"][..], &outside, &lists].concat();
    let forecast = keystrata(folder, &[], &arguments).unwrap().stdout;
    let forecast: Value = serde_json::from_slice(&forecast).unwrap();
    assert_eq!(forecast["traffic"]["processes"], PROCESSES);
    let of = |policy: &Value| Forecast {
        name: policy["name"].as_str().unwrap().to_owned(),
        calls: policy["kms_calls"]["total"].as_u64().unwrap(),
        hit_rate: policy["hit_rate"].as_f64().unwrap(),
    };
    forecast["policies"].as_array().unwrap().iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenBao, which `cargo xtask test` installs; takes a minute"]
async fn real_processes_make_the_calls_that_were_forecast() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv");
    traffic::write(&trace, 1);
    let forecasts = forecasts(folder.path());
    let (policies, keys) = (policies(), ["one", "two", "three", "four"]);
    let bao = Bao::start(&keys);
    let mut fleets = Vec::new();
    for (policy, key) in policies.into_iter().zip(keys) {
        fleets.push(Fleet::with_keys(folder.path(), &trace, policy, bao.root(key)).await);
    }
    assert_eq!(forecasts.len(), fleets.len());
    let before = asked(&bao);
    let replayed = tokio::task::spawn_blocking(move || fleet::replay_all(&fleets)).await.unwrap();
    let after = asked(&bao);

    let mut apart = Vec::new();
    for ((forecast, key), replayed) in forecasts.iter().zip(keys).zip(&replayed) {
        let count = |path: String| after.get(&path).unwrap_or(&0) - before.get(&path).unwrap_or(&0);
        let calls = count(format!("transit/decrypt/{key}"));
        let Replayed { unwraps, operations, hits, late_p99, late_most } = replayed;
        assert_eq!(calls, *unwraps, "{}: every attempt arrived, and none was made twice", forecast.name);
        // Each process asks Vault once whether the key is derived: no call of a policy's.
        assert_eq!(count(format!("transit/datakey/plaintext/{key}")), u64::from(PROCESSES));
        let difference = ratio(calls, forecast.calls) - 1.0;
        println!(
            "{}: forecast {} calls, {:.2} % hits; made {calls}, {:.2} %: {:+.2} %; operations were late by {late_p99:?} \
             at p99, {late_most:?} at most",
            forecast.name,
            forecast.calls,
            forecast.hit_rate * 100.0,
            ratio(*hits, *operations) * 100.0,
            difference * 100.0,
        );
        apart.push((&forecast.name, difference));
    }
    let wrong: Vec<_> = apart.iter().filter(|(_, difference)| difference.abs() > TOLERANCE).collect();
    assert!(wrong.is_empty(), "over {TOLERANCE} apart: {wrong:?}");
    assert!(forecasts[0].calls >= 1_500, "few calls say little: {}", forecasts[0].calls);
}

#[expect(clippy::cast_precision_loss, reason = "thousands of calls and operations")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// How often the server has answered each path.
fn asked(bao: &Bao) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for path in bao.requests() {
        *counts.entry(path).or_default() += 1;
    }
    counts
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_that_replays() {
    if is_child() {
        replay_as_child().await;
    }
}

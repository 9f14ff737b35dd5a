//! The trace: made up, the same every time, and read by the command and by each process from one file.

use std::{collections::HashMap, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::PROCESSES;

const ACCOUNTS: u32 = 150;
/// Operations a second, of all processes together.
const RATE: f64 = 120.0;
const LASTS: f64 = 48.0;

/// A line of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// In seconds, whole milliseconds.
    time: f64,
    pub(super) account: String,
    op: String,
    process: String,
}

impl Request {
    pub(super) fn at(&self) -> Duration {
        Duration::from_secs_f64(self.time)
    }

    pub(super) fn is_seal(&self) -> bool {
        self.op == "seal"
    }
}

/// Makes one: accounts by Zipf's law, any process, a fifth seals, at random times. Accounts are named by the order in which
/// they come first, in which the simulation forms groups.
pub(super) fn write(path: &Path, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut total = 0.0;
    let mut weigh = |rank: u32| {
        total += 1.0 / f64::from(rank);
        total
    };
    let weights: Vec<f64> = (1..=ACCOUNTS).map(&mut weigh).collect();
    let mut names = HashMap::new();
    let (mut time, mut writer) = (0.0, csv::Writer::from_path(path).unwrap());
    while time < LASTS {
        let chosen = random.f64() * total;
        let rank = weights.partition_point(|weight| *weight < chosen);
        let next = names.len();
        let account = format!("a{}", names.entry(rank).or_insert(next));
        let op = if random.f64() < 0.2 { "seal" } else { "open" }.to_owned();
        let process = format!("p{}", random.u32(..PROCESSES));
        writer.serialize(Request { time: (time * 1e3_f64).round() / 1e3, account, op, process }).unwrap();
        time -= (1.0 - random.f64()).ln() / RATE;
    }
    writer.flush().unwrap();
}

/// The requests to one process, or all.
pub(super) fn read(path: &Path, process: Option<u32>) -> Vec<Request> {
    let name = process.map(|process| format!("p{process}"));
    let mut reader = csv::Reader::from_path(path).unwrap();
    let requests = reader.deserialize().map(|request| request.unwrap());
    requests.filter(|request: &Request| name.as_ref().is_none_or(|name| *name == request.process)).collect()
}

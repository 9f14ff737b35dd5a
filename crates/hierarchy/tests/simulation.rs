//! The engine in virtual time over random topologies, traffic, failures, cancellations, clock jumps and invalidations. After each step a
//! model of a few lines checks the promises; without faults it counts the KMS calls to the one.
//!
//! Every run follows from its seed. A failing one is printed; run it alone with `KEYSTRATA_SEED=… cargo test -p
//! keystrata-hierarchy --test simulation`. `KEYSTRATA_SEEDS=…` says how many there are.
#![allow(clippy::unchecked_time_subtraction, clippy::unwrap_used)] // constants and helpers of the tests

#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/traffic.rs"]
mod traffic;
#[path = "simulation/tree.rs"]
mod tree;
#[path = "simulation/world.rs"]
mod world;

use traffic::{Run, Settings};

/// In a plain `cargo test`; `cargo xtask test` asks for 10,000 of each kind.
const SEEDS: u64 = 300;

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|value: String| value.parse::<u64>().expect("a number"));
    match (number("KEYSTRATA_SEED"), number("KEYSTRATA_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(SEEDS),
    }
}

/// Says which seed it was, however it fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the failing seed: KEYSTRATA_SEED={}", self.0);
        }
    }
}

fn run(settings: impl Fn(&mut fastrand::Rng) -> Settings) {
    for seed in seeds() {
        let _says = Seed(seed);
        let mut chance = fastrand::Rng::with_seed(seed);
        let settings = settings(&mut chance);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { Run::new(settings, chance).go().await });
    }
}

#[test]
fn without_faults_the_calls_are_the_lower_bound_exactly() {
    run(Settings::without_faults);
}

#[test]
fn with_all_kinds_of_faults_every_promise_holds() {
    run(Settings::with_faults);
}

#[test]
fn with_faults_and_room_for_few_keks_every_promise_holds() {
    run(Settings::without_room);
}

/// The same seed makes the same run: else a failing one could not be repeated.
#[test]
fn a_run_follows_from_its_seed() {
    let trace = |seed| {
        let mut chance = fastrand::Rng::with_seed(seed);
        let settings = Settings::with_faults(&mut chance);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { Run::new(settings, chance).go().await })
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

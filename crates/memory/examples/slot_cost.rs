//! What keys cost in memory and time, a million of them, in either kind of memory:
//!
//! `cargo run --release -p keystrata-memory --example slot_cost [keys]`

use std::{
    fs,
    time::{Duration, Instant},
};

use keystrata_memory::{Arena, ArenaConfig, Backing, MemoryError, Slot};

fn main() -> Result<(), MemoryError> {
    let keys = std::env::args().nth(1).and_then(|keys| keys.parse().ok()).unwrap_or(20_000);
    println!("a handle takes {} bytes", size_of::<Slot>());
    for backing in [Backing::Automatic, Backing::Locked] {
        let arena = Arena::new(ArenaConfig { backing, ..ArenaConfig::default() });
        let (mut slots, mut stores, mut wipes) = (Vec::with_capacity(keys), Timed::default(), Timed::default());
        slots.extend(arena.store(&[1; 32])); // whatever is set up once
        let (resident, mappings) = (resident_bytes(), mapping_count());
        while slots.len() < keys {
            slots.push(stores.run(|| arena.store(&[1; 32]))?);
        }
        let report = arena.report();
        println!("{backing:?}: {report:?}");
        let (grown, mapped) = (resident_bytes().saturating_sub(resident), mapping_count().saturating_sub(mappings));
        println!("  {} resident bytes a key, handle included; {mapped} more mappings", grown / keys.max(1));
        println!("  store: {stores}");
        for slot in slots.drain(..) {
            assert!(wipes.run(|| slot.wipe()));
            wipes.run(|| drop(slot));
        }
        println!("  wipe and drop: {wipes}; left: {:?}", arena.report());
    }
    Ok(())
}

/// The mean, and how many took long.
#[derive(Default)]
struct Timed {
    count: u32,
    sum: Duration,
    slowest: Duration,
    over_100_us: u32,
}

impl Timed {
    fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        self.count += 1;
        self.sum += took;
        self.slowest = self.slowest.max(took);
        self.over_100_us += u32::from(took > Duration::from_micros(100));
        result
    }
}

impl std::fmt::Display for Timed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mean = self.sum / self.count.max(1);
        write!(f, "{mean:?} each, the slowest {:?}, {} over 100 µs", self.slowest, self.over_100_us)
    }
}

/// 0 where there is no `/proc`.
fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}

fn mapping_count() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().count()
}

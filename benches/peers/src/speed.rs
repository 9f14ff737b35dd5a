//! Nanoseconds of one seal and one open, all libraries in turn within each round.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{Plain, Sealed, Tenant};

/// Bytes of the objects.
pub const SIZES: [usize; 4] = [64, 1024, 64 * 1024, 1024 * 1024];

/// What is timed at once, about: far above the clock's grain, far below a turn of the scheduler.
const BATCH_TIME: Duration = Duration::from_micros(100);
/// Sealed objects that lie side by side before a batch of opens: no more than the nearest caches hold.
const BATCH_BYTES: usize = 128 * 1024;
const MAX_BATCH: usize = 256;

/// One library in one of its modes, with a tenant's key in memory.
pub struct Case<'a> {
    name: &'static str,
    contestant: Box<dyn Contestant + 'a>,
}

/// What one library did.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The library and its mode.
    pub name: &'static str,
    /// By size, as in [`SIZES`].
    pub sizes: Vec<Cell>,
}

/// At one size.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Bytes of the plaintext.
    pub bytes: usize,
    /// Bytes that are stored beyond those.
    pub overhead: usize,
    /// One seal.
    pub seal: Nanos,
    /// One open.
    pub open: Nanos,
}

/// Nanoseconds of one call.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Nanos {
    /// In the quickest round.
    pub min: f64,
    /// In the middle one.
    pub median: f64,
}

impl<'a> Case<'a> {
    /// Times `tenant` under this name.
    pub fn new<T: Tenant + 'a>(name: &'static str, tenant: T) -> Self {
        Self { name, contestant: Box::new(Timed { tenant, plain: T::Plain::of(&[]), sealed: None }) }
    }
}

/// Times all cases at all sizes, so many rounds each.
pub fn measure(cases: &mut [Case<'_>], rounds: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = cases.iter().map(|case| Row { name: case.name, sizes: Vec::new() }).collect();
    for size in SIZES {
        let plaintext: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        let mut batches = Vec::new();
        for (case, row) in cases.iter_mut().zip(&mut rows) {
            let overhead = case.contestant.prepare(&plaintext);
            batches.push([batch(size, |n| case.contestant.seal(n)), batch(size, |n| case.contestant.open(n))]);
            let none = Nanos { min: f64::NAN, median: f64::NAN };
            row.sizes.push(Cell { bytes: size, overhead, seal: none, open: none });
        }
        let mut times = vec![[Vec::with_capacity(rounds), Vec::with_capacity(rounds)]; cases.len()];
        for _ in 0..rounds {
            for ((case, &[seals, opens]), [seal, open]) in cases.iter_mut().zip(&batches).zip(&mut times) {
                seal.push(each(case.contestant.seal(seals), seals));
                open.push(each(case.contestant.open(opens), opens));
            }
        }
        for (row, [seal, open]) in rows.iter_mut().zip(times) {
            let cell = row.sizes.last_mut().expect("pushed above");
            (cell.seal, cell.open) = (nanos(seal), nanos(open));
        }
    }
    rows
}

/// How many calls make a batch.
fn batch(size: usize, mut time: impl FnMut(usize) -> Duration) -> usize {
    // The first call is slower than any other.
    time(1);
    let once = time(1).max(Duration::from_nanos(1));
    let wanted = BATCH_TIME.as_nanos() / once.as_nanos();
    usize::try_from(wanted).unwrap_or(MAX_BATCH).clamp(1, MAX_BATCH.min((BATCH_BYTES / size).max(1)))
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn each(time: Duration, calls: usize) -> f64 {
    time.as_nanos() as f64 / calls as f64
}

fn nanos(mut times: Vec<f64>) -> Nanos {
    times.sort_unstable_by(f64::total_cmp);
    Nanos { min: times[0], median: times[times.len() / 2] }
}

trait Contestant {
    /// Takes what is sealed from now on, and says how many bytes more are stored.
    fn prepare(&mut self, plaintext: &[u8]) -> usize;
    /// The time of so many seals, each result dropped.
    fn seal(&mut self, times: usize) -> Duration;
    /// The time of so many opens, each of an object of its own, which is made before the time is taken.
    fn open(&mut self, times: usize) -> Duration;
}

struct Timed<T: Tenant> {
    tenant: T,
    plain: T::Plain,
    sealed: Option<T::Sealed>,
}

impl<T: Tenant> Contestant for Timed<T> {
    fn prepare(&mut self, plaintext: &[u8]) -> usize {
        self.plain = T::Plain::of(plaintext);
        let sealed = self.tenant.seal(&self.plain);
        assert_eq!(self.tenant.open(&mut sealed.clone()).bytes(), plaintext, "a library opens what it sealed");
        let overhead = sealed.stored_bytes() - plaintext.len();
        self.sealed = Some(sealed);
        overhead
    }

    fn seal(&mut self, times: usize) -> Duration {
        let start = Instant::now();
        for _ in 0..times {
            black_box(self.tenant.seal(black_box(&self.plain)));
        }
        start.elapsed()
    }

    fn open(&mut self, times: usize) -> Duration {
        let mut copies = vec![self.sealed.clone().expect("prepared"); times];
        let start = Instant::now();
        for sealed in &mut copies {
            black_box(self.tenant.open(black_box(sealed)));
        }
        start.elapsed()
    }
}

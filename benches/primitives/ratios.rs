//! Ratios of minima: every round runs each operation of a size once, so that noise falls on both ends alike.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use keystrata_primitives::Suite;

use super::{SIZES, Subject, bare};

/// Time for one size: over a second even at 64 MiB, and some thousands of rounds below.
const PER_SIZE: Duration = Duration::from_secs(4);
/// A timed batch takes at least this long, far above the clock's grain.
const BATCH: Duration = Duration::from_micros(20);

/// An operation, and its least time so far in nanoseconds.
struct Case<'a> {
    run: Box<dyn FnMut() + 'a>,
    batch: u32,
    best: f64,
}

impl<'a> Case<'a> {
    fn new<T>(mut run: impl FnMut() -> T + 'a) -> Self {
        let mut run: Box<dyn FnMut() + 'a> = Box::new(move || {
            black_box(run());
        });
        let mut batch = 1;
        while time(&mut run, batch) < BATCH {
            batch *= 2;
        }
        Self { run, batch, best: f64::INFINITY }
    }
}

fn time(run: &mut dyn FnMut(), batch: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..batch {
        run();
    }
    start.elapsed()
}

/// The least nanoseconds of each.
fn measure<const N: usize>(mut cases: [Case<'_>; N]) -> [f64; N] {
    let start = Instant::now();
    while start.elapsed() < PER_SIZE {
        for case in &mut cases {
            let each = time(&mut case.run, case.batch).as_secs_f64() * 1e9 / f64::from(case.batch);
            case.best = case.best.min(each);
        }
    }
    cases.map(|case| case.best)
}

/// Prints the tables of docs/benchmarks.md.
pub(crate) fn print() {
    println!("| bytes | suite | seal ns | bare ns | bare/seal | open ns | bare ns | bare/open |");
    println!("|---|---|---|---|---|---|---|---|");
    for size in SIZES {
        for suite in Suite::ALL {
            let subject = Subject::new(suite);
            let plaintext = vec![7; size];
            let sealed = subject.seal(&plaintext);
            let bare = bare::seal(suite, &plaintext);
            let [seal, bare_seal, open, bare_open] = measure([
                Case::new(|| subject.seal(black_box(&plaintext))),
                Case::new(|| bare::seal(suite, black_box(&plaintext))),
                Case::new(|| subject.open(black_box(&sealed))),
                Case::new(|| bare::open(suite, black_box(&bare))),
            ]);
            println!(
                "| {size} | {} | {seal:.0} | {bare_seal:.0} | {:.3} | {open:.0} | {bare_open:.0} | {:.3} |",
                suite.to_byte(),
                bare_seal / seal,
                bare_open / open
            );
        }
    }

    let [one, two] = Suite::ALL.map(Subject::new);
    let kek = [9; 32];
    let plaintext = [7; 64];
    let three_levels = bare::seal_three_levels(&kek, &plaintext);
    let bare_sealed = bare::seal(Suite::XChaCha20Poly1305, &plaintext);
    let (one_sealed, two_sealed) = (one.seal(&plaintext), two.seal(&plaintext));
    let [random, floor, seal_two, bare, seal_one, open_floor, open_two, open_bare, open_one] = measure([
        Case::new(bare::random::<56>),
        Case::new(|| bare::seal_three_levels(&kek, black_box(&plaintext))),
        Case::new(|| two.seal(black_box(&plaintext))),
        Case::new(|| bare::seal(Suite::XChaCha20Poly1305, black_box(&plaintext))),
        Case::new(|| one.seal(black_box(&plaintext))),
        Case::new(|| bare::open_three_levels(&kek, black_box(&three_levels))),
        Case::new(|| two.open(black_box(&two_sealed))),
        Case::new(|| bare::open(Suite::XChaCha20Poly1305, black_box(&bare_sealed))),
        Case::new(|| one.open(black_box(&one_sealed))),
    ]);
    println!("\nAt 64 bytes, where 56 random bytes from the kernel take {random:.0} ns:\n");
    println!("| | ns | of its floor | of its floor, both without randomness |");
    println!("|---|---|---|---|");
    println!("| floor of suite 2: three levels, nothing else | {floor:.0} | | |");
    row("suite 2, seal", seal_two, floor, random);
    println!("| floor of suite 1: one bare XChaCha20-Poly1305 seal, fresh key | {bare:.0} | | |");
    row("suite 1, seal", seal_one, bare, random);
    println!("| floor of suite 2: open three levels | {open_floor:.0} | | |");
    row("suite 2, open", open_two, open_floor, 0.0);
    println!("| floor of suite 1: one bare open | {open_bare:.0} | | |");
    row("suite 1, open", open_one, open_bare, 0.0);
}

fn row(name: &str, ours: f64, floor: f64, random: f64) {
    println!("| {name} | {ours:.0} | {:.2} × | {:.2} × |", ours / floor, (ours - random) / (floor - random));
}

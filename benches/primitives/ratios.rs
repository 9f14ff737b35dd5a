//! Ratios of minima: every round runs each operation of a size once, so that noise falls on both ends alike.
//!
//! What takes long enough to be interrupted in every round is timed by this thread's time on a processor, the kernel's work
//! for it included. That clock is too coarse on a virtual machine for the rest.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

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
    clock: ClockId,
    best: f64,
}

impl<'a> Case<'a> {
    fn new<T>(mut run: impl FnMut() -> T + 'a) -> Self {
        let mut run: Box<dyn FnMut() + 'a> = Box::new(move || {
            black_box(run());
        });
        let mut batch = 1;
        while time(&mut run, batch, ClockId::Monotonic) < BATCH {
            batch *= 2;
        }
        let is_long = time(&mut run, 1, ClockId::ThreadCPUTime) > Duration::from_millis(1);
        let clock = if is_long { ClockId::ThreadCPUTime } else { ClockId::Monotonic };
        Self { run, batch, clock, best: f64::INFINITY }
    }
}

fn time(run: &mut dyn FnMut(), batch: u32, clock: ClockId) -> Duration {
    let start = now(clock);
    for _ in 0..batch {
        run();
    }
    now(clock).saturating_sub(start)
}

fn now(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().expect("a time since a beginning")
}

/// The least nanoseconds of each.
fn measure<const N: usize>(mut cases: [Case<'_>; N]) -> [f64; N] {
    let start = Instant::now();
    while start.elapsed() < PER_SIZE {
        for case in &mut cases {
            let each = time(&mut case.run, case.batch, case.clock).as_secs_f64() * 1e9 / f64::from(case.batch);
            case.best = case.best.min(each);
        }
    }
    cases.map(|case| case.best)
}

/// Prints the tables of docs/benchmarks.md, or the one of that name.
pub(crate) fn print(table: Option<&str>) {
    let wanted = |name| table.is_none_or(|table| table == name);
    if wanted("seal") {
        print_sizes(["seal", "seal_into", "seal_in_place", "Sealer", "Sealer (bare: and copy)"], seal);
    }
    if wanted("open") {
        print_sizes(["open", "open_in_place", "Opener", "Opener (bare: and copy)"], open);
    }
    if wanted("small") {
        print_small();
    }
}

/// Nanoseconds of ours and of the bare cipher.
type Pair = (f64, f64);

fn print_sizes<const N: usize>(names: [&str; N], measure: fn(Suite, usize) -> [Pair; N]) {
    let columns = names.map(|name| format!(" {name} ns | bare ns | ratio |")).concat();
    println!("| bytes | suite |{columns}\n|---|---|{}", "---|".repeat(3 * N));
    for size in SIZES {
        for suite in Suite::ALL {
            let pairs = measure(suite, size);
            let columns = pairs.map(|(ours, bare)| format!(" {ours:.0} | {bare:.0} | {:.3} |", bare / ours)).concat();
            println!("| {size} | {} |{columns}", suite.to_byte());
        }
    }
    println!();
}

fn seal(suite: Suite, size: usize) -> [Pair; 5] {
    let subject = Subject::new(suite);
    let plaintext = vec![7; size];
    let sealed_len = subject.seal(&plaintext).len();
    let [mut into, mut in_place, mut stream] = [(); 3].map(|()| vec![1; sealed_len]);
    let [mut bare_into, mut bare_in_place] = [(); 2].map(|()| vec![1; size + 16]);
    let mut bare_out = vec![1; size + 16];
    let mut bare_copy = vec![1; size + 16];
    let [one_shot, bare, into, bare_into, in_place, bare_in_place, stream, bare_stream] = measure([
        Case::new(|| subject.seal(black_box(&plaintext))),
        Case::new(|| bare::seal(suite, black_box(&plaintext))),
        Case::new(|| subject.seal_into(black_box(&plaintext), &mut into)),
        Case::new(|| bare::seal_to(suite, black_box(&plaintext), &mut bare_into)),
        Case::new(|| subject.seal_in_place(black_box(&mut in_place))),
        Case::new(|| bare::seal_in_place(suite, black_box(&mut bare_in_place))),
        Case::new(|| subject.seal_stream(black_box(&plaintext), &mut stream)),
        // Any writer takes a copy of what it is given, so a bare cipher that writes to one makes a copy too.
        Case::new(|| {
            bare::seal_to(suite, black_box(&plaintext), &mut bare_out);
            bare_copy.copy_from_slice(black_box(&bare_out));
        }),
    ]);
    [(one_shot, bare), (into, bare_into), (in_place, bare_in_place), (stream, bare_into), (stream, bare_stream)]
}

fn open(suite: Suite, size: usize) -> [Pair; 4] {
    let subject = Subject::new(suite);
    let plaintext = vec![7; size];
    let sealed = subject.seal(&plaintext);
    let bare_sealed = bare::seal(suite, &plaintext);
    let (mut in_place, mut copy) = (sealed.clone(), sealed.clone());
    let mut bare_in_place = bare_sealed.sealed().to_vec();
    let [mut stream, mut bare_into] = [(); 2].map(|()| vec![1; size]);
    let mut bare_copy = bare_sealed.clone();
    let mut bare_out = vec![1; size];
    let [one_shot, bare, in_place, bare_in_place, copy, stream, bare_into, bare_stream] = measure([
        Case::new(|| subject.open(black_box(&sealed))),
        Case::new(|| bare::open(suite, black_box(&bare_sealed))),
        Case::new(|| {
            in_place.copy_from_slice(black_box(&sealed));
            subject.open_in_place(black_box(&mut in_place));
        }),
        Case::new(|| {
            bare_in_place.copy_from_slice(black_box(bare_sealed.sealed()));
            bare_sealed.open_in_place(suite, black_box(&mut bare_in_place));
        }),
        Case::new(|| black_box(&mut copy).copy_from_slice(black_box(&sealed))),
        Case::new(|| subject.open_stream(black_box(&sealed), black_box(&mut stream))),
        Case::new(|| bare_sealed.open_into(suite, black_box(&mut bare_into))),
        Case::new(|| {
            bare_copy.copy_from(black_box(&bare_sealed));
            bare_copy.open_into(suite, black_box(&mut bare_out));
        }),
    ]);
    // What is opened in place is gone, so each round copies it anew, at both ends.
    [(one_shot, bare), (in_place - copy, bare_in_place - copy), (stream, bare_into), (stream, bare_stream)]
}

fn print_small() {
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
    println!("At 64 bytes, where 56 random bytes from the kernel take {random:.0} ns:\n");
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

//! Envelopes of both suites beside the bare cipher of the same backend.
//!
//! `cargo bench -p keystrata-benches --bench primitives` runs criterion; `… -- ratios` prints tables of ratios, each of
//! two minima over interleaved rounds, which hold still on a machine whose times do not. `… -- ratios seal` prints one of
//! them: `seal`, `open` or `small`.

#[path = "primitives/bare.rs"]
mod bare;
#[path = "primitives/ratios.rs"]
mod ratios;

use std::{
    hint::black_box,
    io::{Cursor, Read, Write},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use keystrata_primitives::{
    Context, DerivedKek, KekId, KekIdentity, KekVersion, KeyPath, SecretKey, Suite,
    envelope::{self, Opener, Sealer},
};

const SIZES: [usize; 6] = [64, 1024, 16 * 1024, 64 * 1024, 1024 * 1024, 64 * 1024 * 1024];

/// A KEK of a suite, and a context of the length that services use.
struct Subject {
    identity: KekIdentity,
    derived: DerivedKek,
    context: Context,
}

impl Subject {
    fn new(suite: Suite) -> Self {
        let path = KeyPath::account("acme").expect("a valid name");
        let id = KekId::generate().expect("random bytes");
        let identity = KekIdentity { suite, version: KekVersion::FIRST, id, path };
        let derived = identity.derive(&SecretKey::generate().expect("random bytes"));
        Self { identity, derived, context: Context::new().with("row", "42") }
    }

    fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        envelope::seal(&self.derived.kek(&self.identity), &self.context, plaintext).expect("random bytes")
    }

    fn seal_into(&self, plaintext: &[u8], out: &mut [u8]) {
        envelope::seal_into(&self.derived.kek(&self.identity), &self.context, plaintext, out).expect("lengths match");
    }

    fn seal_in_place(&self, buffer: &mut [u8]) {
        envelope::seal_in_place(&self.derived.kek(&self.identity), &self.context, buffer)
            .expect("an envelope's length");
    }

    fn open_in_place(&self, buffer: &mut [u8]) {
        envelope::open_in_place(&self.derived.kek(&self.identity), &self.context, buffer)
            .expect("an envelope of this KEK");
    }

    /// In one write, into memory that is there.
    fn seal_stream(&self, plaintext: &[u8], out: &mut [u8]) {
        let kek = self.derived.kek(&self.identity);
        let mut sealer = Sealer::new(&kek, &self.context, Cursor::new(out)).expect("random bytes");
        sealer.write_all(plaintext).expect("room for the envelope");
        sealer.finish().expect("room for the envelope");
    }

    /// From memory into memory, up to the end.
    fn open_stream(&self, sealed: &[u8], out: &mut [u8]) {
        let kek = self.derived.kek(&self.identity);
        let mut opener = Opener::new(&kek, &self.context, Cursor::new(sealed)).expect("an envelope of this KEK");
        opener.read_exact(out).expect("the plaintext's length");
        assert_eq!(opener.read(&mut [0]).expect("its end"), 0);
    }

    fn open(&self, sealed: &[u8]) -> Vec<u8> {
        envelope::open(&self.derived.kek(&self.identity), &self.context, sealed).expect("an envelope of this KEK")
    }
}

fn one_shot(criterion: &mut Criterion) {
    for suite in Suite::ALL {
        let subject = Subject::new(suite);
        let mut group = criterion.benchmark_group(format!("suite {}", suite.to_byte()));
        for size in SIZES {
            group.sample_size(if size > 1024 * 1024 { 10 } else { 50 });
            group.throughput(Throughput::Bytes(size as u64));
            let plaintext = vec![7; size];
            let sealed = subject.seal(&plaintext);
            let bare = bare::seal(suite, &plaintext);
            group.bench_function(BenchmarkId::new("seal", size), |bencher| {
                bencher.iter(|| subject.seal(black_box(&plaintext)));
            });
            group.bench_function(BenchmarkId::new("seal, bare cipher", size), |bencher| {
                bencher.iter(|| bare::seal(suite, black_box(&plaintext)));
            });
            let mut out = vec![0; sealed.len()];
            group.bench_function(BenchmarkId::new("seal_into", size), |bencher| {
                bencher.iter(|| subject.seal_into(black_box(&plaintext), &mut out));
            });
            group.bench_function(BenchmarkId::new("seal_in_place", size), |bencher| {
                bencher.iter(|| subject.seal_in_place(black_box(&mut out)));
            });
            group.bench_function(BenchmarkId::new("Sealer", size), |bencher| {
                bencher.iter(|| subject.seal_stream(black_box(&plaintext), &mut out));
            });
            // With a copy of the envelope first, since what is opened in place is gone.
            group.bench_function(BenchmarkId::new("copy and open_in_place", size), |bencher| {
                bencher.iter(|| {
                    out.copy_from_slice(&sealed);
                    subject.open_in_place(black_box(&mut out));
                });
            });
            group.bench_function(BenchmarkId::new("Opener", size), |bencher| {
                bencher.iter(|| subject.open_stream(black_box(&sealed), &mut out[..size]));
            });
            group.bench_function(BenchmarkId::new("open", size), |bencher| {
                bencher.iter(|| subject.open(black_box(&sealed)));
            });
            group.bench_function(BenchmarkId::new("open, bare cipher", size), |bencher| {
                bencher.iter(|| bare::open(suite, black_box(&bare)));
            });
        }
        group.finish();
    }
    let mut group = criterion.benchmark_group("three levels, nothing else");
    let kek = [9; 32];
    let sealed = bare::seal_three_levels(&kek, &[7; 64]);
    group.bench_function("seal/64", |bencher| bencher.iter(|| bare::seal_three_levels(&kek, black_box(&[7; 64]))));
    group.bench_function("open/64", |bencher| bencher.iter(|| bare::open_three_levels(&kek, black_box(&sealed))));
    group.finish();
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "ratios");
    if arguments.next().is_some() {
        // Cargo adds `--bench` at the end.
        ratios::print(arguments.next().filter(|table| !table.starts_with('-')).as_deref());
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    one_shot(&mut criterion);
    criterion.final_summary();
}

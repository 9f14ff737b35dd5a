//! Envelopes of both suites beside the bare cipher of the same backend.
//!
//! `cargo bench -p keystrata-benches --bench primitives` runs criterion; `… -- ratios` prints a table of ratios, each
//! of two minima over interleaved rounds, which hold still on a machine whose times do not.

#[path = "primitives/bare.rs"]
mod bare;
#[path = "primitives/ratios.rs"]
mod ratios;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use keystrata_primitives::{Context, DerivedKek, KekId, KekIdentity, KekVersion, KeyPath, SecretKey, Suite, envelope};

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
    if std::env::args().any(|argument| argument == "ratios") {
        ratios::print();
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    one_shot(&mut criterion);
    criterion.final_summary();
}

//! The whole path: seal, open and rewrap through an account with its KEK in memory, beside the primitives alone and one bare seal
//! by the pure Rust cipher; the same without it; several threads on one account; the cold start of many.
//!
//! `cargo bench -p keystrata-benches --bench account`. Ratios within one run carry over to other machines, times do not.

use std::{
    hint::black_box,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use chacha20poly1305::{KeyInit, XChaCha20Poly1305, aead::Aead};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keystrata_hierarchy::{
    Context, Hierarchy, KekVersion, KeyPath, MemoryKekStore, SecretKey, test_util::ScriptedRootKey,
};
use keystrata_kms::LocalRootKey;
use keystrata_primitives::{KekId, KekIdentity, Suite, envelope};
use rand::{TryRng, rngs::SysRng};

const SIZES: [usize; 4] = [64, 1024, 64 * 1024, 1024 * 1024];
/// Accounts of a cold start.
const COLD: usize = 10_000;

fn seal_and_open(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let root = Arc::new(ScriptedRootKey::new("bench:root"));
    let keys = Hierarchy::builder().root_key(Arc::clone(&root)).store(MemoryKekStore::new()).build();
    let account = keys.expect("all that is required").account("acme").expect("a valid name");

    let secret = SecretKey::generate().expect("random bytes");
    let identity = KekIdentity {
        suite: Suite::default(),
        version: KekVersion::FIRST,
        id: KekId::generate().expect("random bytes"),
        path: KeyPath::account("acme").expect("a valid name"),
    };
    let derived = identity.derive(&secret);
    let kek = derived.kek(&identity);
    let context = Context::new().with("row", "42");

    for operation in ["seal", "open"] {
        let mut group = criterion.benchmark_group(operation);
        for size in SIZES {
            let plaintext = vec![7; size];
            group.throughput(Throughput::Bytes(size as u64));
            if operation == "seal" {
                group.bench_function(BenchmarkId::new("account", size), |bencher| {
                    bencher.iter(|| runtime.block_on(account.seal(black_box(&plaintext), &context)));
                });
                group.bench_function(BenchmarkId::new("primitives", size), |bencher| {
                    bencher.iter(|| envelope::seal(&kek, &context, black_box(&plaintext)));
                });
                group.bench_function(BenchmarkId::new("chacha20poly1305 crate", size), |bencher| {
                    bencher.iter(|| bare_seal(black_box(&plaintext)));
                });
            } else {
                let sealed = runtime.block_on(account.seal(&plaintext, &context)).expect("the scripted root answers");
                group.bench_function(BenchmarkId::new("account", size), |bencher| {
                    bencher.iter(|| runtime.block_on(account.open(black_box(&sealed), &context)));
                });
                let sealed = envelope::seal(&kek, &context, &plaintext).expect("random bytes");
                group.bench_function(BenchmarkId::new("primitives", size), |bencher| {
                    bencher.iter(|| envelope::open(&kek, &context, black_box(&sealed)));
                });
                let (key, nonce, sealed) = bare_seal(&plaintext);
                group.bench_function(BenchmarkId::new("chacha20poly1305 crate", size), |bencher| {
                    bencher.iter(|| XChaCha20Poly1305::new(&key.into()).decrypt(&nonce.into(), black_box(&sealed[..])));
                });
            }
        }
        group.finish();
    }
    assert_eq!(root.calls(), 1, "the benches measure hits");
}

/// An old header under the primary, with both KEKs in memory.
fn rewrap(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let mut group = criterion.benchmark_group("rewrap");
    group.throughput(Throughput::Elements(1));
    for suite in [Suite::XChaCha20Poly1305, Suite::Aes256Gcm] {
        let store = MemoryKekStore::new();
        let keys = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(store).suite(suite).build();
        let account = keys.expect("all that is required").account("acme").expect("a valid name");
        let context = Context::none();
        let sealed = runtime.block_on(account.seal(b"x", &context)).expect("the scripted root answers");
        runtime.block_on(account.rotate()).expect("the scripted root answers");
        group.bench_function(BenchmarkId::new("account", suite), |bencher| {
            bencher
                .iter(|| account.try_rewrap(black_box(&sealed)).expect("a valid header").expect("both are in memory"));
        });
        let [old, new] = [1, 2].map(|version| KekIdentity {
            suite,
            version: KekVersion::new(version).expect("not zero"),
            id: KekId::generate().expect("random bytes"),
            path: KeyPath::account("acme").expect("a valid name"),
        });
        let [old_key, new_key] =
            [&old, &new].map(|identity| identity.derive(&SecretKey::generate().expect("random bytes")));
        let sealed = envelope::seal(&old_key.kek(&old), &context, b"x").expect("random bytes");
        let header = sealed.first_chunk().expect("an envelope begins with its header");
        group.bench_function(BenchmarkId::new("primitives", suite), |bencher| {
            bencher.iter(|| envelope::rewrap(&old_key.kek(&old), &new_key.kek(&new), black_box(header)));
        });
    }
    group.finish();
}

/// A KEK that is at rest: its record is read, its root key (a file's) unwraps it, it is derived and put into the cache.
fn miss(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let folder = tempfile::tempdir().expect("a folder for the key");
    let root = LocalRootKey::create(folder.path().join("root.key")).expect("a new file");
    let mut group = criterion.benchmark_group("miss");
    for suite in [Suite::XChaCha20Poly1305, Suite::Aes256Gcm] {
        let root = LocalRootKey::open(folder.path().join("root.key")).expect("made above");
        let keys = Hierarchy::builder().root_key(root).store(MemoryKekStore::new()).suite(suite).build();
        let keys = keys.expect("all that is required");
        let account = keys.account("acme").expect("a valid name");
        let context = Context::new().with("row", "42");
        let sealed = runtime.block_on(account.seal(&[7; 64], &context)).expect("the local root answers");
        group.bench_function(BenchmarkId::new("seal", suite), |bencher| {
            bencher.iter_batched(
                || keys.invalidate("acme").expect("a valid name"),
                |_| runtime.block_on(account.seal(black_box(&[7; 64]), &context)).expect("the local root answers"),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("open", suite), |bencher| {
            bencher.iter_batched(
                || keys.invalidate("acme").expect("a valid name"),
                |_| runtime.block_on(account.open(black_box(&sealed), &context)).expect("sealed here"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    drop(root);
}

/// Several threads seal under one KEK. The time is of one seal of all: with twice the threads, half of it at best.
fn contended(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let keys = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(MemoryKekStore::new());
    let keys = keys.suite(Suite::Aes256Gcm).build().expect("all that is required");
    let account = keys.account("acme").expect("a valid name");
    let context = Context::new().with("row", "42");
    runtime.block_on(account.seal(b"x", &context)).expect("the scripted root answers");
    let mut group = criterion.benchmark_group("contended");
    for threads in [1, 2, 4] {
        group.bench_function(BenchmarkId::new("seal", threads), |bencher| {
            bencher.iter_custom(|times| {
                let (barrier, each) = (Barrier::new(threads + 1), times.div_ceil(threads as u64));
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            barrier.wait();
                            for _ in 0..each {
                                black_box(account.try_seal(black_box(&[7; 64]), &context)).expect("in memory");
                            }
                            barrier.wait();
                        });
                    }
                    barrier.wait();
                    let start = Instant::now();
                    barrier.wait();
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
}

/// A process starts, and every account seals once: one after the other, and warmed before.
fn cold_start(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let store = Arc::new(MemoryKekStore::new());
    let start = |ttl: Duration| {
        let builder = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(Arc::clone(&store));
        builder.kek_ttl(ttl).capacity(COLD).build().expect("all that is required")
    };
    let names: Vec<String> = (0..COLD).map(|number| format!("account {number}")).collect();
    let context = Context::none();
    let seal_all = |keys: &Hierarchy| {
        runtime.block_on(async {
            for name in &names {
                let account = keys.account(name.as_str()).expect("a valid name");
                black_box(account.seal(b"x", &context).await).expect("the scripted root answers");
            }
        });
    };
    seal_all(&start(Duration::ZERO));
    let mut group = criterion.benchmark_group("cold start");
    group.sample_size(10).throughput(Throughput::Elements(COLD as u64));
    let ttl = Duration::from_secs(3_600);
    group.bench_function("seal", |bencher| {
        bencher.iter_batched(|| start(ttl), |keys| seal_all(&keys), BatchSize::PerIteration);
    });
    let paths: Vec<KeyPath> = names.iter().map(|name| KeyPath::account(name).expect("a valid name")).collect();
    group.bench_function("warm", |bencher| {
        bencher.iter_batched(
            || (start(ttl), paths.clone()),
            |(keys, paths)| {
                let warmed = runtime.block_on(keys.warm(paths)).expect("few accounts");
                assert!(warmed.failed.is_empty() && warmed.unknown.is_empty());
                keys
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// One seal with XChaCha20-Poly1305 under a fresh key.
fn bare_seal(plaintext: &[u8]) -> ([u8; 32], [u8; 24], Vec<u8>) {
    let mut random = [0; 56];
    SysRng.try_fill_bytes(&mut random).expect("random bytes");
    let (key, nonce) = random.split_first_chunk::<32>().expect("56 bytes begin with 32");
    let nonce = *nonce.first_chunk::<24>().expect("and end with 24");
    let sealed = XChaCha20Poly1305::new(key.into()).encrypt(&nonce.into(), plaintext).expect("far below the limit");
    (*key, nonce, sealed)
}

criterion_group!(benches, seal_and_open, miss, contended, cold_start, rewrap);
criterion_main!(benches);

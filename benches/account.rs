//! Seal, open and rewrap through an account with its KEK in memory, beside the primitives alone and one bare seal by the pure Rust
//! cipher.
//!
//! `cargo bench -p keystrata-benches`. Ratios within one run carry over to other machines, times do not.

use std::{hint::black_box, sync::Arc};

use chacha20poly1305::{KeyInit, XChaCha20Poly1305, aead::Aead};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keystrata_hierarchy::{
    Context, Hierarchy, KekVersion, KeyPath, MemoryKekStore, SecretKey, test_util::ScriptedRootKey,
};
use keystrata_primitives::{KekId, KekIdentity, Suite, envelope};
use rand::{TryRng, rngs::SysRng};

const SIZES: [usize; 4] = [64, 1024, 64 * 1024, 1024 * 1024];

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

/// One seal with XChaCha20-Poly1305 under a fresh key.
fn bare_seal(plaintext: &[u8]) -> ([u8; 32], [u8; 24], Vec<u8>) {
    let mut random = [0; 56];
    SysRng.try_fill_bytes(&mut random).expect("random bytes");
    let (key, nonce) = random.split_first_chunk::<32>().expect("56 bytes begin with 32");
    let nonce = *nonce.first_chunk::<24>().expect("and end with 24");
    let sealed = XChaCha20Poly1305::new(key.into()).encrypt(&nonce.into(), plaintext).expect("far below the limit");
    (*key, nonce, sealed)
}

criterion_group!(benches, seal_and_open, rewrap);
criterion_main!(benches);

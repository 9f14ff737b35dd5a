//! How often a call asks the allocator, and for how much: through an account, with its KEK in memory and without.
//!
//! `cargo bench -p keystrata-benches --bench allocations` prints a table of docs/benchmarks.md. Counts, not times: they are
//! the same on every machine. AWS-LC's own allocations, a few for each key, are not seen.

#![allow(clippy::unwrap_used)] // a bench that fails stops

use std::{hint::black_box, sync::Arc};

use allocation_counter::{AllocationInfo, measure};
use keystrata_hierarchy::{Account, Context, Hierarchy, MemoryKekStore, Suite, test_util::ScriptedRootKey};

const SIZES: [usize; 2] = [64, 64 * 1024];

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    println!("| call | bytes | suite | allocations | bytes allocated | most at once |");
    println!("|---|---:|---:|---:|---:|---:|");
    let context = Context::new().with("row", "42");
    for suite in [Suite::Aes256Gcm, Suite::XChaCha20Poly1305] {
        let store = Arc::new(MemoryKekStore::new());
        let keys = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(store).suite(suite);
        let keys = keys.build().unwrap();
        let account = keys.account("acme").unwrap();
        for size in SIZES {
            let plaintext = vec![7; size];
            let sealed = runtime.block_on(account.seal(&plaintext, &context)).unwrap();
            let print = |call: &str, info: AllocationInfo| {
                let AllocationInfo { count_total, bytes_total, bytes_max, .. } = info;
                println!("| {call} | {size} | {} | {count_total} | {bytes_total} | {bytes_max} |", suite.to_byte());
            };
            let seal = |account: &Account| {
                black_box(account.try_seal(&plaintext, &context).unwrap().unwrap());
            };
            let open = |account: &Account| {
                black_box(account.try_open(&sealed, &context).unwrap().unwrap());
            };
            // The first of a kind fills what is kept for the thread.
            seal(&account);
            open(&account);
            print("seal, hit", measure(|| seal(&account)));
            print("open, hit", measure(|| open(&account)));
            print("account, then seal, hit", measure(|| seal(&keys.account("acme").unwrap())));
            let miss = |call: &str, run: &dyn Fn()| {
                keys.invalidate("acme").unwrap();
                run(); // the first of a kind, again
                keys.invalidate("acme").unwrap();
                print(call, measure(run));
            };
            miss("seal, miss", &|| {
                black_box(runtime.block_on(account.seal(&plaintext, &context)).unwrap());
            });
            miss("open, miss", &|| {
                black_box(runtime.block_on(account.open(&sealed, &context)).unwrap());
            });
        }
    }
}

//! What keys leave behind in memory, seen from another process: nothing, in a release build.
//!
//! The test runs itself again as a child, which works with keys that the parent can compute, and then waits; meanwhile the
//! parent reads its memory.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::similar_names, reason = "what a sealer made is sealed")]

use std::{
    convert::Infallible,
    hint::black_box,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
};

use keystrata_memory::test_util::{Needle, count_in_process};
use keystrata_primitives::{Context, Kek, KekId, KekIdentity, KekVersion, KeyPath, Suite, envelope, hazmat};
use rand::{TryCryptoRng, TryRng};
use zeroize::Zeroizing;

const CHILD: &str = "KEYSTRATA_KEY_REMAINS_CHILD";

/// A byte of a key, computed when it is needed: a table of them would be found.
fn byte(key: u8, index: usize) -> u8 {
    let mixed = (u64::from(black_box(key)) << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0] ^ mixed.to_be_bytes()[2]
}

const KEK: u8 = 1;
const OTHER_KEK: u8 = 2;
const DEK: u8 = 3;

fn kek(key: u8) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    bytes.iter_mut().enumerate().for_each(|(index, place)| *place = byte(key, index));
    bytes
}

/// The bytes of one key, over and over.
struct Known(u8);

impl TryRng for Known {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(7)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(7)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.iter_mut().enumerate().for_each(|(index, place)| *place = byte(self.0, index));
        Ok(())
    }
}

impl TryCryptoRng for Known {}

fn identity(suite: Suite) -> KekIdentity {
    let (id, path) = (KekId::from_bytes([7; 16]), KeyPath::account("acme").unwrap());
    KekIdentity { suite, version: KekVersion::FIRST, id, path }
}

/// Every way to use a key, in both suites.
fn work() {
    for suite in Suite::ALL {
        let identity = identity(suite);
        let (key, other) = (kek(KEK), kek(OTHER_KEK));
        let (kek, other) = (Kek::new(&key, &identity), Kek::new(&other, &identity));
        let context = Context::none();
        for len in [64, 100_000] {
            let data = vec![1; len];
            let sealed = hazmat::seal_envelope_with_rng(&mut Known(DEK), &kek, &context, &data).unwrap();
            assert_eq!(envelope::open(&kek, &context, &sealed).unwrap(), data);
            let header = sealed.first_chunk().unwrap();
            hazmat::rewrap_with_rng(&mut Known(DEK), &kek, &other, header).unwrap();
            let mut sealer = hazmat::sealer_with_rng(&mut Known(DEK), &kek, &context, Vec::new()).unwrap();
            sealer.write_all(&data).unwrap();
            let streamed = sealer.finish().unwrap();
            assert_eq!(streamed, sealed);
        }
    }
}

/// The child's part; does nothing when run as a test.
#[test]
fn as_child() {
    let Ok(leaks) = std::env::var(CHILD) else { return };
    work();
    let leaked = (leaks == "leaks").then(|| [KEK, OTHER_KEK, DEK].map(kek));
    println!("\nready");
    // Until the parent has seen enough.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(black_box(leaked));
}

/// Copies of either half of each key in a child that has worked, and keeps copies or does not.
fn copies(leaks: bool) -> Vec<usize> {
    let halves = |key| [0..16, 16..32].map(|half| Needle::new(half.map(|index| byte(key, index))));
    let needles: Vec<_> = [KEK, OTHER_KEK, DEK].into_iter().flat_map(halves).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_child", "--nocapture", "--test-threads=1"])
        .env(CHILD, if leaks { "leaks" } else { "clean" })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open: the child's harness has more to say in the end.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_ready = lines.by_ref().map_while(Result::ok).any(|line| line == "ready");
    let counts = count_in_process(child.id(), &needles);
    drop(child.stdin.take());
    lines.for_each(drop);
    assert!(is_ready && child.wait().unwrap().success(), "the child failed");
    counts.unwrap()
}

#[test]
fn keys_leave_no_copy_behind() {
    let leaked = copies(true);
    assert!(leaked.iter().all(|count| *count >= 1), "the scan finds what is there: {leaked:?}");
    let left = copies(false);
    if cfg!(debug_assertions) {
        // An unoptimised build moves keys about on the stack, and what it leaves there is no promise of anybody's.
        eprintln!("unoptimised: {left:?} copies; a release build must leave none");
    } else {
        assert_eq!(left, [0; 6], "halves of the KEKs and the DEK");
    }
}

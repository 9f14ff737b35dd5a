//! A server that forks in the middle of its work: parent and children never draw the same nonce or DEK.
//!
//! The same check is made of a source that keeps a batch in user space, and finds the repeats that such a source makes.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    cell::RefCell,
    collections::HashSet,
    convert::Infallible,
    io::{Read, Write},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use keystrata_memory::{random, test_util::in_forked_child};
use keystrata_primitives::{
    Context, Kek, KekId, KekIdentity, KekVersion, KeyPath, Suite,
    envelope::{self, HEADER_LEN},
    hazmat,
};
use rand::{TryCryptoRng, TryRng};

type Header = [u8; HEADER_LEN];

/// Where a header has what must never repeat: the nonce of the wrap, the wrapped DEK, and the commitment, which two
/// objects of one account and context share if and only if they share their DEK.
const NONCE: std::ops::Range<usize> = 20..44;
const WRAPPED_DEK: std::ops::Range<usize> = 44..92;
const COMMITMENT: std::ops::Range<usize> = 92..124;

const KEY: [u8; 32] = [0x42; 32];
const FORKS: usize = 8;
/// Of a child, by each of four threads: all headers together must fit in a pipe.
const SEALS: usize = 100;

fn identity(suite: Suite) -> KekIdentity {
    let (id, path) = (KekId::from_bytes([7; 16]), KeyPath::account("acme").unwrap());
    KekIdentity { suite, version: KekVersion::FIRST, id, path }
}

fn header(sealed: &[u8]) -> Header {
    *sealed.first_chunk().unwrap()
}

/// What is to be checked: seals one object, and returns its header and that of its rewrap.
type Seal = fn(&Kek<'_>) -> [Header; 2];

fn from_the_kernel(kek: &Kek<'_>) -> [Header; 2] {
    let sealed = header(&envelope::seal(kek, &Context::none(), b"data").unwrap());
    [sealed, envelope::rewrap(kek, kek, &sealed).unwrap()]
}

/// The mistake that the test must find: a batch of random bytes for each thread, in ordinary memory.
struct Batched;

thread_local!(static BATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

impl TryRng for Batched {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        BATCH.with_borrow_mut(|batch| {
            if batch.len() < bytes.len() {
                batch.resize(4096, 0);
                random::fill(batch).unwrap();
            }
            bytes.copy_from_slice(&batch.split_off(batch.len() - bytes.len()));
        });
        Ok(())
    }
}

impl TryCryptoRng for Batched {}

fn from_a_batch(kek: &Kek<'_>) -> [Header; 2] {
    let sealed = header(&hazmat::seal_envelope_with_rng(&mut Batched, kek, &Context::none(), b"data").unwrap());
    [sealed, hazmat::rewrap_with_rng(&mut Batched, kek, kek, &sealed).unwrap()]
}

/// How often something was seen that had been seen before.
#[derive(Debug, Default, PartialEq, Eq)]
struct Repeats {
    nonces: usize,
    wrapped_deks: usize,
    deks: usize,
}

#[derive(Default)]
struct Seen {
    nonces: HashSet<Vec<u8>>,
    wrapped_deks: HashSet<Vec<u8>>,
    deks: HashSet<Vec<u8>>,
    repeats: Repeats,
    count: usize,
}

impl Seen {
    fn add(&mut self, [sealed, rewrapped]: &[Header; 2]) {
        assert_eq!(sealed[COMMITMENT], rewrapped[COMMITMENT], "a rewrap keeps its DEK");
        self.count += 1;
        self.repeats.deks += usize::from(!self.deks.insert(sealed[COMMITMENT].to_vec()));
        for header in [sealed, rewrapped] {
            self.repeats.nonces += usize::from(!self.nonces.insert(header[NONCE].to_vec()));
            self.repeats.wrapped_deks += usize::from(!self.wrapped_deks.insert(header[WRAPPED_DEK].to_vec()));
        }
    }
}

fn many(seal: Seal, kek: &Kek<'_>, count: usize) -> Vec<[Header; 2]> {
    (0..count).map(|_| seal(kek)).collect()
}

/// Runs in a child: seals in the thread that the fork left it and in new ones, and sends the headers to the parent.
fn child(seal: Seal, kek: &Kek<'_>, pipe: &mut impl Write) -> bool {
    let sealed = thread::scope(|scope| {
        let others = [(); 3].map(|()| scope.spawn(|| many(seal, kek, SEALS / 2)));
        let mut sealed = many(seal, kek, SEALS / 2);
        sealed.extend(others.into_iter().flat_map(|thread| thread.join().unwrap()));
        sealed
    });
    pipe.write_all(sealed.as_flattened().as_flattened()).is_ok()
}

fn repeats_over_forks(seal: Seal, suite: Suite) -> Repeats {
    let identity = identity(suite);
    let kek = Kek::new(&KEY, &identity);
    let (done, progress) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut seen = Seen::default();
    thread::scope(|scope| {
        let work = || {
            let mut sealed = Vec::new();
            while !done.load(Ordering::Relaxed) {
                sealed.push(seal(&kek));
                progress.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
            sealed
        };
        let workers = [(); 3].map(|()| scope.spawn(work));
        let mut failed = 0;
        for _ in 0..FORKS {
            // The forking thread is in mid-use too, and goes on afterwards.
            for headers in &many(seal, &kek, 5) {
                seen.add(headers);
            }
            let before = progress.load(Ordering::Relaxed);
            while progress.load(Ordering::Relaxed) == before
                && !workers.iter().all(thread::ScopedJoinHandle::is_finished)
            {
                thread::yield_now();
            }
            let (mut reader, mut writer) = std::io::pipe().unwrap();
            failed += usize::from(!in_forked_child(|| child(seal, &kek, &mut writer)));
            drop(writer);
            let mut sent = Vec::new();
            reader.read_to_end(&mut sent).unwrap();
            let headers = sent.as_chunks::<HEADER_LEN>().0;
            failed += usize::from(headers.len() != 2 * 4 * (SEALS / 2));
            headers.as_chunks::<2>().0.iter().for_each(|headers| seen.add(headers));
            for headers in &many(seal, &kek, SEALS) {
                seen.add(headers);
            }
        }
        // Before anything that may fail, or the workers would go on for ever.
        done.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap().iter().for_each(|headers| seen.add(headers));
        }
        assert_eq!(failed, 0, "children");
    });
    assert!(seen.count > FORKS * (5 + SEALS + 4 * (SEALS / 2)), "{} objects are too few", seen.count);
    seen.repeats
}

#[test]
fn parent_and_children_never_draw_the_same_nonce_or_dek() {
    for suite in [Suite::XChaCha20Poly1305, Suite::Aes256Gcm] {
        assert_eq!(repeats_over_forks(from_the_kernel, suite), Repeats::default(), "{suite:?}");
    }
}

#[test]
fn a_batch_in_user_space_is_caught_repeating_both() {
    let repeats = repeats_over_forks(from_a_batch, Suite::XChaCha20Poly1305);
    // Each child starts with what is left of its parent's batch.
    assert!(repeats.deks >= FORKS / 2 && repeats.nonces >= FORKS / 2, "{repeats:?}");
    assert!(repeats.wrapped_deks >= FORKS / 2, "{repeats:?}");
}

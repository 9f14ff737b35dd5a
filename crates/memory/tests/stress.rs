//! Readers against a thread that wipes and reuses their slots, on real hardware: what loom checks in the small.

#![cfg(not(loom))]

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use keystrata_memory::{Arena, ArenaConfig, Backing, Slot};

/// Each key is one number four times over, multiplied apart, so a mix of two keys is never a key.
fn key(number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    for (i, word) in (1..).zip(key.chunks_exact_mut(8)) {
        word.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(i * 7).to_le_bytes());
    }
    key
}

#[test]
fn reader_gets_the_whole_key_of_its_handle_or_nothing_while_slots_are_wiped_and_reused() {
    const ROUNDS: u64 = 30_000;
    // Few slots, so that every reader's slot is soon another key's. Wiped slots are taken again at once.
    const SLOTS: u64 = 4;
    let arena = Arena::new(ArenaConfig::default());
    let shared: Vec<Mutex<(u64, Slot)>> =
        (0..SLOTS).map(|number| Mutex::new((number, arena.store(&key(number)).unwrap()))).collect();
    let done = AtomicBool::new(false);
    let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));

    thread::scope(|scope| {
        for reader in 0..3 {
            let (shared, done, hits, misses) = (&shared, &done, &hits, &misses);
            scope.spawn(move || {
                let mut next = reader;
                while !done.load(Ordering::Relaxed) {
                    next = (next + 1) % shared.len();
                    let (number, slot) = shared[next].lock().unwrap().clone();
                    // Until the handle goes stale under the reader's hands: that is when halves could be seen.
                    for _ in 0..200 {
                        let Some(copy) = slot.with_key(|key| *key) else {
                            misses.fetch_add(1, Ordering::Relaxed);
                            break;
                        };
                        assert_eq!(copy, key(number), "a copy that is not the handle's key");
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            for number in SLOTS..SLOTS + ROUNDS {
                let place = &shared[usize::try_from(number % SLOTS).unwrap()];
                let old = place.lock().unwrap().1.clone();
                // The stale handle stays published while its slot already holds the next key.
                assert!(old.wipe());
                let new = arena.store(&key(number)).unwrap();
                *place.lock().unwrap() = (number, new);
                if number % 64 == 0 {
                    thread::yield_now(); // lets readers in where there is one core
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    });

    assert!(hits.into_inner() > 0, "no reader ever hit");
    assert!(misses.into_inner() > 0, "no reader ever missed: the test tests nothing");
    let report = arena.report();
    assert_eq!(u64::try_from(report.slots_used).unwrap(), SLOTS);
}

#[test]
fn of_many_wipers_exactly_one_wins_each_key_and_counts_stay_right() {
    const ROUNDS: u64 = 3_000;
    let arena = Arena::new(ArenaConfig::default());
    let wins = AtomicU64::new(0);
    for number in 0..ROUNDS / 100 {
        let slots: Vec<_> = (0..100).map(|i| arena.store(&key(number * 100 + i)).unwrap()).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let won = slots.iter().filter(|slot| slot.wipe()).count();
                    wins.fetch_add(u64::try_from(won).unwrap(), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(arena.report().slots_used, 0);
    }
    assert_eq!(wins.into_inner(), ROUNDS);
}

/// Handles are read by one thread while others wipe their keys and whole chunks leave under its eyes: it finds the key of
/// its handle or none, and the memory stays as long as it looks.
#[test]
fn readers_of_chunks_that_are_given_back_find_their_key_or_none() {
    const ROUNDS: u64 = 60;
    const KEYS: u64 = 3_000; // several chunks
    for backing in [Backing::Automatic, Backing::Locked] {
        let arena = Arena::new(ArenaConfig { backing, ..ArenaConfig::default() });
        let shared: Mutex<Vec<(u64, Slot)>> = Mutex::default();
        let done = AtomicBool::new(false);
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let handles = shared.lock().unwrap().clone();
                        for (number, slot) in handles.iter().rev() {
                            match slot.with_key(|key| *key) {
                                Some(copy) if copy == key(*number) => hits.fetch_add(1, Ordering::Relaxed),
                                Some(_) => panic!("a copy that is not the handle's key"),
                                None => misses.fetch_add(1, Ordering::Relaxed),
                            };
                        }
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    let keys = round * KEYS..(round + 1) * KEYS;
                    let slots: Vec<_> = keys.map(|number| (number, arena.store(&key(number)).unwrap())).collect();
                    shared.lock().unwrap().clone_from(&slots);
                    thread::yield_now();
                    assert!(slots.iter().all(|(_, slot)| slot.wipe()));
                }
                done.store(true, Ordering::Relaxed);
            });
        });
        assert!(hits.into_inner() > 0 && misses.into_inner() > 0, "the test tests nothing");
        shared.lock().unwrap().clear();
        let report = arena.report();
        assert_eq!(report.slots_used, 0);
        assert!(u64::try_from(report.slots_capacity).unwrap() < KEYS, "nothing was given back");
    }
}

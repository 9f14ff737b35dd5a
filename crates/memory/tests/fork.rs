//! What a forked child sees: nothing of its parent's keys, and a fresh start of its own.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used)] // clippy does not see that a helper of tests is one

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, ScopedJoinHandle},
};

use keystrata_memory::{
    Arena, ArenaConfig, Backing, MemoryError, ProcessLocal, Slot, process_epoch, test_util::in_forked_child,
};

const KEY: [u8; 32] = [0x5a; 32];

fn read(slot: &Slot) -> Option<[u8; 32]> {
    slot.with_key(|key| *key)
}

#[test]
fn child_reads_nothing_and_can_change_nothing() {
    let arena = Arena::new(ArenaConfig::default());
    let slot = arena.store(&KEY).unwrap();
    assert!(in_forked_child(|| read(&slot).is_none() && !slot.is_live() && !slot.wipe()));
    assert_eq!(read(&slot), Some(KEY));
    assert_eq!(arena.report().slots_used, 1);
}

#[test]
fn old_arena_stores_nothing_in_a_child_and_says_why() {
    let arena = Arena::new(ArenaConfig::default());
    let _slot = arena.store(&KEY).unwrap();
    assert!(in_forked_child(|| {
        let refused = arena.store(&KEY).unwrap_err();
        let report = arena.report();
        matches!(refused, MemoryError::Forked)
            && refused.to_string().contains("new arena")
            && (report.slots_used, report.slots_capacity, report.locked_bytes) == (0, 0, 0)
    }));
}

#[test]
fn arena_never_used_before_the_fork_refuses_in_the_child_too() {
    let arena = Arena::new(ArenaConfig::default());
    assert!(in_forked_child(|| matches!(arena.store(&KEY), Err(MemoryError::Forked))));
    assert!(arena.store(&KEY).is_ok());
}

#[test]
fn child_that_drops_everything_leaves_the_parents_keys_alone() {
    for backing in [Backing::Automatic, Backing::Locked] {
        let mut arena = Some(Arena::new(ArenaConfig { backing, ..ArenaConfig::default() }));
        let mut slot = arena.as_ref().map(|arena| arena.store(&KEY).unwrap());
        assert!(in_forked_child(|| {
            drop(slot.take());
            drop(arena.take());
            true
        }));
        assert_eq!(read(slot.as_ref().unwrap()), Some(KEY));
        assert!(arena.unwrap().store(&KEY).is_ok());
    }
}

#[test]
fn child_and_grandchild_have_arenas_of_their_own() {
    let parents = Arena::new(ArenaConfig::default()).store(&KEY).unwrap();
    assert!(in_forked_child(|| {
        let arena = Arena::new(ArenaConfig::default());
        let childs = arena.store(&[1; 32]).unwrap();
        let grandchild = in_forked_child(|| {
            let own = Arena::new(ArenaConfig::default()).store(&[2; 32]).unwrap();
            read(&parents).is_none() && read(&childs).is_none() && read(&own) == Some([2; 32])
        });
        grandchild && read(&parents).is_none() && read(&childs) == Some([1; 32]) && childs.wipe()
    }));
    assert_eq!(read(&parents), Some(KEY));
}

#[test]
fn epoch_moves_in_the_child_and_stays_in_the_parent() {
    let ours = process_epoch();
    assert_ne!(ours, 0);
    assert!(in_forked_child(|| {
        let theirs = process_epoch();
        theirs != ours
            && theirs == process_epoch()
            && in_forked_child(|| ![ours, theirs].contains(&process_epoch()))
            && theirs == process_epoch()
    }));
    assert_eq!(process_epoch(), ours);
}

#[test]
fn process_local_is_made_anew_in_the_child_once() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let local = ProcessLocal::new(|| MADE.fetch_add(1, Ordering::SeqCst));
    assert_eq!(*local.get(), 0);
    assert!(in_forked_child(|| {
        let seen = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| *local.get())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        seen == [1; 8] && MADE.load(Ordering::SeqCst) == 2 && in_forked_child(|| *local.get() == 2)
    }));
    assert_eq!(*local.get(), 0);
    assert_eq!(MADE.load(Ordering::SeqCst), 1);
}

#[test]
fn process_local_never_drops_the_parents_value_in_a_child() {
    struct Probe(Arc<AtomicUsize>);
    impl Drop for Probe {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let local = |count: &Arc<AtomicUsize>| {
        let count = Arc::clone(count);
        Some(ProcessLocal::new(move || Probe(Arc::clone(&count))))
    };
    let (mut unasked, mut asked) = (local(&drops), local(&drops));
    assert!(in_forked_child(|| {
        drop(unasked.take());
        let before = drops.load(Ordering::SeqCst);
        asked.as_ref().unwrap().get();
        drop(asked.take());
        before == 0 && drops.load(Ordering::SeqCst) == 1 // the child's own value
    }));
    drop((unasked, asked));
    assert_eq!(drops.load(Ordering::SeqCst), 2);
}

#[test]
fn lock_held_by_another_thread_of_the_parent_does_not_bind_the_child() {
    let local = ProcessLocal::new(|| Mutex::new(7));
    let held = local.get().lock().unwrap();
    assert!(in_forked_child(|| local.get().try_lock().is_ok_and(|value| *value == 7)));
    drop(held);
}

#[test]
fn fork_in_the_middle_of_concurrent_use_finds_a_working_child_and_an_intact_parent() {
    for backing in [Backing::Secret, Backing::Locked] {
        let config = ArenaConfig { backing, ..ArenaConfig::default() };
        match Arena::new(config.clone()).ensure_free() {
            Ok(()) => fork_in_the_middle_of_concurrent_use(&config),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }
}

fn fork_in_the_middle_of_concurrent_use(config: &ArenaConfig) {
    const FORKS: usize = 60;
    let arena = Arena::new(config.clone());
    let kept = arena.store(&KEY).unwrap();
    let config = config.clone();
    let local = ProcessLocal::new(move || Arena::new(config.clone()));
    let done = AtomicBool::new(false);
    let stores = AtomicUsize::new(0);
    thread::scope(|scope| {
        let start = |number| {
            let (arena, local, done, stores) = (&arena, &local, &done, &stores);
            scope.spawn(move || {
                // Grows, wipes, reuses and shrinks, so forks catch the pool's lock held and slots half written.
                while !done.load(Ordering::Relaxed) {
                    let slots: Vec<_> = (0..500).map(|_| arena.store(&[number; 32]).unwrap()).collect();
                    stores.fetch_add(slots.len(), Ordering::Relaxed);
                    assert!(slots.iter().all(|slot| read(slot) == Some([number; 32])));
                    assert!(slots.iter().all(Slot::wipe));
                    let own = local.get().store(&[number; 32]).unwrap();
                    assert!(own.wipe());
                }
            })
        };
        let threads = [1, 2, 3].map(start);
        let mut failed = 0;
        for _ in 0..FORKS {
            let before = stores.load(Ordering::Relaxed);
            let passed = in_forked_child(|| {
                let own = local.get().store(&[9; 32]).unwrap();
                let grown: Vec<_> = (0..600).map(|_| local.get().store(&[8; 32]).unwrap()).collect();
                read(&kept).is_none()
                    && matches!(arena.store(&KEY), Err(MemoryError::Forked))
                    && read(&own) == Some([9; 32])
                    && grown.iter().all(|slot| read(slot) == Some([8; 32]))
            });
            failed += usize::from(!passed);
            // The next fork shall meet another moment of their work.
            while stores.load(Ordering::Relaxed) == before && !threads.iter().all(ScopedJoinHandle::is_finished) {
                thread::yield_now();
            }
        }
        // Before the assertion, or a failure would leave the threads running for ever.
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "children of {FORKS}");
    });
    assert_eq!(read(&kept), Some(KEY));
    assert_eq!(arena.report().slots_used, 1);
}

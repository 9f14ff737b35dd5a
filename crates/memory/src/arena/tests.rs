//! What an arena does with its slots, and what is left in them.

#![allow(clippy::unwrap_used)] // clippy does not see that `all(test, unix)` is a test

use super::*;
use crate::{map::probe, test_util};

fn arena() -> Arc<Arena> {
    Arena::new(ArenaConfig::default())
}

/// A key told from all others by its number, no byte of it zero.
fn key(number: usize) -> [u8; 32] {
    std::array::from_fn(|i| u8::try_from((number * 31 + i * 7) % 255 + 1).unwrap())
}

fn read(slot: &Slot) -> Option<[u8; 32]> {
    slot.with_key(|key| *key)
}

#[test]
fn arena_maps_nothing_before_the_first_key_and_another_chunk_when_all_slots_are_used() {
    let arena = arena();
    assert_eq!(arena.report().slots_capacity, 0);
    let first = arena.store(&key(0)).unwrap();
    let chunk = arena.report().slots_capacity;
    assert!(chunk > 1);
    let mut slots = vec![first];
    while slots.len() < chunk {
        slots.push(arena.store(&key(slots.len())).unwrap());
    }
    assert_eq!(arena.report().slots_capacity, chunk, "one chunk holds them all");
    slots.push(arena.store(&key(chunk)).unwrap());
    assert_eq!(arena.report().slots_capacity, 2 * chunk);
    assert_eq!(arena.report().slots_used, chunk + 1);
    for (number, slot) in slots.iter().enumerate() {
        assert_eq!(read(slot), Some(key(number)), "slot {number}");
    }
}

#[test]
fn no_two_live_slots_overlap() {
    let arena = arena();
    let slots: Vec<_> = (0..1000).map(|number| arena.store(&key(number)).unwrap()).collect();
    let mut places: Vec<_> = slots.iter().map(|slot| slot.place.0.as_ptr().addr()).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= size_of::<RawSlot>()));
    let chunks: Vec<_> =
        arena.lock_pool().chunks.iter().map(|chunk| (chunk.start().as_ptr().addr(), chunk.len())).collect();
    let is_inside =
        |place: usize| chunks.iter().any(|(start, len)| place >= *start && place + size_of::<RawSlot>() <= start + len);
    assert!(places.into_iter().all(is_inside));
}

#[test]
fn wiped_slot_is_used_again_and_its_old_handles_miss() {
    let arena = arena();
    let old = arena.store(&key(1)).unwrap();
    let clone = old.clone();
    let place = old.place.0;
    assert!(old.wipe());
    let new = arena.store(&key(2)).unwrap();
    assert_eq!(new.place.0, place);
    for handle in [&old, &clone] {
        assert_eq!(read(handle), None);
        assert!(!handle.is_live());
        assert!(!handle.wipe(), "an old handle must not wipe the next tenant's key");
    }
    assert_eq!(read(&new), Some(key(2)));
    assert_eq!(arena.report().slots_used, 1);
}

#[test]
fn wipe_overwrites_the_bytes_in_the_slot_at_once() {
    let arena = arena();
    let slot = arena.store(&key(1)).unwrap();
    let stored: Vec<u8> = slot.raw().words().into_iter().flat_map(u64::to_ne_bytes).collect();
    assert_eq!(stored, key(1));
    assert!(slot.wipe());
    assert_eq!(slot.raw().words(), [0; 4]);
}

#[test]
fn missed_read_does_not_run_the_closure() {
    let slot = arena().store(&key(1)).unwrap();
    slot.wipe();
    let mut ran = false;
    assert_eq!(slot.with_key(|_| ran = true), None);
    assert!(!ran);
}

#[test]
fn wipe_during_a_read_leaves_that_copy_whole() {
    let slot = arena().store(&key(1)).unwrap();
    let copy = slot.with_key(|key| {
        assert!(slot.wipe());
        *key
    });
    assert_eq!(copy, Some(key(1)));
    assert_eq!(read(&slot), None);
}

#[test]
fn panicking_closure_leaves_the_slot_usable() {
    let slot = arena().store(&key(1)).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| slot.with_key(|_| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(read(&slot), Some(key(1)));
    assert!(slot.wipe());
}

#[test]
fn key_outlives_its_handles_and_a_handle_outlives_the_arena() {
    let arena = arena();
    let slot = arena.store(&key(1)).unwrap();
    let place = slot.place;
    drop(slot);
    assert_eq!(arena.report().slots_used, 1, "only wipe ends a key");
    // SAFETY: the arena is alive, so its chunk is mapped.
    assert_ne!(unsafe { place.0.as_ref() }.words(), [0; 4]);

    let slot = arena.store(&key(2)).unwrap();
    drop(arena);
    assert_eq!(read(&slot), Some(key(2)));
}

#[test]
fn last_handle_to_go_overwrites_every_slot_before_the_memory_is_given_back() {
    let arena = arena();
    let slot = arena.store(&key(1)).unwrap();
    arena.store(&key(2)).unwrap();
    probe::take_remains();
    drop(arena);
    assert_eq!(probe::take_remains(), None, "a handle is left");
    drop(slot);
    assert_eq!(probe::take_remains(), Some(0));
}

#[test]
fn report_counts_what_is_used_and_names_what_is_missing() {
    let arena = arena();
    assert!(!arena.report().is_degraded(), "nothing mapped lacks nothing");
    let slots: Vec<_> = (0..3).map(|number| arena.store(&key(number)).unwrap()).collect();
    let report = arena.report();
    assert_eq!(report.slots_used, 3);
    assert_eq!(report.slots_capacity, arena.lock_pool().chunks[0].len() / size_of::<RawSlot>());
    assert_eq!(report.locked_bytes + report.unlocked_bytes, arena.lock_pool().chunks[0].len());
    #[cfg(target_os = "linux")]
    assert!(report.out_of_core_dumps && report.wiped_on_fork);
    for slot in &slots {
        slot.wipe();
        slot.wipe();
    }
    assert_eq!(arena.report().slots_used, 0);
    assert_eq!(arena.report().slots_capacity, report.slots_capacity, "wiped slots stay for reuse");
    assert!(MemoryReport { unlocked_bytes: 1, ..report }.is_degraded());
    assert!(MemoryReport { out_of_core_dumps: false, ..report }.is_degraded());
    assert!(MemoryReport { wiped_on_fork: false, ..report }.is_degraded());
}

/// Whether a child can be kept from locking memory here. Some sandboxes let everyone lock.
fn can_forbid_locking() -> bool {
    let can = test_util::in_forked_child(|| {
        test_util::forbid_locking() && Mapping::new(page_bytes()).is_ok_and(|page| page.lock().is_err())
    });
    if !can {
        eprintln!("skipped: this system locks memory beyond RLIMIT_MEMLOCK, so the limit cannot be met");
    }
    can
}

#[test]
fn key_is_refused_where_memory_cannot_be_locked_and_the_policy_says_so() {
    if !can_forbid_locking() {
        return;
    }
    assert!(test_util::in_forked_child(|| {
        test_util::forbid_locking();
        let arena = Arena::new(ArenaConfig { on_unprotected: OnUnprotected::Refuse });
        probe::take_remains();
        let refused = arena.store(&key(1)).unwrap_err();
        let MemoryError::Unprotected { needed_bytes, limit_bytes, .. } = &refused else { return false };
        let message = refused.to_string();
        let says_what_to_do = message.contains("RLIMIT_MEMLOCK") && message.contains("limit: 0 bytes");
        let report = arena.report();
        *needed_bytes > 0
            && *limit_bytes == Some(0)
            && says_what_to_do
            && !message.contains('\n')
            && (report.slots_used, report.slots_capacity, report.locked_bytes, report.unlocked_bytes) == (0, 0, 0, 0)
            && probe::take_remains() == Some(0) // the page it could not lock was given back
    }));
}

#[test]
fn key_is_stored_and_the_lack_is_reported_where_memory_cannot_be_locked_and_the_policy_is_degrade() {
    if !can_forbid_locking() {
        return;
    }
    assert!(test_util::in_forked_child(|| {
        test_util::forbid_locking();
        let arena = arena();
        let slot = arena.store(&key(1)).unwrap();
        let report = arena.report();
        report.is_degraded()
            && report.locked_bytes == 0
            && report.unlocked_bytes >= CHUNK_BYTES
            && read(&slot) == Some(key(1))
    }));
}

#[test]
fn keys_locked_before_the_limit_was_met_stay_and_their_slots_are_reused_under_refuse() {
    let arena = Arena::new(ArenaConfig { on_unprotected: OnUnprotected::Refuse });
    let Ok(slot) = arena.store(&key(1)) else {
        eprintln!("skipped: this process may lock no memory at all");
        return;
    };
    assert!(arena.report().locked_bytes > 0);
    assert_eq!(arena.report().unlocked_bytes, 0);
    assert!(slot.wipe());
    let again = arena.store(&key(2)).unwrap();
    assert_eq!(read(&again), Some(key(2)));
}

#[test]
#[cfg(target_os = "linux")]
fn lack_of_memory_is_an_error_that_says_what_to_do_and_leaves_the_arena_usable() {
    assert!(test_util::in_forked_child(|| {
        let arena = arena();
        let slot = arena.store(&key(1)).unwrap();
        let capacity = arena.report().slots_capacity;
        let rest: Vec<_> = (1..capacity).map(|number| arena.store(&key(number)).unwrap()).collect();
        // No more mappings; the heap still has what it has.
        let none = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: reads `none` and changes a limit of this child.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const none) }, 0);
        let refused = arena.store(&key(0));
        let is_typed =
            matches!(&refused, Err(error @ MemoryError::OutOfMemory(_)) if error.to_string().contains("wipe"));
        is_typed
            && arena.report().slots_capacity == capacity
            && rest[0].wipe()
            && arena.store(&key(2)).is_ok()
            && read(&slot) == Some(key(1))
    }));
}

#[test]
fn debug_shows_no_bytes() {
    let arena = arena();
    let slot = arena.store(&[0xab; 32]).unwrap();
    let shown = format!("{arena:?} {slot:?} {arena:#?} {slot:#?}").to_lowercase();
    // As a number, in hexadecimal, as a word of the slot, and where it lies.
    let word = u64::from_ne_bytes([0xab; 8]);
    let address = format!("{:p}", slot.place.0);
    for bytes in ["171", "abab", &word.to_string(), &address] {
        assert!(!shown.contains(bytes), "{bytes} in {shown}");
    }
    assert!(shown.contains("is_live: true"));
}

#[test]
#[cfg(target_os = "linux")]
fn forked_child_finds_no_bytes_where_the_parent_keeps_the_key() {
    let slot = arena().store(&key(1)).unwrap();
    assert!(test_util::in_forked_child(|| slot.raw().words() == [0; 4] && !slot.raw().holds(slot.generation)));
    assert_eq!(read(&slot), Some(key(1)));
}

#[test]
fn generations_are_even_and_never_repeat() {
    let arena = arena();
    let mut seen = std::collections::HashSet::new();
    for number in 0..100 {
        let slot = arena.store(&key(number)).unwrap();
        assert_eq!(slot.generation % 2, 0);
        assert!(slot.generation != 0 && seen.insert(slot.generation));
        slot.wipe();
    }
}

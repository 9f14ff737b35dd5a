//! What an arena does with its slots, and what is left in them.

#![allow(clippy::unwrap_used)] // clippy does not see that `all(test, unix)` is a test

use super::*;
use crate::{map::probe, raw::RawSlot, test_util};

fn arena() -> Arc<Arena> {
    Arena::new(ArenaConfig::default())
}

fn arena_of(backing: Backing) -> Arc<Arena> {
    Arena::new(ArenaConfig { backing, ..ArenaConfig::default() })
}

/// `None` where the system has no secret memory.
fn secret_arena() -> Option<Arc<Arena>> {
    let arena = arena_of(Backing::Secret);
    match arena.ensure_free() {
        Ok(()) => Some(arena),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
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
    let mut places: Vec<_> = slots.iter().map(|slot| slot.place().as_ptr().addr()).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= size_of::<RawSlot>()));
    let chunks: Vec<_> = arena.lock_pool().chunks().map(|chunk| chunk.range()).collect();
    let is_inside =
        |place: usize| chunks.iter().any(|range| place >= range.start && place + size_of::<RawSlot>() <= range.end);
    assert!(places.into_iter().all(is_inside));
}

#[test]
fn wiped_slot_is_used_again_and_its_old_handles_miss() {
    let arena = arena();
    let old = arena.store(&key(1)).unwrap();
    let clone = old.clone();
    let place = old.place();
    assert!(old.wipe());
    let new = arena.store(&key(2)).unwrap();
    assert_eq!(new.place(), place);
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
    let place = slot.place();
    drop(slot);
    assert_eq!(arena.report().slots_used, 1, "only wipe ends a key");
    // SAFETY: the arena is alive, so its chunk is mapped.
    assert_ne!(unsafe { place.as_ref() }.words(), [0; 4]);

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
    assert_eq!(report.slots_capacity, MIN_CHUNK_BYTES.next_multiple_of(page_bytes()) / size_of::<RawSlot>());
    let bytes = report.secret_bytes + report.locked_bytes + report.unlocked_bytes;
    assert_eq!(bytes, MIN_CHUNK_BYTES.next_multiple_of(page_bytes()));
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
        test_util::forbid_locking() && Mapping::private(page_bytes()).is_ok_and(|page| page.lock().is_err())
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
        let arena = Arena::new(ArenaConfig { on_unprotected: OnUnprotected::Refuse, ..ArenaConfig::default() });
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
            && report.unlocked_bytes >= MIN_CHUNK_BYTES
            && read(&slot) == Some(key(1))
    }));
}

#[test]
fn keys_locked_before_the_limit_was_met_stay_and_their_slots_are_reused_under_refuse() {
    let arena = Arena::new(ArenaConfig { on_unprotected: OnUnprotected::Refuse, ..ArenaConfig::default() });
    let Ok(slot) = arena.store(&key(1)) else {
        eprintln!("skipped: this process may lock no memory at all");
        return;
    };
    assert!(arena.report().locked_bytes + arena.report().secret_bytes > 0);
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
    let address = format!("{:p}", slot.place());
    for bytes in ["171", "abab", &word.to_string(), &address] {
        assert!(!shown.contains(bytes), "{bytes} in {shown}");
    }
    assert!(shown.contains("is_live: true"));
}

#[test]
#[cfg(target_os = "linux")]
fn forked_child_finds_no_bytes_where_the_parent_keeps_the_key() {
    let arena = arena_of(Backing::Locked);
    let slot = arena.store(&key(1)).unwrap();
    assert!(test_util::in_forked_child(|| slot.raw().words() == [0; 4] && !slot.raw().holds(slot.generation())));
    assert_eq!(read(&slot), Some(key(1)));
}

/// Whether this process has anything mapped at the address.
#[cfg(target_os = "linux")]
fn is_mapped(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).unwrap());
        (start..end).contains(&address)
    })
}

#[test]
#[cfg(target_os = "linux")]
fn secret_memory_is_not_mapped_in_a_forked_child_which_leaves_alone_what_is_there_instead() {
    let Some(arena) = secret_arena() else { return };
    let slot = arena.store(&key(1)).unwrap();
    let (mut arena, mut slot) = (Some(arena), Some(slot));
    let place = slot.as_ref().unwrap().place().as_ptr().addr();
    assert!(is_mapped(place));
    assert!(test_util::in_forked_child(|| {
        let was_mapped = is_mapped(place);
        // Takes the gap, so that a wrong unmapping would be seen, and a wrong wipe.
        let page = place / page_bytes() * page_bytes();
        // SAFETY: maps where nothing is mapped, or fails.
        let ours = unsafe {
            libc::mmap(
                std::ptr::with_exposed_provenance_mut(page),
                page_bytes(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        assert_ne!(ours, libc::MAP_FAILED);
        // SAFETY: mapped above, and this test's own.
        unsafe { ours.cast::<u8>().write_bytes(7, page_bytes()) };
        let handle = slot.as_ref().unwrap();
        let is_dead = read(handle).is_none() && !handle.is_live() && !handle.wipe();
        drop(slot.take());
        drop(arena.take());
        // SAFETY: still mapped unless the drops above unmapped it, and then this child crashes and fails.
        let bytes = unsafe { std::slice::from_raw_parts(ours.cast::<u8>(), page_bytes()) };
        !was_mapped && is_dead && is_mapped(place) && bytes.iter().all(|byte| *byte == 7)
    }));
    assert_eq!(read(slot.as_ref().unwrap()), Some(key(1)));
}

#[test]
#[cfg(target_os = "linux")]
fn secret_memory_cannot_be_read_by_way_of_proc_and_ordinary_memory_can() {
    use std::os::unix::fs::FileExt;

    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let read_at = |slot: &Slot| {
        let mut bytes = [0; 40];
        memory.read_exact_at(&mut bytes, slot.place().as_ptr().addr() as u64).map(|()| bytes[8..].to_vec())
    };
    let locked = arena_of(Backing::Locked).store(&key(1)).unwrap();
    assert_eq!(read_at(&locked).unwrap(), key(1));
    let Some(arena) = secret_arena() else { return };
    let secret = arena.store(&key(1)).unwrap();
    assert!(read_at(&secret).is_err());
    assert_eq!(arena.report().secret_bytes, MIN_CHUNK_BYTES.next_multiple_of(page_bytes()));
    assert_eq!((arena.report().locked_bytes, arena.report().is_degraded()), (0, false));
}

#[test]
fn generations_are_even_and_never_repeat() {
    let arena = arena();
    let mut seen = std::collections::HashSet::new();
    for number in 0..100 {
        let slot = arena.store(&key(number)).unwrap();
        assert_eq!(slot.generation() % 2, 0);
        assert!(slot.generation() != 0 && seen.insert(slot.generation()));
        slot.wipe();
    }
}

/// A key for each of `count` slots; then all are wiped, and the handles handed on.
fn fill_and_wipe(arena: &Arena, count: usize) -> Vec<Slot> {
    let slots: Vec<_> = (0..count).map(|number| arena.store(&key(number)).unwrap()).collect();
    assert!(slots.iter().enumerate().all(|(number, slot)| read(slot) == Some(key(number))));
    assert!(slots.iter().all(Slot::wipe));
    slots
}

#[test]
fn memory_without_a_key_goes_back_to_the_system_but_for_one_chunk() {
    for backing in [Backing::Automatic, Backing::Locked] {
        let arena = arena_of(backing);
        let bytes = || {
            let report = arena.report();
            report.secret_bytes + report.locked_bytes + report.unlocked_bytes
        };
        for _ in 0..3 {
            let stale = fill_and_wipe(&arena, 30_000);
            assert!(bytes() >= 30_000 * size_of::<RawSlot>(), "handles still look at all of it");
            assert_eq!(arena.lock_pool().chunks().count(), 1);
            assert!(stale.iter().all(|slot| read(slot).is_none() && !slot.is_live() && !slot.wipe()));
            probe::take_remains();
            drop(stale);
            assert_eq!(probe::take_remains(), Some(0), "the last to go was unmapped all zero");
            assert_eq!(bytes(), MIN_CHUNK_BYTES.next_multiple_of(page_bytes()), "{backing:?}");
            assert_eq!(arena.report().slots_capacity, Chunk::slots_in(bytes()));
            assert_eq!(arena.report().slots_used, 0);
        }
    }
}

#[test]
fn one_stale_handle_keeps_its_chunk_and_no_other() {
    let arena = arena();
    let mut stale = fill_and_wipe(&arena, 30_000);
    let kept = stale.pop().unwrap();
    drop(stale);
    let report = arena.report();
    let bytes = report.secret_bytes + report.locked_bytes + report.unlocked_bytes;
    let least = MIN_CHUNK_BYTES.next_multiple_of(page_bytes());
    assert!(bytes > least && bytes <= least + MAX_CHUNK_BYTES.next_multiple_of(page_bytes()), "{bytes} bytes");
    drop(arena);
    assert_eq!(read(&kept), None);
}

#[test]
fn chunks_grow_with_the_memory_there_is_and_add_little_to_it() {
    let arena = arena();
    let slots: Vec<_> = (0..100_000).map(|number| arena.store(&key(number)).unwrap()).collect();
    let capacity = arena.report().slots_capacity;
    assert!(capacity * 8 <= slots.len() * 9 + 8, "{capacity} slots for {} keys", slots.len());
    assert!(arena.lock_pool().chunks().count() < 160);
}

#[test]
fn the_limit_on_locked_memory_is_used_up_before_memory_is_left_unlocked_or_refused() {
    const KEYS: usize = 5_000;
    if !can_forbid_locking() {
        return;
    }
    let has_secret = secret_arena().is_some();
    for backing in [Backing::Automatic, Backing::Secret, Backing::Locked] {
        if backing == Backing::Secret && !has_secret {
            continue;
        }
        for on_unprotected in [OnUnprotected::Degrade, OnUnprotected::Refuse] {
            for limit in [0, 64 * 1024] {
                let passed = test_util::in_forked_child(|| {
                    assert!(test_util::limit_locking(limit));
                    let arena = Arena::new(ArenaConfig { backing, on_unprotected });
                    let stored: Vec<_> = (0..KEYS).map_while(|number| arena.store(&key(number)).ok()).collect();
                    assert!(stored.iter().enumerate().all(|(number, slot)| read(slot) == Some(key(number))));
                    let report = arena.report();
                    let limit = limit as usize;
                    // All but what is less than the smallest chunk: other memory of the process may be locked too.
                    assert_eq!(report.secret_bytes + report.locked_bytes, limit / MIN_CHUNK_BYTES * MIN_CHUNK_BYTES);
                    assert!(backing != Backing::Locked || report.secret_bytes == 0);
                    assert!(backing != Backing::Secret || report.locked_bytes == 0);
                    if backing != Backing::Secret && on_unprotected == OnUnprotected::Degrade {
                        assert_eq!(stored.len(), KEYS);
                        assert!(report.is_degraded() && report.unlocked_bytes > 0);
                        return true;
                    }
                    assert_eq!((stored.len(), report.is_degraded()), (limit / MIN_CHUNK_BYTES * 409, false));
                    let error = arena.store(&key(0)).unwrap_err();
                    assert!(error.to_string().contains(&format!("{limit} bytes")), "{error}");
                    assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
                    assert!(matches!(
                        arena.ensure_free(),
                        Err(MemoryError::Unprotected { .. } | MemoryError::NoSecretMemory { .. })
                    ));
                    // What is there goes on working.
                    stored.first().is_none_or(|slot| slot.wipe() && arena.store(&key(7)).is_ok())
                });
                assert!(passed, "{backing:?}, {on_unprotected:?}, {limit} bytes");
            }
        }
    }
}

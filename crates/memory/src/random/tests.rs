//! Both ways to the kernel pass the same tests.

#![allow(clippy::unwrap_used)] // clippy does not see that `all(test, unix)` is a test

use std::{collections::HashSet, thread};

use super::*;
use crate::test_util;

type Fill = fn(&mut [u8]) -> Result<(), RandomError>;

const WAYS: [(&str, Fill); 2] = [("fill", fill), ("system call", fill_by_system_call)];

fn draw<const N: usize>(fill: Fill) -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes).unwrap();
    bytes
}

/// Every stretch of 16 bytes differs from all others: of random ones, two are alike once in 2^100 runs.
fn assert_looks_random(bytes: &[u8], seen: &mut HashSet<[u8; 16]>) {
    for block in bytes.as_chunks::<16>().0 {
        assert!(seen.insert(*block), "16 bytes seen before, or never written");
    }
}

#[test]
fn linux_from_6_11_on_is_asked_without_a_system_call() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let is_known = cfg!(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64"));
    if is_known && version >= (6, 11) {
        assert!(is_in_user_space(), "kernel {release}");
    } else {
        eprintln!("skipped: kernel {release:?} need not have it");
    }
}

#[test]
fn every_length_is_filled_to_its_end_and_not_beyond() {
    for (way, fill) in WAYS {
        let mut seen = HashSet::new();
        for len in (0..=300).chain([4095, 4096, 4097, 1 << 20]) {
            let mut bytes = vec![0xa5; len + 16];
            fill(&mut bytes[..len]).unwrap();
            assert_eq!(bytes[len..], [0xa5; 16], "{way}, {len} bytes");
            assert_looks_random(&bytes[..len], &mut seen);
            // What 16-byte blocks leave out: in 64 draws each of the last bytes is something else at least once.
            if (1..=300).contains(&len) {
                let is_written = |index: usize| {
                    (0..64).any(|_| {
                        let mut again = vec![0xa5; len];
                        fill(&mut again).unwrap();
                        again[index] != 0xa5
                    })
                };
                assert!((len - len % 16..len).all(is_written), "{way}, {len} bytes");
            }
        }
    }
}

#[test]
fn each_bit_is_set_about_half_the_time() {
    for (way, fill) in WAYS {
        const DRAWS: u32 = 4096;
        let mut ones = [0_u32; 448];
        for _ in 0..DRAWS {
            for (index, byte) in draw::<56>(fill).into_iter().enumerate() {
                for bit in 0..8 {
                    ones[index * 8 + bit] += u32::from(byte >> bit & 1);
                }
            }
        }
        // Eight standard deviations of 32: one of 448 counts goes astray once in 10^12 runs.
        assert!(ones.iter().all(|count| count.abs_diff(DRAWS / 2) < 256), "{way}: {ones:?}");
    }
}

#[test]
fn threads_at_once_never_get_the_same_bytes() {
    for (way, fill) in WAYS {
        let mut seen = HashSet::new();
        for _ in 0..8 {
            let drawn = thread::scope(|scope| {
                let draws = || (0..2000).map(|_| draw::<48>(fill)).collect::<Vec<_>>();
                let threads: Vec<_> = (0..16).map(|_| scope.spawn(draws)).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            assert_looks_random(drawn.as_flattened(), &mut seen);
        }
        assert_eq!(seen.len(), 8 * 16 * 2000 * 3, "{way}");
    }
}

#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64"))]
fn a_thread_that_ends_leaves_its_state_to_the_next() {
    // In a child, where no other test has threads.
    assert!(test_util::in_forked_child(|| {
        let round = || {
            thread::spawn(|| draw::<56>(fill)).join().unwrap();
            vdso::mapped_states()
        };
        let first = round();
        (0..1000).all(|_| round() == first)
    }));
}

#[test]
fn random_bytes_are_to_be_had_while_a_thread_ends() {
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            assert_ne!(draw::<56>(fill), [0; 56]);
        }
    }
    thread_local!(static LATE: Late = const { Late });
    // Destroyed in an order that is the system's to choose: one of the two outlives the thread's state.
    for late_first in [true, false] {
        let ended = thread::spawn(move || {
            if late_first {
                LATE.with(|_| ());
                draw::<8>(fill);
            } else {
                draw::<8>(fill);
                LATE.with(|_| ());
            }
        });
        ended.join().unwrap();
    }
}

#[test]
fn a_child_forked_while_threads_draw_never_repeats_its_parent_or_a_sibling() {
    use std::{
        io::{Read, Write},
        sync::atomic::{AtomicBool, Ordering},
    };

    for (way, fill) in WAYS {
        let mut seen = HashSet::new();
        let done = AtomicBool::new(false);
        let threads = thread::scope(|scope| {
            let draw_on = || {
                let mut drawn = vec![draw::<16>(fill)];
                while !done.load(Ordering::Relaxed) {
                    drawn.push(draw::<16>(fill));
                    thread::yield_now();
                }
                drawn
            };
            let threads = [scope.spawn(draw_on), scope.spawn(draw_on), scope.spawn(draw_on)];
            let mut failed = 0;
            let mut drawn = Vec::new();
            for _ in 0..20 {
                // Not a multiple of what the generator makes at once, so that a fork finds some made and not yet given.
                drawn.extend(draw::<16>(fill));
                let (mut reader, mut writer) = std::io::pipe().unwrap();
                let passed = test_util::in_forked_child(|| {
                    // The child has new threads too, which find the parent's list of states.
                    let mut drawn = (0..20).flat_map(|_| draw::<16>(fill)).collect::<Vec<_>>();
                    drawn.extend(thread::spawn(move || draw::<320>(fill)).join().unwrap());
                    writer.write_all(&drawn).is_ok()
                });
                drop(writer);
                failed += usize::from(!passed || reader.read_to_end(&mut drawn).unwrap() != 640);
                drawn.extend(draw::<320>(fill));
            }
            // Before anything that may fail, or the threads would go on for ever.
            done.store(true, Ordering::Relaxed);
            assert_eq!(failed, 0, "{way}");
            assert_looks_random(&drawn, &mut seen);
            threads.map(|thread| thread.join().unwrap())
        });
        threads.iter().flatten().for_each(|bytes| assert_looks_random(bytes, &mut seen));
    }
}

#[test]
fn the_traits_of_rand_lead_to_the_kernel() {
    fn crypto<R: TryCryptoRng>(rng: &mut R) -> [u8; 56] {
        let mut bytes = [0; 56];
        rng.try_fill_bytes(&mut bytes).unwrap();
        bytes
    }
    assert_ne!(crypto(&mut KernelRng), crypto(&mut KernelRng));
    let words: HashSet<_> = (0..64).map(|_| KernelRng.try_next_u64().unwrap()).collect();
    assert_eq!(words.len(), 64);
    let words: HashSet<_> = (0..64).map(|_| KernelRng.try_next_u32().unwrap()).collect();
    assert!(words.len() > 60);
}

#[test]
#[cfg(target_os = "linux")]
fn where_the_system_refuses_the_error_says_so() {
    let error = RandomError(getrandom::Error::UNSUPPORTED);
    assert!(error.to_string().contains("operating system"));
    assert!(std::error::Error::source(&error).is_some());
}

//! How often the crate allocates, counted by the allocator itself. AWS-LC, which is C, keeps its key schedules in a heap
//! of its own; that is not counted here.

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use common::{Account, CHUNK, HEADER, context, plaintext};
use keystrata_primitives::{Suite, envelope};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // Fails only while a thread ends, when nobody counts.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes on to `System` unchanged, whose contract is the one to keep; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`, and `memory` came from `System`.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATIONS.get();
    let result = work();
    (ALLOCATIONS.get() - before, result)
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| Box::new([1_u8; 64])).0, 1);
    assert_eq!(allocations(|| vec![0_u8; 64]).0, 1);
    assert_eq!(allocations(|| ()).0, 0);
}

#[test]
fn one_allocation_or_none() {
    let context = context();
    for suite in Suite::ALL {
        let account = Account::new(suite, 1);
        let kek = account.kek();
        for len in [0, 64, CHUNK, 3 * CHUNK + 5] {
            let plaintext = plaintext(len);
            let mut buffer = vec![0; envelope::sealed_len(len).unwrap()];
            // Whatever a backend or the kernel's interface sets up once in a process.
            envelope::seal_into(&kek, &context, &plaintext, &mut buffer).unwrap();

            let (count, sealed) = allocations(|| envelope::seal(&kek, &context, &plaintext));
            assert_eq!(count, 1, "{suite}, {len}: seal");
            let sealed = sealed.unwrap();
            let (count, opened) = allocations(|| envelope::open(&kek, &context, &sealed));
            assert_eq!(count, usize::from(len > 0), "{suite}, {len}: open"); // no bytes need none
            assert!(opened.unwrap() == plaintext);

            let (count, result) = allocations(|| envelope::seal_into(&kek, &context, &plaintext, &mut buffer));
            assert_eq!(count, 0, "{suite}, {len}: seal_into");
            result.unwrap();
            let (count, opened) =
                allocations(|| envelope::open_in_place(&kek, &context, &mut buffer).map(|open| open.len()));
            assert_eq!(count, 0, "{suite}, {len}: open_in_place");
            assert_eq!(opened, Ok(len));
            let (count, result) = allocations(|| envelope::seal_in_place(&kek, &context, &mut buffer));
            assert_eq!(count, 0, "{suite}, {len}: seal_in_place");
            result.unwrap();

            let header = buffer.first_chunk::<HEADER>().unwrap();
            let (count, rewrapped) = allocations(|| envelope::rewrap(&kek, &kek, header));
            assert_eq!(count, 0, "{suite}, {len}: rewrap");
            assert!(rewrapped.is_ok());
        }
    }
}

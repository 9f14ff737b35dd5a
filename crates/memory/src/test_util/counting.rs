//! An allocator that counts: to prove that a hot path does not allocate.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, and a count of how often each thread asked it for memory.
///
/// ```
/// use keystrata_memory::test_util::CountingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator = CountingAllocator;
///
/// let (allocations, _) = CountingAllocator::count(|| Box::new([1; 64]));
/// assert_eq!(allocations, 1);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

impl CountingAllocator {
    /// Runs `work`, and says how often this thread allocated or reallocated meanwhile: 0 always, unless this is the
    /// program's global allocator.
    pub fn count<T>(work: impl FnOnce() -> T) -> (usize, T) {
        let before = ALLOCATIONS.get();
        let result = work();
        (ALLOCATIONS.get() - before, result)
    }
}

fn count_one() {
    // Fails only while a thread ends, when nobody counts.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes on to `System` unchanged, whose contract is the one to keep; counting does not allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_one();
        // SAFETY: the caller keeps the contract of `realloc`, and `memory` came from `System`.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

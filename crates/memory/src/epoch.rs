//! A number that tells a forked child from its parent, without a lock and without hooking `fork`.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::map::{Mapping, page_bytes};

/// The page that holds this process's epoch and reads 0 in a child; null until first asked.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

/// The last epoch given out here or in an ancestor. Ordinary memory: a child goes on from the value at the fork.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Stands in for `PAGE` where no page can be wiped on fork; only its address is used.
static NO_PAGE: AtomicU64 = AtomicU64::new(0);

/// Returns the epoch of this process: a number, never 0, that stays the same until a fork and differs in the child.
///
/// A value is known to be an ancestor's when the epoch it was made under is not the present one: nothing that a process
/// finds in its memory from before the fork was made under its own epoch. Relatives that share no such value (siblings, or
/// a parent that asked for its epoch only after the fork, and the child) may have the same epoch.
///
/// Costs two loads, takes no lock, and may be called in a child forked from a process with many threads. Where the kernel
/// has no `MADV_WIPEONFORK` (Linux before 4.14, other systems) it compares the process id at each call instead; there, a
/// child that never asked and whose own child is given the id of a dead grandparent goes unnoticed.
pub fn process_epoch() -> u64 {
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return first_epoch();
    }
    epoch_on(page)
}

fn epoch_on(page: *mut AtomicU64) -> u64 {
    if std::ptr::eq(page, &raw const NO_PAGE) {
        return epoch_by_process_id();
    }
    // SAFETY: any other pointer in `PAGE` is the start of a mapping that is never unmapped once published.
    let epoch = unsafe { &*page };
    // Relaxed: the number says all; nothing else is published through it.
    match epoch.load(Ordering::Relaxed) {
        0 => renew(epoch),
        value => value,
    }
}

/// Gives the page a new value after a fork (or at first use); all threads of this process agree on one.
#[cold]
fn renew(epoch: &AtomicU64) -> u64 {
    // `LAST` moves before the page does, so whoever is forked once the page shows a value starts above that value. (Who is
    // forked between the two may get the same one; nothing was made under it before the fork.)
    let fresh = LAST.fetch_add(1, Ordering::SeqCst) + 1;
    match epoch.compare_exchange(0, fresh, Ordering::SeqCst, Ordering::Relaxed) {
        Ok(_) => fresh,
        Err(theirs) => theirs,
    }
}

#[cold]
fn first_epoch() -> u64 {
    // A `OnceLock` would hang in a child forked while another thread fills it.
    let mapping = Mapping::private(page_bytes()).and_then(|page| page.wipe_on_fork().map(|()| page)).ok();
    let page = mapping.as_ref().map_or((&raw const NO_PAGE).cast_mut(), |page| page.start().as_ptr().cast());
    match PAGE.compare_exchange(std::ptr::null_mut(), page, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // Published for the life of the process.
            std::mem::forget(mapping);
            epoch_on(page)
        }
        Err(theirs) => epoch_on(theirs),
    }
}

/// The process id in the high half, the epoch in the low half of one word, so that both change in one step.
fn epoch_by_process_id() -> u64 {
    const LOW: u64 = 0xffff_ffff;
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let id = u64::from(std::process::id()) << 32;
    let mut seen = SEEN.load(Ordering::Relaxed);
    loop {
        if seen & !LOW == id && seen & LOW != 0 {
            return seen & LOW;
        }
        let next = id | ((seen & LOW) + 1);
        match SEEN.compare_exchange_weak(seen, next, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => return next & LOW,
            Err(now) => seen = now,
        }
    }
}

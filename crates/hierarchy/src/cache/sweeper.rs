//! The thread that overwrites KEKs at their deadline.

use super::{Shared, index::Sweep};

/// Runs until the cache is closed.
pub(super) fn run(shared: &Shared) {
    loop {
        let next = shared.index().sweep(shared.clock.now());
        match next {
            // Overwritten outside the lock: callers of other accounts do not wait for it.
            Sweep::Overwrite(due) => {
                for kek in due {
                    kek.slot.wipe();
                }
            }
            Sweep::WaitUntil(deadline) => shared.clock.wait(&shared.alarm, deadline),
            Sweep::Closed => return,
        }
    }
}

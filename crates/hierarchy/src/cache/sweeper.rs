//! The thread that overwrites KEKs at their deadline.

use super::{Shared, index::Sweep};

/// Runs until the cache is closed.
pub(super) fn run(shared: &Shared) {
    let _ended = Ended(shared);
    loop {
        // A clock is somebody else's code: not to be called under the lock.
        let now = shared.clock.now();
        let next = shared.index().sweep(now);
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

/// Tells the clock, also when it is the clock that panicked.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.clock.forget_sleeper(&self.0.alarm);
    }
}

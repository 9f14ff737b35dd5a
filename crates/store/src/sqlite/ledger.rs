//! Counts this process's connections, so that a forked child can tell whether its parent had any.
//!
//! SQLite remembers which locks its process holds on a file. A child inherits that memory but not the locks (POSIX locks
//! belong to the process), so a connection of its own on the same file would count on locks that nobody holds: when
//! the parent closes the file last, it deletes the write-ahead log under the child, and what the child commits is lost.
//! With no connection open at the fork, SQLite remembers nothing and the child starts clean.

use std::sync::atomic::{AtomicU64, Ordering};

use keystrata_memory::process_epoch;

/// High half: the epoch of the process whose connections are counted. Low half: how many it has open.
static OPEN: AtomicU64 = AtomicU64::new(0);

/// Permission to have one connection; keep it until the connection is closed.
#[derive(Debug)]
pub(super) struct Entry {
    epoch: u32,
}

/// Enters one connection, before it is opened. `None` for ever in a child whose parent had one at the fork.
pub(super) fn enter() -> Option<Entry> {
    let epoch = epoch();
    let entered = OPEN.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
        let (owner, count) = ((open >> 32) as u32, open & u64::from(u32::MAX));
        // A lock-free word, because a fork may catch any lock held.
        (count == 0 || owner == epoch).then_some(u64::from(epoch) << 32 | (count + 1))
    });
    // Not `then_some`: an entry made and dropped would count one out.
    entered.is_ok().then(|| Entry { epoch })
}

impl Drop for Entry {
    fn drop(&mut self) {
        // A child that drops what it inherited must not count down its own.
        if self.epoch == epoch() {
            OPEN.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Epochs count forks from 1; the low half tells a child from its ancestors.
#[allow(clippy::cast_possible_truncation)]
fn epoch() -> u32 {
    process_epoch() as u32
}

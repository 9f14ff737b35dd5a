//! Memory for key bytes: slots that are locked in RAM, left out of core dumps, overwritten on demand and not there in a
//! forked child, on pages that other processes cannot read at all where the kernel has such; and
//! [random bytes](random) from the kernel.
//!
//! ```
//! use keystrata_memory::{Arena, ArenaConfig};
//!
//! let arena = Arena::new(ArenaConfig::default());
//! let slot = arena.store(&[7; 32])?;
//! assert_eq!(slot.with_key(|key| key[0]), Some(7));
//!
//! assert!(slot.wipe());
//! assert_eq!(slot.with_key(|key| key[0]), None);
//! # Ok::<(), keystrata_memory::MemoryError>(())
//! ```
//!
//! A key is read by copying it; the copy is overwritten before [`Slot::with_key`] returns. A reader never sees half a key
//! nor the key of whoever uses the slot next: it gets the key it was given a handle for, or nothing.
//!
//! # What it does not protect
//! - Code in the same process, a debugger, root, or a hypervisor reads this memory as the process does.
//! - Registers and spilled temporaries of a copy in use are outside what can be overwritten, and so is what the closure
//!   given to `with_key` copies. A copy in use on any thread while the process forks is in the child's copy of that stack.
//! - The caller's `&[u8; 32]` given to [`Arena::store`] stays the caller's to wipe.
//! - Hibernation writes all of RAM to disk, locked pages included. (With secret memory in use, Linux does not hibernate.)
//! - Where the kernel has no secret memory, root reads the pages by way of `/proc/PID/mem`; [`MemoryReport`] says which
//!   of the protections are really in place.
//! - A child forked by another thread in the instant in which secret memory is mapped inherits its file descriptor: it
//!   could map the memory if it looked for it, and it loses it with `exec`.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

// Loom checks the slot protocol alone: its atomics cannot live in memory that comes zeroed from the kernel.
#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
mod epoch;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod map;
#[cfg(not(loom))]
mod process_local;
#[cfg(not(loom))]
pub mod random;
mod sync;

#[cfg(not(loom))]
#[allow(unreachable_pub)] // public for the loom test only
mod pool;
#[cfg(loom)]
#[doc(hidden)]
pub mod pool;
#[cfg(not(loom))]
#[allow(unreachable_pub)] // public for the loom test only
mod raw;
#[cfg(loom)]
#[doc(hidden)]
pub mod raw;

#[cfg(all(not(loom), unix, any(test, feature = "test-util")))]
pub mod test_util;

#[cfg(not(loom))]
pub use crate::{
    arena::{Arena, ArenaConfig, Backing, MemoryReport, OnUnprotected, Slot},
    epoch::process_epoch,
    error::MemoryError,
    process_local::ProcessLocal,
};

//! Helpers for tests that fork, count allocations or look into another process; not for production use.

mod counting;
#[cfg(target_os = "linux")]
mod scan;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::counting::CountingAllocator;
#[cfg(target_os = "linux")]
pub use self::scan::{Needle, count_in_process};

/// [`random::fill`](crate::random::fill) as it is where the kernel has no `getrandom` in the vDSO.
///
/// # Errors
/// As [`random::fill`](crate::random::fill).
pub fn fill_by_system_call(bytes: &mut [u8]) -> Result<(), crate::random::RandomError> {
    crate::random::fill_by_system_call(bytes)
}

/// How long a child may take: one that hangs on a lock caught by the fork must fail its test, not stall it.
const CHILD_SECONDS: libc::c_uint = 60;

/// Forks, runs `f` in the child, and returns whether it returned `true` there.
///
/// A panic, a crash or a hang (60 s) of the child counts as `false`. The child runs no destructors but those of `f` and
/// no exit handlers.
///
/// # Panics
/// If the system cannot fork or loses the child.
pub fn in_forked_child(f: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child has one thread and may find locks of other threads held. What it runs here takes none but the
    // allocator's, which the C library releases in the child, and those of `f`, which is the test's subject.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: sets a timer of this child, whose default action ends it.
        unsafe { libc::alarm(CHILD_SECONDS) };
        let passed = catch_unwind(AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: ends the child at once; the parent's exit handlers must not run twice.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the answer.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        if waited == child {
            return libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        }
        let error = std::io::Error::last_os_error();
        assert!(error.kind() == std::io::ErrorKind::Interrupted, "lost the child: {error}");
    }
}

/// Takes from this process the means to lock memory, for good, and says whether that worked: a new arena then meets what
/// a service meets whose limit is used up.
///
/// For the child of [`in_forked_child`] only. See [`limit_locking`].
pub fn forbid_locking() -> bool {
    limit_locking(0)
}

/// Lets this process lock `bytes` bytes of memory in all, for good, and says whether that worked.
///
/// For the child of [`in_forked_child`] only. Sets `RLIMIT_MEMLOCK` and, on Linux, gives up `CAP_IPC_LOCK`, which stands
/// above that limit.
pub fn limit_locking(bytes: u32) -> bool {
    let limit = libc::rlimit { rlim_cur: bytes.into(), rlim_max: bytes.into() };
    // SAFETY: reads `limit` and changes a limit of this process.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } == 0;
    limited && drop_lock_capability()
}

#[cfg(target_os = "linux")]
fn drop_lock_capability() -> bool {
    const CAP_IPC_LOCK: u32 = 14;

    /// `cap_user_header_t`, with version 3 of the call and 0 for the calling thread.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }

    /// `cap_user_data_t`, of which version 3 has two: low and high capabilities.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }

    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: both pointers are valid and laid out as version 3 of the call has them.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) } != 0 {
        return false;
    }
    data[0].effective &= !(1 << CAP_IPC_LOCK);
    data[0].permitted &= !(1 << CAP_IPC_LOCK);
    // SAFETY: as above; giving up a capability is always allowed.
    unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn drop_lock_capability() -> bool {
    // Where root is above the limit there is nothing to give up.
    // SAFETY: asks who this process runs as.
    unsafe { libc::geteuid() != 0 }
}

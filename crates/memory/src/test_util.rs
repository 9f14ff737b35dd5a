//! Helpers for tests that fork; not for production use.

use std::panic::{AssertUnwindSafe, catch_unwind};

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

//! Random bytes from the kernel alone, at the price of a function call where the kernel offers that.
//!
//! Linux has since 6.11 a `getrandom` in the vDSO, the code it maps into every process: the kernel's generator at work in
//! user space, on pages that the kernel empties in a forked child and under memory pressure, and reseeded when the kernel
//! reseeds, a virtual machine's resumed snapshot included. C libraries before glibc 2.41 do not call it, so this module
//! does. Where it is missing or answers anything unexpected, the system is asked instead.
//!
//! Nothing is buffered and no generator is seeded here: in a server that forks, either would give parent and child the
//! same keys and nonces.

#[cfg(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod vdso;

/// Other systems: no such function.
#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
mod vdso {
    pub(super) fn fill(_bytes: &mut [u8]) -> bool {
        false
    }

    pub(super) fn is_available() -> bool {
        false
    }
}

use getrandom::rand_core::{TryCryptoRng, TryRng};

/// The operating system gave no random bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct RandomError(#[source] getrandom::Error);

/// Fills `bytes` from the kernel.
///
/// Blocks only while the kernel has no entropy yet, early at boot. A thread's first call maps or takes over a little state,
/// which the end of the thread gives back. May be called in a forked child, but not from a signal handler: the first call
/// may allocate.
///
/// ```
/// let mut key = [0; 32];
/// keystrata_memory::random::fill(&mut key)?;
/// # Ok::<(), keystrata_memory::random::RandomError>(())
/// ```
///
/// # Errors
/// [`RandomError`] if the system refuses, as a sandbox may make it; `bytes` must not be used then.
pub fn fill(bytes: &mut [u8]) -> Result<(), RandomError> {
    if vdso::fill(bytes) { Ok(()) } else { fill_by_system_call(bytes) }
}

/// Fills `bytes` without the vDSO.
pub(crate) fn fill_by_system_call(bytes: &mut [u8]) -> Result<(), RandomError> {
    // Repeats what a signal interrupted and what came short.
    getrandom::fill(bytes).map_err(RandomError)
}

/// Whether [`fill`] has a function of the kernel's to call, so that it costs no system call.
pub fn is_in_user_space() -> bool {
    vdso::is_available()
}

/// [`fill`] behind the traits of the `rand` crate.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelRng;

impl TryRng for KernelRng {
    type Error = RandomError;

    fn try_next_u32(&mut self) -> Result<u32, RandomError> {
        let mut bytes = [0; 4];
        fill(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, RandomError> {
        let mut bytes = [0; 8];
        fill(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), RandomError> {
        fill(bytes)
    }
}

impl TryCryptoRng for KernelRng {}

#[cfg(all(test, unix))]
mod tests;

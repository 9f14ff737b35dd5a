//! Random bytes, from the kernel alone, by way of [`keystrata_memory::random`].
//!
//! Nothing is buffered in user space and no generator is seeded per thread: in a server that forks, either would give
//! parent and child the same keys and nonces.

pub(crate) use keystrata_memory::random::KernelRng;
use rand::TryCryptoRng;

/// The operating system gave no random bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the operating system gave no random bytes ({0}); nothing was sealed")]
pub struct RandomnessError(String);

/// Fills `bytes` from the kernel, in one request.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), RandomnessError> {
    fill_with(&mut KernelRng, bytes)
}

pub(crate) fn fill_with<R: TryCryptoRng>(rng: &mut R, bytes: &mut [u8]) -> Result<(), RandomnessError> {
    rng.try_fill_bytes(bytes).map_err(|error| RandomnessError(error.to_string()))
}

//! Secrets on the stack.

use std::ops::{Deref, DerefMut};

use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes, zero at first and overwritten when they go out of scope.
///
/// `Zeroizing<[u8; N]>` does the same byte by byte, because an array's elements may be of any type: 56 ns for 256
/// bytes. A slice of bytes is overwritten as one: 9 ns.
///
/// Write the secret where it stands: moving this, as moving anything, leaves a copy behind.
pub(crate) struct Wiped<const N: usize>([u8; N]);

impl<const N: usize> Wiped<N> {
    pub(crate) const fn zeroed() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Deref for Wiped<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> DerefMut for Wiped<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> Drop for Wiped<N> {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

impl<const N: usize> ZeroizeOnDrop for Wiped<N> {}

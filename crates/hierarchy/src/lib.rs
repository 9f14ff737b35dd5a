//! The key-hierarchy engine of Keystrata.
#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

pub mod clock;
mod root;
mod store;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;

pub use keystrata_primitives::{Context, ContextError, KekId, KekVersion, KeyPath, PathError, RootKeyId, SecretKey};

pub use self::{
    clock::{Clock, SystemClock},
    root::{Cause, GeneratedKey, RootContext, RootKey, RootKeyError},
    store::{Creation, KekStore, MemoryKekStore, StoreError},
};

//! The suites that every [`RootKey`](crate::RootKey) and [`KekStore`](crate::KekStore) must pass, yours included.
//!
//! Run them on the bare adapter and again through each wrapper around it: a wrapper that forgets a method shows here.
//! They need a tokio runtime with its timer on, and find more on one with several threads.
//!
//! ```
//! use keystrata_hierarchy::{
//!     MemoryKekStore,
//!     test_util::{ScriptedRootKey, conformance},
//! };
//!
//! #[tokio::main]
//! async fn main() {
//!     conformance::root_key(async || ScriptedRootKey::new("test:root")).await;
//!     conformance::kek_store(async || MemoryKekStore::new()).await;
//! }
//! ```
//!
//! A failure is a panic that begins with the suite's name and says which rule was broken.

mod kek_store;
mod root_key;

pub use self::{
    kek_store::kek_store,
    root_key::{RootKeyFault, RootKeyHarness, root_key, root_key_in},
};

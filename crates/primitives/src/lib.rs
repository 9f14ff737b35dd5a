//! The bytes of Keystrata: keys, the wrap of one key under another, KEK records and sealed envelopes.
//!
//! Bytes in, bytes out: no async and no I/O. What a service embeds is `keystrata-hierarchy`, which adds the KMS, the
//! store and the cache; this crate is what another implementation of the format would have to match, and
//! `docs/format.md` is its reference.
//!
//! ```
//! use keystrata_primitives::{Context, KekId, KekIdentity, KekVersion, KeyPath, SecretKey, Suite, envelope};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secret = SecretKey::generate()?; // what a KMS would wrap
//! let identity = KekIdentity {
//!     suite: Suite::XChaCha20Poly1305,
//!     version: KekVersion::FIRST,
//!     id: KekId::generate()?,
//!     path: KeyPath::account("acme")?,
//! };
//! let derived = identity.derive(&secret);
//! let kek = derived.kek(&identity);
//!
//! let context = Context::new().with("row", "42");
//! let sealed = envelope::seal(&kek, &context, b"4111 1111 1111 1111")?;
//! assert_eq!(envelope::open(&kek, &context, &sealed)?, b"4111 1111 1111 1111");
//! assert!(envelope::open(&kek, &Context::none(), &sealed).is_err());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod aead;
mod context;
pub mod envelope;
pub mod hazmat;
mod kdf;
mod kek;
mod key;
mod local_root;
mod path;
mod random;
pub mod record;
pub mod simple;
mod suite;
mod wipe;
pub mod wire;
pub mod wrap;

pub use context::{Context, ContextError};
pub use kek::{DerivedKek, Kek, KekCheck, KekId, KekIdentity, KekVersion, ParseKekIdError};
pub use key::{SecretKey, SecretLengthError};
pub use local_root::LocalRootParts;
pub use path::{KeyPath, PathError};
pub use random::RandomnessError;
pub use record::{KekRecord, KekState, RecordError, RootKeyId, RootKeyIdError, WrappedSecret, Wrapper};
pub use suite::{Suite, UnknownSuite};

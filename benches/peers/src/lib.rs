//! Keystrata beside other libraries for envelope encryption: the same work, interleaved in one run.
//!
//! `cargo xtask peers` builds and runs this. A library is a file here, behind the trait [`Tenant`].
#![forbid(unsafe_code)]

pub mod about;
mod aead;
pub mod aims;
pub mod asherah;
#[cfg(feature = "aws-esdk")]
pub mod aws_esdk;
pub mod bare;
pub mod calls;
pub mod keystrata;
pub mod kms;
pub mod kms_aead;
pub mod memory;
pub mod report;
pub mod speed;
pub mod tink;

/// One tenant of one library, with what it keeps in memory for it.
///
/// Whatever a caller could prepare once, or holds anyhow, is not in what is timed: the form in which a library takes a
/// plaintext, and a sealed object that it consumes.
pub trait Tenant {
    /// A plaintext as the library takes and gives it.
    type Plain: Plain;
    /// A sealed object as the library gives and takes it.
    type Sealed: Sealed;

    /// Seals one object.
    fn seal(&self, plain: &Self::Plain) -> Self::Sealed;
    /// Opens one object, which may be taken out of `sealed`.
    fn open(&self, sealed: &mut Self::Sealed) -> Self::Plain;
}

/// A plaintext in a library's own form.
pub trait Plain {
    /// From a caller who has `bytes`.
    fn of(bytes: &[u8]) -> Self;
    /// To one who wants them.
    fn bytes(&self) -> &[u8];
}

/// A sealed object in a library's own form.
pub trait Sealed: Clone {
    /// How many bytes a caller has to store.
    fn stored_bytes(&self) -> usize;
}

impl Plain for Vec<u8> {
    fn of(bytes: &[u8]) -> Self {
        bytes.to_vec()
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Sealed for Vec<u8> {
    fn stored_bytes(&self) -> usize {
        self.len()
    }
}

/// A process that has just started: its tenants' keys are at rest, none is in memory.
pub trait Process: Send + Sync {
    /// What its tenants are.
    type Tenant: Tenant;

    /// The tenant of this number, of those whose keys are at rest.
    fn tenant(&self, number: usize) -> Self::Tenant;
}

/// The context of every object, in libraries that have one: one pair, as a row of a table would have.
pub const CONTEXT: (&str, &str) = ("row", "42");
/// The same for libraries that take bytes.
pub const AAD: &str = "row=42";

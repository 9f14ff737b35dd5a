//! Why a root key file was not made or not taken.

use std::{io, path::PathBuf};

use keystrata_primitives::RandomnessError;

/// Why there is no [`LocalRootKey`](crate::LocalRootKey). Each message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalRootKeyError {
    /// There is no such file.
    #[error("there is no root key file at {path:?}: check the path, or make a key with `keystrata init`")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A new key was to be made where something is already.
    #[error(
        "{path:?} exists and is left as it is: use it, or choose another path (deleting a root key loses all it wraps)"
    )]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner may read or write the file.
    #[error(
        "the root key file {path:?} is open to other users (mode {mode:04o}): run `chmod 600 {path:?}`, and make a new \
         key if one of them may have read it"
    )]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, a device or a pipe.
    #[error("{path:?} is not a file: give the path of a root key file")]
    NotAFile {
        /// What is not a file.
        path: PathBuf,
    },
    /// A file of no bytes.
    #[error("the root key file {path:?} is empty: restore it from a backup (a new key opens nothing that exists)")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A key file that ends too early.
    #[error("the root key file {path:?} is cut short: restore it from a backup (a new key opens nothing that exists)")]
    TooShort {
        /// The file.
        path: PathBuf,
    },
    /// A key file with more than a key in it.
    #[error("the root key file {path:?} has more in it than one key: restore it from a backup")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A file of another kind, or a key with characters that no key has.
    #[error("{path:?} is not a root key file, or was altered: check the path, or restore the file from a backup")]
    NotAKeyFile {
        /// The file.
        path: PathBuf,
    },
    /// A key file in a form that this release does not know.
    #[error("the root key file {path:?} has version {version}, and this release knows version 1: update keystrata")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version it says it has.
        version: u32,
    },
    /// The system does not let this process read the file.
    #[error("cannot read the root key file {path:?}: check that it belongs to the user of this process")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not let this process make the file, or not all of it.
    #[error("cannot make the root key file {path:?}: its folder must exist, be writable and have space left")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no random bytes for a key.
    #[error("no root key was made")]
    Randomness {
        /// What the system said.
        source: RandomnessError,
    },
}

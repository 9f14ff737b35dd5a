//! The seam to the store: where KEK records rest.

mod memory;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use keystrata_primitives::{KekId, KekRecord, KekState, KeyPath, RecordError};

pub use self::memory::MemoryKekStore;
use crate::root::Cause;

/// Durable storage of [KEK records](KekRecord), and of nothing else.
///
/// Losing a store loses every object sealed under its KEKs. Reads are strongly consistent: they see every write that
/// was answered before they began, by whatever process. What a store returns is not trusted: the engine checks that a
/// record is the one it asked for, and the KEK's check decides the rest.
#[async_trait]
pub trait KekStore: fmt::Debug + Send + Sync {
    /// The record of one KEK of `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`]; a KEK that is not there is not an error.
    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError>;

    /// The record of the KEK that new objects of `path` are sealed under; `None` if the account has no KEK.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError>;

    /// Stores `record` as the primary of an account that has no KEK yet.
    ///
    /// Of any number of callers at once, in any number of processes, one gets [`Creation::Created`]. It is durable when
    /// this returns: a loss of power afterwards does not take it back.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a record that is not in state primary or breaks a limit; nothing is stored. After any
    /// other [`StoreError`] the outcome is unknown: look for the record's KEK id before trying again.
    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError>;

    /// Makes `record` the primary of its account in place of `previous`, which stays as a retired KEK whose `retired_at` is
    /// the new record's `created_at`.
    ///
    /// Of any number of callers at once that name the same `previous`, in any number of processes, one gets
    /// [`Rotation::Rotated`]. Both changes are made together and are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a record that is not in state primary, breaks a limit, or whose version is not greater
    /// than the primary's; nothing is stored. After any other [`StoreError`] the outcome is unknown: look for the record's
    /// KEK id before trying again.
    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError>;

    /// All KEK versions of `path`, oldest first; none if the account is unknown.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError>;

    /// The primaries of at most `limit` accounts that come after `after`, in the order of [`KeyPath::as_bytes`].
    ///
    /// # Errors
    /// [`StoreError`].
    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError>;
}

/// What became of a [`KekStore::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The record is stored and is the account's primary.
    Created,
    /// The account had a KEK already; nothing was written.
    Exists,
}

/// What became of a [`KekStore::rotate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The record is stored and is the account's primary.
    Rotated,
    /// `previous` is not the account's primary, or not any more; nothing was written.
    Superseded,
}

/// Why a store did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached, is busy, full or read-only. Trying later may help.
    #[error("the KEK store is unavailable: {message}")]
    Unavailable {
        /// What happened and what to do.
        message: String,
        /// What the store's client said.
        #[source]
        source: Option<Cause>,
    },
    /// What is there is not a KEK store that this release can use. Trying again does not help.
    #[error("the KEK store cannot be used: {message}")]
    Incompatible {
        /// What happened and what to do.
        message: String,
        /// What the store's client said.
        #[source]
        source: Option<Cause>,
    },
    /// A stored record is not what it should be. Restore it from a backup.
    #[error("the KEK store holds a broken record of account {path}: restore it from a backup")]
    Corrupt {
        /// Whose record.
        path: KeyPath,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
}

impl StoreError {
    /// [`StoreError::Unavailable`] with its cause.
    pub fn unavailable(message: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { message: message.into(), source: Some(Arc::new(source)) }
    }

    /// [`StoreError::Incompatible`] without a cause.
    pub fn incompatible(message: impl Into<String>) -> Self {
        Self::Incompatible { message: message.into(), source: None }
    }

    /// [`StoreError::Corrupt`] unless `record` may become a primary: its state says so and it keeps every limit. Gives
    /// its bytes back. What every store checks before it writes.
    ///
    /// # Errors
    /// As said.
    pub fn check_new_primary(record: &KekRecord) -> Result<Vec<u8>, Self> {
        let path = &record.identity.path;
        if record.state != KekState::Primary {
            let error = RecordError::Malformed("a new record of an account must be its primary");
            return Err(Self::corrupt(path, error));
        }
        record.encode().map_err(|error| Self::corrupt(path, error))
    }

    /// [`StoreError::Corrupt`] unless `record` is a later version than the primary `previous` that it replaces.
    ///
    /// # Errors
    /// As said.
    pub fn check_later(previous: &KekRecord, record: &KekRecord) -> Result<(), Self> {
        if record.identity.version > previous.identity.version {
            return Ok(());
        }
        let error = RecordError::Malformed("a new primary must have a greater version than the one it replaces");
        Err(Self::corrupt(&record.identity.path, error))
    }

    /// [`StoreError::Corrupt`] for a record that does not parse.
    pub fn corrupt(path: &KeyPath, source: RecordError) -> Self {
        Self::Corrupt { path: path.clone(), source: Arc::new(source) }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: KekStore + ?Sized> KekStore for Arc<S> {
    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        (**self).record(path, id).await
    }

    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        (**self).primary(path).await
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        (**self).create(record).await
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        (**self).rotate(previous, record).await
    }

    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
        (**self).records(path).await
    }

    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
        (**self).primaries(after, limit).await
    }
}

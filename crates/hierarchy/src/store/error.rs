//! Why a store did not answer, and what may be written to one.

use std::{collections::BTreeSet, sync::Arc};

use keystrata_primitives::{KekId, KekRecord, KekState, KekVersion, KeyPath, RecordError};

use super::{AccountCopy, Tombstone};
use crate::root::Cause;

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
    /// A stored record is of a form that this release does not know. It is not broken: a backup would not help.
    #[error("account {path} has a KEK record that this release does not know: update keystrata")]
    UnknownForm {
        /// Whose record.
        path: KeyPath,
        /// What is not known of it.
        #[source]
        source: Cause,
    },
    /// The account's KEKs were destroyed on purpose, and its path stays out of use. Nothing brings its objects back.
    #[error(
        "account {path} was shredded: its {} KEK(s) were destroyed, its objects cannot be opened by anybody, and its \
         path is not used again", tombstone.keks
    )]
    Shredded {
        /// Whose KEKs.
        path: KeyPath,
        /// When, and how many.
        tombstone: Tombstone,
    },
    /// The KEK is older than its account's versions that may still be used.
    #[error(
        "KEK {kek_id} of account {path} is version {version}, and versions below {min_version} are given up: what is \
         sealed under it was to be rewrapped before"
    )]
    BelowMinVersion {
        /// Whose KEK.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
        /// Its version.
        version: KekVersion,
        /// The lowest that may be used.
        min_version: KekVersion,
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

    /// [`StoreError::Corrupt`] for a record that does not parse.
    pub fn corrupt(path: &KeyPath, source: RecordError) -> Self {
        Self::Corrupt { path: path.clone(), source: Arc::new(source) }
    }

    /// The account whose record cannot be read, if that is what this says. Listing may go on after it.
    pub fn unreadable(&self) -> Option<&KeyPath> {
        match self {
            Self::Corrupt { path, .. } | Self::UnknownForm { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// What every store checks before it writes, and before it gives a record away.
impl StoreError {
    /// [`StoreError::Corrupt`] unless `record` may become a primary: its state says so and it keeps every limit. Gives
    /// its bytes back.
    ///
    /// # Errors
    /// As said.
    pub fn check_new_primary(record: &KekRecord) -> Result<Vec<u8>, Self> {
        let is_primary = record.state == KekState::Primary;
        Self::rule(record, is_primary, "a new record of an account must be its primary")?;
        Self::encoded(record)
    }

    /// [`StoreError::Corrupt`] unless `record` is a later version than the primary `previous` that it replaces. Gives
    /// `previous` back, retired.
    ///
    /// # Errors
    /// As said.
    pub fn check_later(previous: KekRecord, record: &KekRecord) -> Result<KekRecord, Self> {
        let is_later = record.identity.version > previous.identity.version;
        Self::rule(record, is_later, "a new primary must have a greater version than the one it replaces")?;
        Ok(KekRecord { state: KekState::Retired, retired_at: record.created_at, ..previous })
    }

    /// [`StoreError::Corrupt`] unless `new` may take the place of `old`, which is what is stored. `is_primary` says whether
    /// it is the account's primary. Gives the bytes of `new` back.
    ///
    /// Suite, version, id, path, check and time of creation stay. The account's primary changes between primary, retired
    /// (the account opens and does not seal) and disabled, and stays its primary. Any other KEK is retired, disabled or, for
    /// ever, destroyed.
    ///
    /// # Errors
    /// As said.
    pub fn check_update(old: &KekRecord, new: &KekRecord, is_primary: bool) -> Result<Vec<u8>, Self> {
        use KekState::{Destroyed, Disabled, Primary, Retired};
        Self::check_same_kek(old, new)?;
        let may_follow = match (old.state, new.state) {
            (Primary | Retired | Disabled, Primary | Retired | Disabled) if is_primary => true,
            (Retired | Disabled, Retired | Disabled | Destroyed) if !is_primary => true,
            (Destroyed, Destroyed) => old == new,
            _ => false,
        };
        Self::rule(new, may_follow, "its state cannot follow the one that is stored")?;
        Self::encoded(new)
    }

    /// The part of [`check_update`](Self::check_update) that needs no look into the store.
    ///
    /// # Errors
    /// As said there.
    pub fn check_same_kek(old: &KekRecord, new: &KekRecord) -> Result<(), Self> {
        let is_same = old.identity == new.identity && old.check == new.check && old.created_at == new.created_at;
        Self::rule(new, is_same, "an update must keep the identity, the check and the time of creation")
    }

    /// [`StoreError::Corrupt`] unless `copy` is what a store may hold of one path: records of that path alone, in the order
    /// of their versions, each KEK id once; the primary among them and in a state for it, and no other; a floor that is not
    /// above it; and after a shredding, destroyed records and no primary. Gives the records' bytes back.
    ///
    /// # Errors
    /// As said.
    pub fn check_copy(copy: &AccountCopy) -> Result<Vec<Vec<u8>>, Self> {
        let rule = |holds: bool, what| {
            if holds { Ok(()) } else { Err(Self::corrupt(&copy.path, RecordError::Malformed(what))) }
        };
        let records = &copy.records;
        rule(records.iter().all(|record| record.identity.path == copy.path), "a copy holds records of another path")?;
        rule(!records.is_empty() || copy.tombstone.is_some(), "a copy must hold a record")?;
        let is_in_order = records.windows(2).all(|two| two[0].identity.version < two[1].identity.version);
        rule(is_in_order, "the records of a copy must be in the order of their versions, each once")?;
        let ids: BTreeSet<_> = records.iter().map(|record| *record.identity.id.as_bytes()).collect();
        rule(ids.len() == records.len(), "a copy holds a KEK id twice")?;
        let fits = |record: &KekRecord| match record.state {
            KekState::Primary => copy.primary == Some(record.identity.id),
            KekState::Retired | KekState::Disabled => true,
            _ => copy.primary != Some(record.identity.id),
        };
        rule(records.iter().all(fits), "a copy's primary is not the one that its records say")?;
        match (copy.tombstone, copy.primary) {
            (None, Some(id)) => {
                let primary = records.iter().find(|record| record.identity.id == id);
                let is_above = primary.is_some_and(|primary| primary.identity.version >= copy.min_version);
                rule(is_above, "a copy has no record of its primary, or one below its lowest version")?;
            }
            (None, None) => {}
            (Some(tombstone), primary) => {
                let is_destroyed = records.iter().all(|record| record.state == KekState::Destroyed);
                rule(
                    is_destroyed && primary.is_none(),
                    "a copy of a shredded account must hold destroyed records only",
                )?;
                // More than these, if some did not parse when it was shredded.
                let counts = usize::try_from(tombstone.keks).is_ok_and(|keks| keks >= records.len());
                rule(counts, "a tombstone must count its records")?;
            }
        }
        records.iter().map(Self::encoded).collect()
    }

    /// [`StoreError::BelowMinVersion`] unless `record` may be used where `min_version` is the lowest. Gives it back.
    ///
    /// # Errors
    /// As said.
    pub fn check_min_version(record: KekRecord, min_version: KekVersion) -> Result<KekRecord, Self> {
        let identity = &record.identity;
        if identity.version >= min_version {
            return Ok(record);
        }
        let (path, kek_id, version) = (identity.path.clone(), identity.id, identity.version);
        Err(Self::BelowMinVersion { path, kek_id, version, min_version })
    }

    fn encoded(record: &KekRecord) -> Result<Vec<u8>, Self> {
        record.encode().map_err(|error| Self::corrupt(&record.identity.path, error))
    }

    fn rule(record: &KekRecord, holds: bool, what: &'static str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::corrupt(&record.identity.path, RecordError::Malformed(what))) }
    }
}

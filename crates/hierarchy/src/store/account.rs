//! What a store keeps of a path beside its records.

use keystrata_primitives::{KekId, KekRecord, KekState, KekVersion, KeyPath, RootKeyId, Wrapper};

use super::{Raise, StoreError};

/// What stands at the head of a path's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathHead {
    /// Whose it is.
    pub path: KeyPath,
    /// The record that new objects are sealed under, in state primary, retired (it opens and does not seal) or
    /// disabled. `None` if the path is shredded, or if
    /// somebody changed the store by other means.
    pub primary: Option<KekRecord>,
    /// Versions below this one are not used any more; 1 at first.
    pub min_version: KekVersion,
    /// Whether the path was shredded.
    pub tombstone: Option<Tombstone>,
}

/// What is left of a shredded path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// When it was shredded, in seconds since the Unix epoch.
    pub at: u64,
    /// How many KEKs it had, destroyed ones included.
    pub keks: u32,
}

impl PathHead {
    /// The primary, unless it must not be used.
    ///
    /// # Errors
    /// [`StoreError::Shredded`], or [`StoreError::BelowMinVersion`] if the store shows a primary that it had given up.
    pub fn usable_primary(self) -> Result<Option<KekRecord>, StoreError> {
        self.refuse_if_shredded()?;
        match self.primary {
            Some(primary) => StoreError::check_min_version(primary, self.min_version).map(Some),
            None => Ok(None),
        }
    }

    /// Nothing, unless the path is shredded.
    ///
    /// # Errors
    /// [`StoreError::Shredded`].
    pub fn refuse_if_shredded(&self) -> Result<(), StoreError> {
        match self.tombstone {
            Some(tombstone) => Err(StoreError::Shredded { path: self.path.clone(), tombstone }),
            None => Ok(()),
        }
    }

    /// What a [`raise_min_version`](super::KekStore::raise_min_version) to `to` comes to. To be written only if
    /// [`Raise::Raised`].
    pub fn raise(&self, to: KekVersion) -> Raise {
        match &self.primary {
            _ if to <= self.min_version => Raise::Stands,
            Some(primary) if to <= primary.identity.version => Raise::Raised,
            _ => Raise::AbovePrimary,
        }
    }
}

/// All that a store holds of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountCopy {
    /// Whose it is.
    pub path: KeyPath,
    /// All versions, oldest first.
    pub records: Vec<KekRecord>,
    /// Which of them is the primary.
    pub primary: Option<KekId>,
    /// Versions below this one are not used any more.
    pub min_version: KekVersion,
    /// Whether the path was shredded.
    pub tombstone: Option<Tombstone>,
}

impl AccountCopy {
    /// What stands at its head.
    pub fn head(&self) -> PathHead {
        let is_primary = |record: &&KekRecord| Some(record.identity.id) == self.primary;
        PathHead {
            path: self.path.clone(),
            primary: self.records.iter().find(is_primary).cloned(),
            min_version: self.min_version,
            tombstone: self.tombstone,
        }
    }

    /// What a shredding at the time `at` leaves of it.
    pub fn shredded(self, at: u64) -> Self {
        let tombstone = Tombstone { at, keks: u32::try_from(self.records.len()).unwrap_or(u32::MAX) };
        let destroy = |record| KekRecord { state: KekState::Destroyed, wraps: Vec::new(), ..record };
        let records = self.records.into_iter().map(destroy).collect();
        Self { records, primary: None, tombstone: Some(tombstone), ..self }
    }
}

/// What wraps the records that [`KekStore::by_wrapper`](super::KekStore::by_wrapper) lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WrapperQuery {
    /// This root key.
    Root(RootKeyId),
    /// This KEK of this path.
    Kek {
        /// Whose KEK it is.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
    },
    /// Any KEK of this path.
    Path(KeyPath),
}

impl WrapperQuery {
    /// Whether `record` has a wrap that is asked for.
    pub fn matches(&self, record: &KekRecord) -> bool {
        record.wraps.iter().any(|wrap| Self::all_of(&wrap.wrapper).contains(self))
    }

    /// Every query that finds a record with a wrap by `wrapper`: what a store indexes the record by.
    pub fn all_of(wrapper: &Wrapper) -> Vec<Self> {
        match wrapper {
            Wrapper::Root(id) => vec![Self::Root(id.clone())],
            Wrapper::Parent { path, kek_id } => {
                vec![Self::Kek { path: path.clone(), kek_id: *kek_id }, Self::Path(path.clone())]
            }
            // A kind that this release does not know is not parsed either.
            _ => Vec::new(),
        }
    }

    /// `1 ‖ root key id`, `2 ‖ path ‖ KEK id` or `3 ‖ path`: bytes to index by, no two queries' the same.
    pub fn as_index_key(&self) -> Vec<u8> {
        match self {
            Self::Root(id) => [&[1], id.as_str().as_bytes()].concat(),
            Self::Kek { path, kek_id } => [&[2], path.as_bytes(), &kek_id.as_bytes()[..]].concat(),
            Self::Path(path) => [&[3], path.as_bytes()].concat(),
        }
    }
}

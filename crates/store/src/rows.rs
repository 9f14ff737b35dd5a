//! What a row must hold before it is believed, whatever the database.
//!
//! The columns beside a record are copies of its fields that a database finds it by. They are compared with it whenever it
//! is read: who can write the database cannot pass one record off as another.

use std::sync::Arc;

use keystrata_hierarchy::{AccountCopy, KekId, KekRecord, KekVersion, KeyPath, PathHead, StoreError, Tombstone};
use keystrata_primitives::RecordError;

/// A row of the table `account`: the head of a path.
pub(crate) struct RawAccount<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) primary_id: Option<&'a [u8]>,
    pub(crate) min_version: i64,
    /// An unsigned number in a signed column.
    pub(crate) shredded_at: Option<i64>,
    pub(crate) shredded_keks: Option<i64>,
}

/// The same, believed.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) path: KeyPath,
    pub(crate) primary: Option<KekId>,
    pub(crate) min_version: KekVersion,
    pub(crate) tombstone: Option<Tombstone>,
}

impl RawAccount<'_> {
    pub(crate) fn read(self) -> Result<Account, StoreError> {
        let path = read_path(self.path)?;
        let broken = |what| Misplaced(what).of(path.clone());
        let primary = match self.primary_id {
            Some(id) => Some(KekId::from_bytes(id.try_into().map_err(|_| broken("primary"))?)),
            None => None,
        };
        let min_version = u32::try_from(self.min_version).ok().and_then(KekVersion::new);
        let min_version = min_version.ok_or_else(|| broken("lowest version"))?;
        let tombstone = match (self.shredded_at, self.shredded_keks.map(u32::try_from)) {
            (Some(at), Some(Ok(keks))) => Some(Tombstone { at: at.cast_unsigned(), keks }),
            (None, None) => None,
            _ => return Err(broken("tombstone")),
        };
        Ok(Account { path, primary, min_version, tombstone })
    }
}

impl Account {
    /// [`StoreError::Shredded`] if it is.
    pub(crate) fn refuse_if_shredded(&self) -> Result<(), StoreError> {
        match self.tombstone {
            Some(tombstone) => Err(StoreError::Shredded { path: self.path.clone(), tombstone }),
            None => Ok(()),
        }
    }

    /// `primary` is in the row that the account's primary is found by.
    pub(crate) fn head(self, primary: RawRecord<'_>) -> Result<PathHead, StoreError> {
        let primary = self.primary.map(|_| primary.read(self.path.clone())).transpose()?;
        Ok(PathHead { path: self.path, primary, min_version: self.min_version, tombstone: self.tombstone })
    }

    /// `record` is in the row of the KEK that was asked for, if there is one.
    pub(crate) fn usable(self, record: RawRecord<'_>) -> Result<Option<KekRecord>, StoreError> {
        self.refuse_if_shredded()?;
        if record.kek_id.is_none() {
            return Ok(None);
        }
        StoreError::check_min_version(record.read(self.path)?, self.min_version).map(Some)
    }

    pub(crate) fn copy(self, records: Vec<KekRecord>) -> AccountCopy {
        let Self { path, primary, min_version, tombstone } = self;
        AccountCopy { path, records, primary, min_version, tombstone }
    }
}

/// The columns of the table `kek` beside the path, all absent where a join found no row.
pub(crate) struct RawRecord<'a> {
    pub(crate) kek_id: Option<&'a [u8]>,
    pub(crate) version: Option<i64>,
    pub(crate) state: Option<i64>,
    pub(crate) record: Option<&'a [u8]>,
}

impl RawRecord<'_> {
    /// The record, if it is the one that the columns announce.
    pub(crate) fn read(self, path: KeyPath) -> Result<KekRecord, StoreError> {
        let Some(bytes) = self.record else { return Err(Misplaced("existence").of(path)) };
        let record = KekRecord::parse(bytes).map_err(|error| not_a_record(&path, error))?;
        let identity = &record.identity;
        let differs = if identity.path != path {
            Some("account path")
        } else if Some(&identity.id.as_bytes()[..]) != self.kek_id {
            Some("KEK id")
        } else if Some(i64::from(identity.version.get())) != self.version {
            Some("version")
        } else if Some(record.state as i64) != self.state {
            Some("state")
        } else {
            None
        };
        match differs {
            None => Ok(record),
            Some(field) => Err(Misplaced(field).of(path)),
        }
    }
}

/// Why the columns of a row and the record in it cannot both be right.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the record is not the one that its row is found by: its {0} differs")]
pub(crate) struct Misplaced(pub(crate) &'static str);

impl Misplaced {
    pub(crate) fn of(self, path: KeyPath) -> StoreError {
        StoreError::Corrupt { path, source: Arc::new(self) }
    }
}

pub(crate) fn read_path(bytes: &[u8]) -> Result<KeyPath, StoreError> {
    KeyPath::from_bytes(bytes).map_err(|error| StoreError::Incompatible {
        message: "a row has an account path that is none: restore the database from a backup".into(),
        source: Some(Arc::new(error)),
    })
}

fn not_a_record(path: &KeyPath, error: RecordError) -> StoreError {
    match error {
        RecordError::UnknownVersion(_)
        | RecordError::UnknownSuite(_)
        | RecordError::UnknownState(_)
        | RecordError::UnknownWrapper(_) => StoreError::UnknownForm { path: path.clone(), source: Arc::new(error) },
        _ => StoreError::corrupt(path, error),
    }
}

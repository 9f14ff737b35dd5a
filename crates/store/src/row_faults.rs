//! What can be wrong with a row that a database gives, whatever the database.

use std::sync::Arc;

use keystrata_hierarchy::{KeyPath, PathError, StoreError};
use keystrata_primitives::RecordError;

/// Why the columns of a row and the record in it cannot both be right.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the record is not the one that its row is found by: its {0} differs")]
pub(crate) struct Misplaced(pub(crate) &'static str);

impl Misplaced {
    pub(crate) fn of(self, path: KeyPath) -> StoreError {
        StoreError::Corrupt { path, source: Arc::new(self) }
    }
}

pub(crate) fn not_a_path(error: PathError) -> StoreError {
    StoreError::Incompatible {
        message: "a row has an account path that is none: restore the database from a backup".into(),
        source: Some(Arc::new(error)),
    }
}

pub(crate) fn not_a_record(path: &KeyPath, error: RecordError) -> StoreError {
    match error {
        // Not broken: a backup would not help.
        RecordError::UnknownVersion(_)
        | RecordError::UnknownSuite(_)
        | RecordError::UnknownState(_)
        | RecordError::UnknownWrapper(_) => StoreError::Incompatible {
            message: format!("account {path} has a KEK record that this release does not know: update keystrata"),
            source: Some(Arc::new(error)),
        },
        _ => StoreError::corrupt(path, error),
    }
}

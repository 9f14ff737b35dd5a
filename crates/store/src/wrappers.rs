//! What records are found by when they are asked for by what wraps them.

use std::collections::BTreeSet;

use keystrata_hierarchy::{KekRecord, WrapperQuery};
use sha2::{Digest, Sha256};

/// The SHA-256 of a query's bytes: what wraps a record may have a name of two kilobytes, and a database limits what it
/// indexes. An operator's tool can compute it too.
pub(crate) type IndexKey = [u8; 32];

pub(crate) fn index_key(query: &WrapperQuery) -> IndexKey {
    Sha256::digest(query.as_index_key()).into()
}

/// The keys that `record` is found by, each once.
pub(crate) fn index_keys(record: &KekRecord) -> BTreeSet<IndexKey> {
    record.wraps.iter().flat_map(|wrap| WrapperQuery::all_of(&wrap.wrapper)).map(|query| index_key(&query)).collect()
}

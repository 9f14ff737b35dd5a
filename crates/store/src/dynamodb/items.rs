//! What the items hold besides their keys, and what must hold of them before they are believed.

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use keystrata_hierarchy::{KekId, KekRecord, KekState, KeyPath, PathHead, StoreError, Tombstone};
use sha2::{Digest, Sha256};

use super::keys::{Key, hex};
use crate::rows::{Account, Misplaced, RawAccount, RawRecord};

pub(super) type Item = HashMap<String, AttributeValue>;

/// A fresh random name: of a state of an account, or of an account's life.
pub(super) fn random_name() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    keystrata_memory::random::fill(&mut bytes)
        .map_err(|error| StoreError::unavailable("the operating system gives no random bytes", error))?;
    Ok(hex(&bytes))
}

/// The attribute that conditions are about.
const REVISION: &str = "rev";
const EARLIER: &str = "earlier";
const HISTORY: usize = 6;

/// The head of a path, with the record of its primary. Each change of the account gives it a new revision, on condition that
/// it still has the one that the change began with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) account: Account,
    pub(super) revision: String,
    /// Those that it had before, newest first, [`HISTORY`] at most: whoever got no answer finds his own there, or the one
    /// that another change replaced before him.
    earlier: Vec<String>,
    /// Fixed when the account is made. The KEKs beside the primary are stored under it, so that what a creation or an import
    /// left behind that came to nothing is never taken for them.
    pub(super) life: String,
    /// Of the records beside the primary's.
    pub(super) others: SetHash,
    primary: Option<Stored>,
}

impl Head {
    /// Of an account that is new.
    pub(super) fn new(account: Account, primary: Option<Stored>) -> Result<Self, StoreError> {
        let (revision, life) = (random_name()?, random_name()?);
        Ok(Self { account, revision, earlier: Vec::new(), life, others: SetHash::default(), primary })
    }

    /// The same account after a change.
    pub(super) fn changed(&self) -> Result<Self, StoreError> {
        let earlier = std::iter::once(&self.revision).chain(&self.earlier).take(HISTORY).cloned().collect();
        Ok(Self { revision: random_name()?, earlier, ..self.clone() })
    }

    pub(super) fn with_primary(mut self, primary: Option<Stored>) -> Self {
        self.account.primary = primary.as_ref().and_then(Stored::kek_id);
        Self { primary, ..self }
    }

    pub(super) fn read(path: &KeyPath, item: &Item) -> Result<Self, StoreError> {
        let broken = |what| Misplaced(what).of(path.clone());
        let name = |what: &'static str| item.get(what)?.as_s().ok().filter(|name| !name.is_empty()).cloned();
        let primary = Stored::read(item);
        let account = RawAccount {
            path: path.as_bytes(),
            primary_id: primary.as_ref().map(|stored| stored.id.as_slice()),
            min_version: number(item, "min_version").ok_or_else(|| broken("lowest version"))?,
            // As the other databases keep an unsigned number.
            shredded_at: unsigned(item, "shredded_at").map(u64::cast_signed),
            shredded_keks: number(item, "shredded_keks"),
        }
        .read()?;
        if account.tombstone.is_some() && primary.is_some() {
            return Err(broken("tombstone"));
        }
        Ok(Self {
            account,
            revision: name(REVISION).ok_or_else(|| broken("revision"))?,
            earlier: name(EARLIER).map(|names| names.split(' ').map(str::to_owned).collect()).unwrap_or_default(),
            life: name("life").ok_or_else(|| broken("life"))?,
            others: SetHash::read(item).ok_or_else(|| broken("hash of the other records"))?,
            primary,
        })
    }

    pub(super) fn item(&self) -> Item {
        let mut item = keyed(&Key::head(&self.account.path));
        item.insert(REVISION.into(), AttributeValue::S(self.revision.clone()));
        if !self.earlier.is_empty() {
            item.insert(EARLIER.into(), AttributeValue::S(self.earlier.join(" ")));
        }
        item.insert("life".into(), AttributeValue::S(self.life.clone()));
        item.insert("others".into(), AttributeValue::B(Blob::new(self.others.0)));
        item.insert("min_version".into(), AttributeValue::N(self.account.min_version.to_string()));
        if let Some(primary) = &self.primary {
            primary.write(&mut item);
        }
        if let Some(Tombstone { at, keks }) = self.account.tombstone {
            item.insert("shredded_at".into(), AttributeValue::N(at.to_string()));
            item.insert("shredded_keks".into(), AttributeValue::N(keks.to_string()));
        }
        item
    }

    /// What became of a change that was to give an account the revision `own` in place of `base`, by the account's head now;
    /// `None` if that does not tell.
    pub(super) fn was_changed(&self, own: &str, base: Option<&str>) -> Option<bool> {
        let mut all = std::iter::once(&self.revision).chain(&self.earlier);
        if all.clone().any(|revision| revision == own) {
            return Some(true);
        }
        let came_first = match base {
            Some(base) => all.skip(1).any(|revision| revision == base),
            None => all.nth(HISTORY).is_none(),
        };
        came_first.then_some(false)
    }

    /// The primary as it is stored, if there is a primary.
    pub(super) fn primary(&self) -> Option<&Stored> {
        self.primary.as_ref()
    }

    pub(super) fn path_head(self) -> Result<PathHead, StoreError> {
        self.account.head(Stored::raw(self.primary.as_ref()))
    }

    /// `stored` is the KEK that was asked for, if there is one.
    pub(super) fn usable(self, stored: Option<&Stored>) -> Result<Option<KekRecord>, StoreError> {
        self.account.usable(Stored::raw(stored))
    }
}

/// A record as it is stored, not yet believed.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    id: Vec<u8>,
    version: Option<i64>,
    state: Option<i64>,
    record: Option<Vec<u8>>,
}

impl Stored {
    /// `bytes` are the record's.
    pub(super) fn new(record: &KekRecord, bytes: Vec<u8>) -> Self {
        Self {
            id: record.identity.id.as_bytes().to_vec(),
            version: Some(i64::from(record.identity.version.get())),
            state: Some(record.state as i64),
            record: Some(bytes),
        }
    }

    /// What is left of `record` when it is destroyed.
    pub(super) fn destroyed(record: KekRecord) -> Result<Self, StoreError> {
        let destroyed = KekRecord { state: KekState::Destroyed, wraps: Vec::new(), ..record };
        let bytes = destroyed.encode().map_err(|error| StoreError::corrupt(&destroyed.identity.path, error))?;
        Ok(Self::new(&destroyed, bytes))
    }

    /// `None` if the item is about no KEK.
    pub(super) fn read(item: &Item) -> Option<Self> {
        let bytes = |name| item.get(name)?.as_b().ok().map(|blob| blob.as_ref().to_vec());
        let id = bytes("kek_id")?;
        Some(Self { id, version: number(item, "version"), state: number(item, "state"), record: bytes("record") })
    }

    pub(super) fn kek_id(&self) -> Option<KekId> {
        self.id.as_slice().try_into().ok().map(KekId::from_bytes)
    }

    /// The columns of no row, if there is none.
    fn raw(stored: Option<&Self>) -> RawRecord<'_> {
        RawRecord {
            kek_id: stored.map(|stored| stored.id.as_slice()),
            version: stored.and_then(|stored| stored.version),
            state: stored.and_then(|stored| stored.state),
            record: stored.and_then(|stored| stored.record.as_deref()),
        }
    }

    pub(super) fn record(&self, path: &KeyPath) -> Result<KekRecord, StoreError> {
        Self::raw(Some(self)).read(path.clone())
    }

    fn write(&self, item: &mut Item) {
        item.insert("kek_id".into(), AttributeValue::B(Blob::new(self.id.clone())));
        for (name, value) in [("version", self.version), ("state", self.state)] {
            item.extend(value.map(|value| (name.to_owned(), AttributeValue::N(value.to_string()))));
        }
        item.extend(self.record.clone().map(|bytes| ("record".to_owned(), AttributeValue::B(Blob::new(bytes)))));
    }

    /// The item of a KEK that is not the primary.
    pub(super) fn item(&self, key: &Key) -> Item {
        let mut item = keyed(key);
        self.write(&mut item);
        item
    }
}

/// The records beside the primary's as a set: what they hash to, by exclusive or.
///
/// A query is not one moment: it may meet one item before a transaction and the next after it. With this in the head it is
/// seen. Against chance only: whoever can write the table can write this too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SetHash([u8; 32]);

impl SetHash {
    /// Puts a record in, or takes it out again.
    pub(super) fn toggle(&mut self, stored: &Stored) {
        let hash = Sha256::new().chain_update(&stored.id).chain_update(stored.record.as_deref().unwrap_or_default());
        for (own, other) in self.0.iter_mut().zip(hash.finalize()) {
            *own ^= other;
        }
    }

    fn read(item: &Item) -> Option<Self> {
        item.get("others")?.as_b().ok()?.as_ref().try_into().ok().map(Self)
    }
}

pub(super) fn keyed(key: &Key) -> Item {
    [("pk", &key.pk), ("sk", &key.sk)].map(|(name, value)| (name.into(), AttributeValue::S(value.clone()))).into()
}

pub(super) fn key_of(item: &Item) -> Option<Key> {
    let text = |name| item.get(name)?.as_s().ok();
    Some(Key::new(text("pk")?, text("sk")?))
}

pub(super) fn number(item: &Item, name: &str) -> Option<i64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

fn unsigned(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

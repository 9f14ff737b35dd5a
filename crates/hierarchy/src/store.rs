//! The seam to the store: where KEK records rest.

mod account;
mod check;
mod copy;
mod error;
mod memory;
mod unwrap_all;
mod walk;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use keystrata_primitives::{KekId, KekRecord, KekVersion, KeyPath};

pub use self::{
    account::{AccountCopy, PathHead, Tombstone, WrapperQuery},
    check::{CheckEvent, CheckReport, Fault, Finding, check_store},
    copy::{CopyError, CopyEvent, CopyMode, CopyReport, copy_store},
    error::StoreError,
    memory::MemoryKekStore,
    unwrap_all::{UnwrapAllError, UnwrapReport, Unwrapping, unwrap_all},
    walk::{Accounts, Heads, Unreadable, WrappedBy},
};

/// Durable storage of [KEK records](KekRecord), and of nothing else.
///
/// Losing a store loses every object sealed under its KEKs. Reads are strongly consistent: they see every write that
/// was answered before they began, by whatever process. What a store returns is not trusted: the engine checks that a
/// record is the one it asked for, and the KEK's check decides the rest.
///
/// Beside the records of a path a store keeps three things, its [`PathHead`]: which record is the primary, under which
/// version nothing opens any more, and whether the path was shredded. A shredded path stays so: whatever would use or
/// change it answers [`StoreError::Shredded`], and nothing is written.
///
/// Every write is one transaction and durable when it returns: a loss of power afterwards does not take it back. After a
/// [`StoreError::Unavailable`] its outcome is unknown, since the answer may be what was lost: read again before trying
/// again. What may be written is decided in one place for all stores, the `check_` functions of [`StoreError`] and
/// [`PathHead::raise`].
#[async_trait]
pub trait KekStore: fmt::Debug + Send + Sync {
    /// What the store keeps of `path` as a whole, with the record that new objects are sealed under; `None` if the path is
    /// unknown. Of a shredded path too.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError>;

    /// The record of one KEK of `path`, to be opened with; `None` if there is none.
    ///
    /// # Errors
    /// - [`StoreError::Shredded`]: whatever the id; no KEK of the path is left.
    /// - [`StoreError::BelowMinVersion`]: the KEK is there and must not be used any more.
    /// - Any other [`StoreError`]; a KEK that is not there is not an error.
    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError>;

    /// All that the store holds of `path`, as of one moment; `None` if the path is unknown. For administration: it has
    /// records that must not be used, and those that a shredding left behind.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError>;

    /// Stores `record` as the primary of an account that has no KEK yet.
    ///
    /// Of any number of callers at once, in any number of processes, one gets [`Creation::Created`].
    ///
    /// # Errors
    /// - [`StoreError::Corrupt`]: the record is not in state primary or breaks a limit; nothing is stored.
    /// - [`StoreError::Shredded`]: the path had KEKs once; nothing is stored.
    /// - After any other [`StoreError`] look for the record's KEK id before trying again.
    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError>;

    /// Makes `record` the primary of its account in place of `previous`, which stays as a retired KEK whose `retired_at` is
    /// the new record's `created_at`. A primary that is retired or disabled is not replaced: that would enable the account.
    ///
    /// Of any number of callers at once that name the same `previous`, in any number of processes, one gets
    /// [`Rotation::Rotated`].
    ///
    /// # Errors
    /// - [`StoreError::Corrupt`]: the record is not in state primary, breaks a limit, or its version is not greater than the
    ///   primary's; nothing is stored.
    /// - [`StoreError::Shredded`]: nothing is stored.
    /// - After any other [`StoreError`] look for the record's KEK id before trying again.
    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError>;

    /// Puts `new` in place of `expected`, a record of the same KEK, if what is stored is exactly `expected`. May change the
    /// state, `retired_at` and the wraps, within [`StoreError::check_update`].
    ///
    /// # Errors
    /// - [`StoreError::Corrupt`]: the change is not one that may be made; nothing is stored.
    /// - [`StoreError::Shredded`]: nothing is stored.
    /// - After any other [`StoreError`] read the record before trying again.
    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError>;

    /// Makes `to` the lowest version of `path` that [`record`](Self::record) and [`primary`](Self::primary) still give. Never
    /// lowers it, and never lifts it above the primary, without which nothing could be sealed.
    ///
    /// # Errors
    /// [`StoreError::Shredded`], or any other [`StoreError`]. Asking again does no harm.
    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError>;

    /// Destroys every wrapped secret of `path` for ever, and leaves a tombstone of time `at` (seconds since the Unix epoch)
    /// that keeps the path from being used again. The records stay in state destroyed, so that their ids are still known.
    ///
    /// What it cannot reach: KEKs in the memory of processes, for as long as these may live; backups of the store; and
    /// what the store's own documentation says of its logs and of freed space.
    ///
    /// # Errors
    /// [`StoreError`]. Asking again does no harm.
    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError>;

    /// Stores an account as another store had it, tombstone and all, if nothing is here of its path.
    ///
    /// # Errors
    /// - [`StoreError::Corrupt`]: the copy breaks a rule of [`StoreError::check_copy`]; nothing is stored.
    /// - Any other [`StoreError`]. Asking again does no harm.
    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError>;

    /// At most `limit` paths that come after `after`, in the order of [`KeyPath::as_bytes`], shredded ones among them.
    ///
    /// # Errors
    /// [`StoreError`]. One that names an [unreadable](StoreError::unreadable) account stops the page there: ask for what
    /// is before it with a smaller limit, then go on after it, or let [`Heads`] do so.
    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError>;

    /// At most `limit` records that have a wrap by `wrapper` and come after the KEK `after`, in the order of
    /// [`KeyPath::as_bytes`] and KEK id, whatever their state. Between pages a record that changes may come or go; one that
    /// has such a wrap all the while is not missed.
    ///
    /// # Errors
    /// As [`accounts`](Self::accounts).
    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError>;

    /// The record of the KEK that new objects of `path` are sealed under; `None` if the account has no KEK. It may be
    /// retired, and then opens only, or disabled: its state says so.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        let Some(head) = self.head(path).await? else { return Ok(None) };
        head.usable_primary()
    }

    /// All KEK versions of `path`, oldest first; none if the path is unknown. Of a shredded path those that it had.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
        Ok(self.export(path).await?.map(|copy| copy.records).unwrap_or_default())
    }

    /// The primaries of at most `limit` accounts that come after `after`, in the order of [`KeyPath::as_bytes`]. Shredded
    /// paths are passed over.
    ///
    /// # Errors
    /// As [`accounts`](Self::accounts).
    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
        let mut primaries = Vec::new();
        let mut after = after.cloned();
        while primaries.len() < limit {
            let page = self.accounts(after.as_ref(), (limit - primaries.len()).min(PAGE)).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.path.clone());
            primaries.extend(page.into_iter().filter_map(|head| head.primary));
        }
        Ok(primaries)
    }
}

/// Accounts asked for at a time where the caller has set no limit. A record is at most 128 KiB and usually 300 bytes.
const PAGE: usize = 1000;

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
    /// `previous` is not the account's primary, or not any more, or is not in state primary; nothing was written.
    Superseded,
}

/// What became of a [`KekStore::update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// The new record is stored.
    Updated,
    /// What is stored is not the expected record, if anything is; nothing was written. Read it again.
    Changed,
}

/// What became of a [`KekStore::raise_min_version`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raise {
    /// Versions below the one given are not used any more.
    Raised,
    /// They were not before either; nothing was written.
    Stands,
    /// The path has no primary of that version or a later one; nothing was written.
    AbovePrimary,
}

/// What became of a [`KekStore::shred`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shred {
    /// No wrapped secret of the path is left, by this call.
    Shredded(Tombstone),
    /// By an earlier one, of which this is the tombstone; nothing was written.
    Already(Tombstone),
    /// The path is unknown; nothing was written, so that a slip of the pen takes no path out of use for ever.
    Unknown,
}

/// What became of a [`KekStore::import`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// The account is stored.
    Imported,
    /// It was there already, with the same content; nothing was written.
    Same,
    /// Something else is there under its path; nothing was written.
    Differs,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: KekStore + ?Sized> KekStore for Arc<S> {
    async fn head(&self, path: &KeyPath) -> Result<Option<PathHead>, StoreError> {
        (**self).head(path).await
    }

    async fn record(&self, path: &KeyPath, id: KekId) -> Result<Option<KekRecord>, StoreError> {
        (**self).record(path, id).await
    }

    async fn export(&self, path: &KeyPath) -> Result<Option<AccountCopy>, StoreError> {
        (**self).export(path).await
    }

    async fn create(&self, record: &KekRecord) -> Result<Creation, StoreError> {
        (**self).create(record).await
    }

    async fn rotate(&self, previous: KekId, record: &KekRecord) -> Result<Rotation, StoreError> {
        (**self).rotate(previous, record).await
    }

    async fn update(&self, expected: &KekRecord, new: &KekRecord) -> Result<Update, StoreError> {
        (**self).update(expected, new).await
    }

    async fn raise_min_version(&self, path: &KeyPath, to: KekVersion) -> Result<Raise, StoreError> {
        (**self).raise_min_version(path, to).await
    }

    async fn shred(&self, path: &KeyPath, at: u64) -> Result<Shred, StoreError> {
        (**self).shred(path, at).await
    }

    async fn import(&self, copy: &AccountCopy) -> Result<Import, StoreError> {
        (**self).import(copy).await
    }

    async fn accounts(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<PathHead>, StoreError> {
        (**self).accounts(after, limit).await
    }

    async fn by_wrapper(
        &self,
        wrapper: &WrapperQuery,
        after: Option<(&KeyPath, KekId)>,
        limit: usize,
    ) -> Result<Vec<KekRecord>, StoreError> {
        (**self).by_wrapper(wrapper, after, limit).await
    }

    async fn primary(&self, path: &KeyPath) -> Result<Option<KekRecord>, StoreError> {
        (**self).primary(path).await
    }

    async fn records(&self, path: &KeyPath) -> Result<Vec<KekRecord>, StoreError> {
        (**self).records(path).await
    }

    async fn primaries(&self, after: Option<&KeyPath>, limit: usize) -> Result<Vec<KekRecord>, StoreError> {
        (**self).primaries(after, limit).await
    }
}

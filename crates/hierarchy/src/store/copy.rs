//! All of one store into another.

use std::sync::Arc;

use keystrata_primitives::KeyPath;

use super::{AccountCopy, Accounts, Import, KekStore, StoreError, Unreadable};

/// Whether anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// What is missing is written and read back.
    Write,
    /// It is only told what would be written.
    DryRun,
}

/// What became of one account.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CopyEvent {
    /// It is written and was read back the same; in a [dry run](CopyMode::DryRun), it would be written.
    Copied(KeyPath),
    /// It was there already, with the same content.
    Same(KeyPath),
    /// Something else is there under its path, and stays.
    Differs(KeyPath),
    /// It was not copied: the one store cannot give it, or the other may not take it.
    Failed(KeyPath, StoreError),
}

/// How many accounts came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyReport {
    /// All of them, shredded ones included.
    pub accounts: u64,
    /// Those that were written, or would be.
    pub copied: u64,
    /// Those that were there.
    pub same: u64,
    /// Those under whose path something else is.
    pub differ: u64,
    /// Those that could not be copied.
    pub failed: u64,
}

/// Which store failed, for a reason that is not one account's. Copying again goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The one that is read.
    #[error("the store that is copied from failed")]
    From(#[source] StoreError),
    /// The one that is written.
    #[error("the store that is copied to failed")]
    To(#[source] StoreError),
}

/// Copies every account of `from` to `to`: all KEK versions, which is the primary, the lowest version that is used, and the
/// tombstones. Nothing that is in `to` is changed, and no root key is asked.
///
/// Each account is written in one transaction and read back. A copy that was interrupted, by a kill or a loss of power too,
/// is taken up by copying again. What changes in `from` after it was read is not carried over, and makes the account *differ*
/// if it is copied again: stop what creates, rotates, rewraps or shreds first, and know that a copy was whole when another
/// run finds every account the same. Memory does not grow with the number of accounts.
///
/// # Errors
/// [`CopyError`]; what was copied until then stays.
///
/// # Cancellation
/// Dropping the future ends the copy between two accounts; a write under way is made whole or not at all.
pub async fn copy_store(
    from: &Arc<dyn KekStore>,
    to: &dyn KekStore,
    mode: CopyMode,
    mut on_event: impl FnMut(CopyEvent),
) -> Result<CopyReport, CopyError> {
    let mut report = CopyReport::default();
    let mut accounts = Accounts::new(Arc::clone(from), None);
    while let Some(account) = accounts.next().await.map_err(CopyError::From)? {
        let event = match account {
            Ok(copy) => match copy_account(&copy, to, mode).await {
                Ok(event) => event,
                Err(error) if error.unreadable().is_some() => CopyEvent::Failed(copy.path, error),
                Err(error) => return Err(CopyError::To(error)),
            },
            Err(Unreadable { path, error }) => CopyEvent::Failed(path, error),
        };
        report.accounts += 1;
        match &event {
            CopyEvent::Copied(_) => report.copied += 1,
            CopyEvent::Same(_) => report.same += 1,
            CopyEvent::Differs(_) => report.differ += 1,
            CopyEvent::Failed(..) => report.failed += 1,
        }
        on_event(event);
    }
    Ok(report)
}

async fn copy_account(copy: &AccountCopy, to: &dyn KekStore, mode: CopyMode) -> Result<CopyEvent, StoreError> {
    let path = copy.path.clone();
    let import = match mode {
        CopyMode::Write => to.import(copy).await?,
        CopyMode::DryRun => {
            StoreError::check_copy(copy)?;
            match to.export(&path).await? {
                None => Import::Imported,
                Some(there) if there == *copy => Import::Same,
                Some(_) => Import::Differs,
            }
        }
    };
    Ok(match (import, mode) {
        (Import::Same, _) => CopyEvent::Same(path),
        (Import::Imported, CopyMode::DryRun) => CopyEvent::Copied(path),
        // What was answered is not what counts.
        (Import::Imported, CopyMode::Write) if to.export(&path).await?.as_ref() == Some(copy) => {
            CopyEvent::Copied(path)
        }
        (Import::Imported | Import::Differs, _) => CopyEvent::Differs(path),
    })
}

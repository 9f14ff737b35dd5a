//! All accounts of a store, page by page, however many there are and whatever state they are in.

use std::{collections::VecDeque, fmt, mem, sync::Arc};

use keystrata_primitives::{KekId, KekRecord, KeyPath};
use tokio::task::JoinHandle;

use super::{AccountCopy, KekStore, PathHead, StoreError, WrapperQuery};

/// Heads or records asked for at a time. Either is usually 400 bytes and at most 128 KiB.
const PAGE: usize = 256;

/// Accounts read at once: a round trip each, and all their records in memory.
const AHEAD: usize = 8;

/// An account that the store has and cannot give.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Which.
    pub path: KeyPath,
    /// Why not.
    pub error: StoreError,
}

/// The heads of a store's accounts in the order of [`KeyPath::as_bytes`], shredded ones among them.
///
/// Holds one page in memory. What is written while it runs is seen if it comes after the page at hand. An account that
/// cannot be read is passed over and named.
pub struct Heads {
    store: Arc<dyn KekStore>,
    after: Option<KeyPath>,
    /// How many to ask for: fewer next to an account that cannot be read.
    limit: usize,
    page: VecDeque<PathHead>,
}

impl Heads {
    /// Those after `after`, or all.
    pub fn new(store: Arc<dyn KekStore>, after: Option<KeyPath>) -> Self {
        Self { store, after, limit: PAGE, page: VecDeque::new() }
    }

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// [`StoreError`], if the listing cannot go on. Calling again takes it up where it stopped.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Result<PathHead, Unreadable>>, StoreError> {
        loop {
            if let Some(head) = self.page.pop_front() {
                return Ok(Some(Ok(head)));
            }
            let error = match self.store.accounts(self.after.as_ref(), self.limit).await {
                Ok(page) => {
                    let Some(last) = page.last() else { return Ok(None) };
                    self.go_on_after(last.path.clone())?;
                    self.limit = (2 * self.limit).min(PAGE);
                    self.page = page.into();
                    continue;
                }
                Err(error) => error,
            };
            let Some(path) = error.unreadable().cloned() else { return Err(error) };
            if self.limit == 1 {
                self.go_on_after(path.clone())?;
                return Ok(Some(Err(Unreadable { path, error })));
            }
            // Accounts before it may be in the page that was asked for.
            self.limit = (self.limit / 4).max(1);
        }
    }

    /// A store that answers in another order would be listed for ever.
    fn go_on_after(&mut self, path: KeyPath) -> Result<(), StoreError> {
        if self.after.as_ref().is_some_and(|after| path <= *after) {
            return Err(out_of_order(&path));
        }
        self.after = Some(path);
        Ok(())
    }
}

impl fmt::Debug for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heads").field("after", &self.after).finish_non_exhaustive()
    }
}

fn out_of_order(path: &KeyPath) -> StoreError {
    StoreError::incompatible(format!("it lists account {path} out of order"))
}

/// The records that something wraps, whatever their state, in the order of [`KekStore::by_wrapper`].
///
/// Holds one page in memory. An account that cannot be read is passed over, with all its records that would come after that, and named.
pub struct WrappedBy {
    store: Arc<dyn KekStore>,
    wrapper: WrapperQuery,
    after: Option<(KeyPath, KekId)>,
    limit: usize,
    page: VecDeque<KekRecord>,
}

impl WrappedBy {
    /// All of them.
    pub fn new(store: Arc<dyn KekStore>, wrapper: WrapperQuery) -> Self {
        Self { store, wrapper, after: None, limit: PAGE, page: VecDeque::new() }
    }

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// As [`Heads::next`].
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Result<KekRecord, Unreadable>>, StoreError> {
        const LAST: KekId = KekId::from_bytes([0xff; KekId::LEN]);
        loop {
            if let Some(record) = self.page.pop_front() {
                return Ok(Some(Ok(record)));
            }
            let after = self.after.as_ref().map(|(path, id)| (path, *id));
            let error = match self.store.by_wrapper(&self.wrapper, after, self.limit).await {
                Ok(page) => {
                    let Some(last) = page.last() else { return Ok(None) };
                    self.go_on_after(last.identity.path.clone(), last.identity.id)?;
                    self.limit = (2 * self.limit).min(PAGE);
                    self.page = page.into();
                    continue;
                }
                Err(error) => error,
            };
            let Some(path) = error.unreadable().cloned() else { return Err(error) };
            if self.limit == 1 {
                self.go_on_after(path.clone(), LAST)?;
                return Ok(Some(Err(Unreadable { path, error })));
            }
            self.limit = (self.limit / 4).max(1);
        }
    }

    fn go_on_after(&mut self, path: KeyPath, id: KekId) -> Result<(), StoreError> {
        let is_later = |(after, after_id): &(KeyPath, KekId)| (&path, id.as_bytes()) > (after, after_id.as_bytes());
        if !self.after.as_ref().is_none_or(is_later) {
            return Err(out_of_order(&path));
        }
        self.after = Some((path, id));
        Ok(())
    }
}

impl fmt::Debug for WrappedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappedBy").field("wrapper", &self.wrapper).field("after", &self.after).finish_non_exhaustive()
    }
}

/// All that a store holds, account by account, in the order and with the limits of [`Heads`].
///
/// Eight accounts are read at once. Each is of one moment; two accounts need not be of the same. Used within a tokio
/// runtime.
pub struct Accounts {
    heads: Heads,
    ahead: VecDeque<Reading>,
    is_at_end: bool,
}

enum Reading {
    Begun(KeyPath, JoinHandle<Result<Option<AccountCopy>, StoreError>>),
    Failed(Unreadable),
}

impl Accounts {
    /// Those after `after`, or all.
    pub fn new(store: Arc<dyn KekStore>, after: Option<KeyPath>) -> Self {
        Self { heads: Heads::new(store, after), ahead: VecDeque::with_capacity(AHEAD), is_at_end: false }
    }

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// [`StoreError`], if the store fails for a reason that is not one account's. Calling again goes on with the account after.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Result<AccountCopy, Unreadable>>, StoreError> {
        loop {
            while !self.is_at_end && self.ahead.len() < AHEAD {
                let next = self.heads.next().await?;
                self.is_at_end = next.is_none();
                self.ahead.extend(next.map(|head| self.begin(head)));
            }
            let answer = match self.ahead.front_mut() {
                None => return Ok(None),
                Some(Reading::Begun(_, reading)) => reading.await,
                Some(Reading::Failed(_)) => Ok(Ok(None)),
            };
            match (self.ahead.pop_front(), answer) {
                (Some(Reading::Failed(unreadable)), _) => return Ok(Some(Err(unreadable))),
                (_, Ok(Ok(Some(copy)))) => return Ok(Some(Ok(copy))),
                // Gone since it was listed, by other means: no store forgets an account.
                (_, Ok(Ok(None))) => {}
                (Some(Reading::Begun(path, _)), Ok(Err(error))) if error.unreadable().is_some() => {
                    return Ok(Some(Err(Unreadable { path, error })));
                }
                (_, Ok(Err(error))) => return Err(error),
                (_, Err(stopped)) => return Err(StoreError::unavailable("a read was given up: try again", stopped)),
            }
        }
    }

    fn begin(&self, head: Result<PathHead, Unreadable>) -> Reading {
        match head {
            Ok(PathHead { path, .. }) => {
                let (store, of) = (Arc::clone(&self.heads.store), path.clone());
                Reading::Begun(path, tokio::spawn(async move { store.export(&of).await }))
            }
            // Its other records may be readable, and then say no more than that it is not.
            Err(unreadable) => Reading::Failed(unreadable),
        }
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        for reading in mem::take(&mut self.ahead) {
            if let Reading::Begun(_, reading) = reading {
                reading.abort();
            }
        }
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("after", &self.heads.after).finish_non_exhaustive()
    }
}

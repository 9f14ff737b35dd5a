//! Objects under the account's primary: rewrap a header, or seal anew under a new DEK.

use std::{fmt, num::NonZeroUsize, sync::Arc};

use keystrata_primitives::{
    Context, Kek, KekId, RandomnessError, Suite,
    envelope::{self, EnvelopeError, HEADER_LEN, Header},
};
use secrecy::zeroize::Zeroizing;
use tokio::task::JoinSet;

use super::{Account, CACHED_TRIES};
use crate::{
    engine::rewrap::AtHand,
    error::{KeyError, OpenError, SealError},
};

/// The header of an envelope.
pub type HeaderBytes = [u8; HEADER_LEN];

/// What became of a header.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use = "a new header is to be stored, if the stored one is still the one that was read"]
pub enum Rewrapped {
    /// The same DEK is wrapped by the primary in this header. Everything after the first 124 bytes stays as it is.
    New(HeaderBytes),
    /// The account's primary wraps it already, as far as this process knows. It was not opened.
    Unchanged,
}

impl fmt::Debug for Rewrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New(_) => "New",
            Self::Unchanged => "Unchanged",
        })
    }
}

/// Why a header was not rewrapped. The old one still holds.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewrapError {
    /// A KEK could not be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The bytes are not the header of an envelope, or not one that this release knows.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The header is of another suite than the KEK that it names.
    #[error("the header is of suite {header}, its KEK of suite {kek}: it was altered")]
    SuiteMismatch {
        /// The header's suite.
        header: Suite,
        /// The KEK's suite.
        kek: Suite,
    },
    /// The account's primary is of another suite, under which the data would have to be sealed anew.
    #[error("the envelope is of suite {old} and the account's primary of suite {new}: rekey it")]
    NewSuite {
        /// The envelope's suite.
        old: Suite,
        /// The primary's suite.
        new: Suite,
    },
    /// Wrong account or altered bytes, deliberately not told apart.
    #[error("header rejected: wrong account or altered bytes")]
    Rejected,
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// The new header did not open to the same DEK, so it is not handed out.
    #[error("the new header does not open again, so the old one was kept; this machine's memory may be faulty")]
    NotVerified,
}

impl From<envelope::RewrapError> for RewrapError {
    fn from(error: envelope::RewrapError) -> Self {
        use envelope::RewrapError as From;
        match error {
            From::Envelope(error) => Self::Envelope(error),
            From::SuiteMismatch { header, kek } => Self::SuiteMismatch { header, kek },
            From::NewSuite { old, new } => Self::NewSuite { old, new },
            From::Randomness(error) => Self::Randomness(error),
            From::NotVerified => Self::NotVerified,
            _ => Self::Rejected,
        }
    }
}

/// Why an envelope was not sealed anew. It still holds.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RekeyError {
    /// It did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It opened, and nothing could be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// What became of the rows of a [`rewrap_each`](Account::rewrap_each).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RewrapTally<R, E> {
    /// Rows whose new header is stored.
    pub rewrapped: u64,
    /// Rows that the primary wraps already.
    pub unchanged: u64,
    /// Rows in which something else stood when the new header was to be stored. Whoever wrote it sealed it lately, under the
    /// primary that he knew: scan again if that matters.
    pub changed_meanwhile: u64,
    /// Rows whose header could not be rewrapped, or not stored.
    pub failed: Vec<(R, RewrapEachError<E>)>,
}

/// Why one row of a [`rewrap_each`](Account::rewrap_each) stayed as it was.
#[derive(Debug, thiserror::Error)]
pub enum RewrapEachError<E> {
    /// Its header could not be rewrapped.
    #[error(transparent)]
    Rewrap(RewrapError),
    /// The new header could not be stored, as far as the one who stores it could tell.
    #[error("the new header could not be stored")]
    Store(#[source] E),
}

/// # Rewrap and rekey
///
/// After a [rotation](Account::rotate) old objects open as before. Rewrapping puts them under the primary, without their
/// data or context: 124 bytes of each are read and written. It protects what it moved only once the old version is
/// [destroyed](Account::destroy_version) or below the [floor](Account::set_min_version). Against someone who has learnt a
/// KEK it does not help, since he can have unwrapped the DEKs: [`rekey`](Account::rekey).
impl Account {
    /// The header of `envelope`, of which the first 124 bytes are enough, with its DEK wrapped by the account's primary. Opened
    /// again before it is handed out.
    ///
    /// Store it only if the stored header is still the one that was read: [`rewrap_each`](Self::rewrap_each) shows how.
    ///
    /// # Errors
    /// [`RewrapError::Envelope`] before anything is looked up; [`RewrapError::Key`] if one of the two KEKs cannot be had;
    /// [`RewrapError::Rejected`] for another account's envelope and for altered bytes.
    ///
    /// # Cancellation
    /// As [`open`](Self::open).
    pub async fn rewrap(&self, envelope: &[u8]) -> Result<Rewrapped, RewrapError> {
        if let Some(rewrapped) = self.try_rewrap(envelope)? {
            return Ok(rewrapped);
        }
        let (header, id) = header(envelope)?;
        let state = self.state();
        for _ in 0..CACHED_TRIES {
            let primary = self.engine.primary(&state).await?;
            if primary.id() == id {
                return Ok(Rewrapped::Unchanged);
            }
            let old = self.engine.kek(&state, id).await?;
            let now = self.engine.now();
            let rewrap = |old: &Kek<'_>| primary.with_key(now, |new| envelope::rewrap(old, new, header));
            if let Some(rewrapped) = old.with_key(now, rewrap).flatten() {
                self.engine.note_miss(&state, &old);
                self.engine.note_seal(&state, primary.id(), 0);
                return Ok(Rewrapped::New(rewrapped?));
            }
        }
        let primary = self.engine.primary_once(&state).await?;
        let old = self.engine.kek_once(&state, id).await?;
        self.engine.note_miss_once();
        self.engine.note_seal(&state, primary.id(), 0);
        let now = self.engine.now();
        let rewrap = |old: &Kek<'_>| primary.with_key(now, |new| envelope::rewrap(old, new, header));
        let rewrapped = old.with_key(now, rewrap).flatten();
        Ok(Rewrapped::New(rewrapped.ok_or(KeyError::Late { ttl: state.policy.kek_ttl() })??))
    }

    /// [`rewrap`](Self::rewrap) if both KEKs are in memory: on the calling thread, without waiting, and without a tokio
    /// runtime. `None` if one is not; then `rewrap` gets it.
    ///
    /// # Errors
    /// As `rewrap`, as far as nothing has to be looked up.
    pub fn try_rewrap(&self, envelope: &[u8]) -> Result<Option<Rewrapped>, RewrapError> {
        let (header, id) = header(envelope)?;
        let state = self.state();
        let rewrapped = self.engine.rewrap_at_hand(&state, id, |old, new| envelope::rewrap(old, new, header));
        Ok(match rewrapped {
            None => None,
            Some(AtHand::IsPrimary) => Some(Rewrapped::Unchanged),
            Some(AtHand::Rewrapped(new)) => Some(Rewrapped::New(new?)),
        })
    }

    /// Seals the envelope's data anew, under a new DEK and the account's primary.
    ///
    /// What has to be done where a KEK or a DEK may be known to others. The plaintext is held in one buffer, that becomes
    /// the new envelope, and is overwritten if it does not.
    ///
    /// # Errors
    /// [`RekeyError::Open`] as [`open`](Self::open), and [`RekeyError::Seal`] as [`seal`](Self::seal).
    ///
    /// # Cancellation
    /// Dropping the future overwrites the plaintext.
    pub async fn rekey(&self, envelope: &[u8], context: &Context) -> Result<Vec<u8>, RekeyError> {
        let id = Header::parse(envelope).map_err(OpenError::from)?.kek_id();
        context.encode().map_err(OpenError::from)?;
        let mut buffer = Zeroizing::new(vec![0; envelope.len()]);
        let mut open = |kek: &Kek<'_>| {
            buffer.copy_from_slice(envelope);
            envelope::open_in_place(kek, context, &mut buffer).map(|plaintext| plaintext.len())
        };
        let opened = match self.engine.open_at_hand(&self.state(), id, &mut open) {
            Some(opened) => opened,
            None => self.with_kek(id, open).await.map_err(OpenError::from)?,
        };
        let len = opened.map_err(OpenError::from)?;
        let mut seal = |kek: &Kek<'_>| envelope::seal_in_place(kek, context, &mut buffer);
        let sealed = match self.engine.seal_at_hand(&self.state(), len, &mut seal) {
            Some(sealed) => sealed,
            None => self.with_primary(len, seal).await.map_err(SealError::from)?,
        };
        sealed.map_err(|error| match error {
            envelope::SealIntoError::Seal(error) => SealError::from(error),
            _ => SealError::TooLong { len },
        })?;
        Ok(std::mem::take(&mut *buffer))
    }

    /// Rewraps the headers of many rows, `at_once` at a time, and has each new one stored by `store(row, old, new)`, which
    /// says whether the row still held `old`.
    ///
    /// Memory is that of `at_once` rows and of the failures. The rows may come from a cursor: they are asked for as places
    /// become free. Resume by scanning again: a row that was rewrapped is unchanged the next time, for the price of its read.
    ///
    /// ```
    /// # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
    /// use std::{collections::BTreeMap, convert::Infallible, num::NonZeroUsize, sync::{Arc, Mutex}};
    /// use keystrata_hierarchy::{Context, Hierarchy};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let (root, store) = (ScriptedRootKey::new("test:root"), MemoryKekStore::new());
    /// # let keys = Hierarchy::builder().root_key(root).store(store).build()?;
    /// let acme = keys.account("acme")?;
    /// // A table: `CREATE TABLE object (id INT PRIMARY KEY, envelope BYTEA)`.
    /// let table: Arc<Mutex<BTreeMap<u32, Vec<u8>>>> = Arc::default();
    /// for id in 0..100 {
    ///     let sealed = acme.seal(b"x", &Context::new().with("id", id.to_string())).await?;
    ///     table.lock().map_err(|_| "poisoned")?.insert(id, sealed);
    /// }
    /// acme.rotate().await?;
    ///
    /// let scan = acme.begin_rewrap_scan(); // kept, if the old version is to be destroyed
    /// let mut done = 0;
    /// let mut after = None;
    /// loop {
    ///     // SELECT id, substring(envelope for 124) FROM object WHERE id > $after ORDER BY id LIMIT 10
    ///     let page: Vec<(u32, Vec<u8>)> = {
    ///         let table = table.lock().map_err(|_| "poisoned")?;
    ///         let later = table.range(after.map_or(0, |id: u32| id + 1)..);
    ///         later.take(10).map(|(id, envelope)| (*id, envelope[..124].to_vec())).collect()
    ///     };
    ///     let Some((last, _)) = page.last() else { break };
    ///     after = Some(*last);
    ///     let update = Arc::clone(&table);
    ///     let tally = acme
    ///         .rewrap_each(page, NonZeroUsize::MIN.saturating_add(3), move |id: u32, old, new| {
    ///             let table = Arc::clone(&update);
    ///             async move {
    ///                 // UPDATE object SET envelope = overlay(envelope placing $new from 1)
    ///                 //  WHERE id = $id AND substring(envelope for 124) = $old
    ///                 let mut table = table.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    ///                 let Some(envelope) = table.get_mut(&id).filter(|envelope| envelope.starts_with(&old)) else {
    ///                     return Ok(false);
    ///                 };
    ///                 envelope[..124].copy_from_slice(&new);
    ///                 Ok::<_, Infallible>(true)
    ///             }
    ///         })
    ///         .await?;
    ///     assert!(tally.failed.is_empty());
    ///     done += tally.rewrapped;
    /// }
    /// assert_eq!(done, 100);
    /// let envelope = table.lock().map_err(|_| "poisoned")?[&7].clone();
    /// assert_eq!(acme.open(&envelope, &Context::new().with("id", "7")).await?, b"x");
    /// # let _ = scan;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyError::NoRuntime`] outside of any, and [`KeyError::Interrupted`] if it is shut down. What becomes of single rows
    /// is in the tally.
    ///
    /// # Cancellation
    /// Dropping the future drops what is under way: a row is as it was or holds its new header, as its store left it.
    pub async fn rewrap_each<R, E, F, Fut>(
        &self,
        rows: impl IntoIterator<Item = (R, Vec<u8>)>,
        at_once: NonZeroUsize,
        store: F,
    ) -> Result<RewrapTally<R, E>, KeyError>
    where
        R: Clone + Send + 'static,
        E: Send + 'static,
        F: Fn(R, HeaderBytes, HeaderBytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send,
    {
        let mut tally = RewrapTally { rewrapped: 0, unchanged: 0, changed_meanwhile: 0, failed: Vec::new() };
        let runtime = self.engine.runtime()?;
        let (store, mut tasks, mut rows) = (Arc::new(store), JoinSet::new(), rows.into_iter());
        loop {
            while tasks.len() < at_once.get() {
                let Some((row, envelope)) = rows.next() else { break };
                let (account, store) = (self.clone(), Arc::clone(&store));
                let work = async move {
                    let became = account.rewrap_row(row.clone(), &envelope, &*store).await;
                    (row, became)
                };
                tasks.spawn_on(work, &runtime);
            }
            match tasks.join_next().await {
                Some(Ok((_, Ok(Row::Rewrapped)))) => tally.rewrapped += 1,
                Some(Ok((_, Ok(Row::Unchanged)))) => tally.unchanged += 1,
                Some(Ok((_, Ok(Row::ChangedMeanwhile)))) => tally.changed_meanwhile += 1,
                Some(Ok((row, Err(error)))) => tally.failed.push((row, error)),
                // A panic is its author's; the rows that are left would meet it too.
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Err(_)) => return Err(KeyError::Interrupted),
                None => return Ok(tally),
            }
        }
    }

    async fn rewrap_row<R, E, F, Fut>(&self, row: R, envelope: &[u8], store: &F) -> Result<Row, RewrapEachError<E>>
    where
        F: Fn(R, HeaderBytes, HeaderBytes) -> Fut,
        Fut: Future<Output = Result<bool, E>>,
    {
        let new = match self.rewrap(envelope).await.map_err(RewrapEachError::Rewrap)? {
            Rewrapped::Unchanged => return Ok(Row::Unchanged),
            Rewrapped::New(new) => new,
        };
        let (old, _) = header(envelope).map_err(RewrapEachError::Rewrap)?;
        match store(row, *old, new).await {
            Ok(true) => Ok(Row::Rewrapped),
            Ok(false) => Ok(Row::ChangedMeanwhile),
            Err(error) => Err(RewrapEachError::Store(error)),
        }
    }
}

enum Row {
    Rewrapped,
    Unchanged,
    ChangedMeanwhile,
}

/// The header that the bytes begin with, and which KEK it names.
fn header(envelope: &[u8]) -> Result<(&HeaderBytes, KekId), RewrapError> {
    let id = Header::parse_start(envelope)?.kek_id();
    let header = envelope.first_chunk().ok_or(EnvelopeError::Truncated { len: envelope.len() })?;
    Ok((header, id))
}

//! A handle to one account: seal and open.

mod life;
#[cfg(any(test, feature = "test-util"))]
mod rehearse;
pub(crate) mod rewrap;
mod stream;

use std::{borrow::Cow, fmt, sync::Arc};

use keystrata_primitives::{
    Context, Kek, KekId, KekVersion, KeyPath,
    envelope::{self, Header},
};

pub use self::stream::Expiring;
use crate::{
    cache::AccountState,
    engine::{Owner, audited::Actor, recover::Recovered},
    error::{KeyError, OpenError, SealError},
    store::Creation,
};

/// How often a KEK that was loaded and then overwritten before it could be used is loaded again into the cache. After
/// that the operation gets a KEK of its own, so a cache far too small for its traffic costs calls, never progress.
const CACHED_TRIES: usize = 2;

/// One account of a [`Hierarchy`](crate::Hierarchy). Cheap to clone; clones are the same account.
///
/// Sealing and opening run on the calling thread, at about a gigabyte a second: hand objects of many megabytes to
/// `tokio::task::block_in_place` or a blocking thread if other tasks must not wait that long.
#[derive(Clone)]
pub struct Account {
    engine: Arc<Owner>,
    state: Arc<AccountState>,
    actor: Actor,
}

impl Account {
    pub(crate) fn new(engine: Arc<Owner>, path: &KeyPath, actor: Actor) -> Self {
        let state = engine.account(path);
        Self { engine, state, actor }
    }

    /// Who the account is.
    pub fn path(&self) -> &KeyPath {
        &self.state.path
    }

    /// Seals `plaintext` under a DEK of its own and returns the envelope.
    ///
    /// `context` is authenticated, not stored: [`open`](Self::open) needs the same pairs. Name the object in it.
    ///
    /// The first seal of an account makes its KEK and stores it durably first. While the KEK is in memory sealing costs no
    /// KMS call; otherwise one, shared by all callers who wait for the same KEK.
    ///
    /// # Errors
    /// - [`SealError::Key`]: the KEK could not be had; [`KeyError::is_retryable`](crate::KeyError::is_retryable) says
    ///   whether to try again.
    /// - [`SealError::Context`]: a name given twice, an empty name, more than 64 pairs or 8 KiB. Nothing was looked up.
    /// - [`SealError::TooLong`]: 64 TiB or more.
    /// - [`SealError::Randomness`]: the operating system gave no random bytes.
    ///
    /// # Cancellation
    /// Dropping the future is safe at any point. A KMS call under way goes on for whoever else waits, and its result is
    /// kept; a KEK that was being made may be in the store afterwards, and the next seal uses it. There is no time limit
    /// here: a root key or a store that never answers keeps its callers waiting, though not those who come 30 seconds
    /// later.
    pub async fn seal(&self, plaintext: &[u8], context: &Context) -> Result<Vec<u8>, SealError> {
        if let Some(sealed) = self.try_seal(plaintext, context)? {
            return Ok(sealed);
        }
        // Before a KEK is made or a call is paid for.
        context.encode()?;
        if envelope::sealed_len(plaintext.len()).is_none() {
            return Err(SealError::TooLong { len: plaintext.len() });
        }
        self.with_primary(plaintext.len(), |kek| Ok(envelope::seal(kek, context, plaintext)?)).await?
    }

    /// [`seal`](Self::seal) if the KEK is in memory: on the calling thread, without waiting, and without a tokio runtime.
    /// `None` if it is not; then `seal` gets it.
    ///
    /// A renewal of the KEK ahead of its deadline is begun only within a runtime, or with one given to the
    /// [builder](crate::HierarchyBuilder::runtime).
    ///
    /// # Errors
    /// As `seal`, as far as nothing has to be looked up.
    pub fn try_seal(&self, plaintext: &[u8], context: &Context) -> Result<Option<Vec<u8>>, SealError> {
        let seal = |kek: &Kek<'_>| envelope::seal(kek, context, plaintext);
        Ok(self.engine.seal_at_hand(&self.state(), plaintext.len(), seal).transpose()?)
    }

    /// Opens `envelope` and returns its plaintext.
    ///
    /// `context` must hold the pairs given to [`seal`](Self::seal). While the KEK is in memory opening costs no KMS call;
    /// otherwise one, shared by all callers who wait for the same KEK. An account is never made by opening.
    ///
    /// # Errors
    /// - [`OpenError::Envelope`]: the bytes are not an envelope, or of an unknown version or suite, or cut short. Nothing
    ///   was looked up.
    /// - [`OpenError::Context`]: the context breaks one of its own rules. Nothing was looked up.
    /// - [`OpenError::Key`]: the KEK could not be had; [`KeyError::NotFound`] if this account
    ///   has no such KEK.
    /// - [`OpenError::Rejected`]: wrong account, wrong context or altered bytes, deliberately not told apart.
    /// - [`OpenError::SuiteMismatch`]: the suite byte was altered.
    ///
    /// # Cancellation
    /// Dropping the future is safe at any point. A KMS call under way goes on for whoever else waits.
    pub async fn open(&self, envelope: &[u8], context: &Context) -> Result<Vec<u8>, OpenError> {
        if let Some(opened) = self.try_open(envelope, context)? {
            return Ok(opened);
        }
        let id = Header::parse(envelope)?.kek_id();
        context.encode()?;
        self.with_kek(id, |kek| Ok(envelope::open(kek, context, envelope)?)).await?
    }

    /// [`open`](Self::open) if the KEK is in memory: on the calling thread, without waiting, and without a tokio runtime.
    /// `None` if it is not; then `open` gets it.
    ///
    /// # Errors
    /// As `open`, as far as nothing has to be looked up.
    pub fn try_open(&self, envelope: &[u8], context: &Context) -> Result<Option<Vec<u8>>, OpenError> {
        let id = Header::parse(envelope)?.kek_id();
        let open = |kek: &Kek<'_>| envelope::open(kek, context, envelope);
        Ok(self.engine.open_at_hand(&self.state(), id, open).transpose()?)
    }

    /// Makes the account's first KEK, if it has none, and seals nothing. The first [`seal`](Self::seal) does so too; this is for
    /// those who want to know whether the account was there.
    ///
    /// One KMS call for each root key that wraps it; none if the account is there. Callers at once make theirs each, and of any
    /// number of them, in any number of processes, one gets [`Creation::Created`].
    ///
    /// # Errors
    /// [`KeyError::Shredded`] if its KEKs were destroyed on purpose; else as [`seal`](Self::seal).
    ///
    /// # Cancellation
    /// Dropping the future is safe. The KEK may be in the store afterwards.
    pub async fn create(&self) -> Result<Creation, KeyError> {
        self.engine.create_new(&self.state(), &self.actor).await
    }

    /// Makes a new KEK the account's primary: what is sealed from now on is sealed under it, and what was sealed before
    /// still opens. Gives the new version.
    ///
    /// One KMS call for each root key that wraps it, and none where another KEK does. This process seals under it when this returns, others within half a minute. Callers at once share
    /// one rotation.
    ///
    /// # Errors
    /// [`KeyError::NoAccount`] if the account has no KEK yet; else as [`seal`](Self::seal).
    ///
    /// # Cancellation
    /// Dropping the future is safe. The rotation goes on if it has begun.
    pub async fn rotate(&self) -> Result<KekVersion, KeyError> {
        self.engine.rotate(&self.state(), &self.actor).await
    }

    /// Unwraps all KEKs of the account by its [recovery root](crate::RootsBuilder::recovery), the newest first, and keeps them
    /// in memory for their time to live. For an operator, when the account's other root keys are lost; nothing else here
    /// asks a recovery root to unwrap. While any of them is in memory, denials by the other root keys that are remembered keep
    /// the account from nothing that it can do with these.
    ///
    /// One call for each KEK. They open and seal as others do, and are not renewed ahead of their end, nor
    /// replaced for their age or use; a denial by another root key does not end them. One that cannot be had
    /// is told in [`Recovered::failed`] and keeps none of the others from being recovered.
    ///
    /// # Errors
    /// - [`KeyError::WrongRoot`]: the account has no recovery root, or it wrapped none of the KEKs.
    /// - [`KeyError::Late`]: nothing of the account is [cached](crate::PolicyBuilder::kek_ttl), so they would be gone at once.
    ///   No call was made.
    /// - Else as [`open`](Self::open), if not one KEK could be had.
    ///
    /// # Cancellation
    /// Dropping the future is safe. What was unwrapped so far stays.
    pub async fn recover(&self) -> Result<Recovered, KeyError> {
        self.engine.recover(&self.state(), &self.actor).await
    }

    /// Runs `f` with the KEK that new objects are sealed under, which has to be got.
    pub(crate) async fn with_primary<R>(&self, len: usize, mut f: impl FnMut(&Kek<'_>) -> R) -> Result<R, KeyError> {
        let load = async {
            let state = self.state();
            for _ in 0..CACHED_TRIES {
                let kek = self.engine.primary(&state).await?;
                if let Some(sealed) = kek.with_key(self.engine.now(), &mut f) {
                    self.engine.note_miss(&state, &kek);
                    self.engine.note_seal(&state, kek.id(), len);
                    return Ok(sealed);
                }
            }
            let kek = self.engine.primary_once(&state).await?;
            self.engine.note_miss_once();
            self.engine.note_seal(&state, kek.id(), len);
            kek.with_key(self.engine.now(), f).ok_or(KeyError::Late { ttl: state.policy.kek_ttl() })
        };
        // On the heap, and on a miss alone: else the future of every hit would have room for a load.
        Box::pin(load).await
    }

    /// Runs `f` with the KEK of this id, which has to be got.
    pub(crate) async fn with_kek<R>(&self, id: KekId, mut f: impl FnMut(&Kek<'_>) -> R) -> Result<R, KeyError> {
        let load = async {
            let state = self.state();
            for _ in 0..CACHED_TRIES {
                let kek = self.engine.kek(&state, id).await?;
                if let Some(opened) = kek.with_key(self.engine.now(), &mut f) {
                    self.engine.note_miss(&state, &kek);
                    return Ok(opened);
                }
            }
            let kek = self.engine.kek_once(&state, id).await?;
            self.engine.note_miss_once();
            kek.with_key(self.engine.now(), f).ok_or(KeyError::Late { ttl: state.policy.kek_ttl() })
        };
        Box::pin(load).await // as above
    }

    /// The account's state in this process: a handle that came along through a fork has its parent's.
    pub(crate) fn state(&self) -> Cow<'_, Arc<AccountState>> {
        if self.engine.is_home_of(&self.state) {
            Cow::Borrowed(&self.state)
        } else {
            Cow::Owned(self.engine.account(&self.state.path))
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("path", self.path()).finish_non_exhaustive()
    }
}

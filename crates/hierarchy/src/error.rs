//! What can go wrong, by what the caller can do about it.

use std::{sync::Arc, time::Duration};

use keystrata_memory::MemoryError;
use keystrata_primitives::{
    ContextError, KekId, KekState, KekVersion, KeyPath, RandomnessError, RootKeyId, Suite,
    envelope::{self, EnvelopeError, StreamError},
};

use crate::{
    audit::AuditError,
    root::{Cause, RootKeyError},
    store::StoreError,
    topology::PlacementFault,
};

/// Why an account's KEK could not be had. Cloned to every caller that waited for it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The KMS asks to slow down. Trying later helps.
    #[error(transparent)]
    Throttled(RootKeyError),
    /// The KMS refuses the root key. Trying again does not help; somebody has to change what the KMS allows.
    #[error(transparent)]
    Denied(RootKeyError),
    /// The KMS cannot be reached or does not answer sensibly. Trying later may help.
    #[error(transparent)]
    RootUnavailable(RootKeyError),
    /// This process makes no more calls to the KMS for now: its budget is used up, or too many wait. Trying later helps.
    #[error(transparent)]
    Overloaded(RootKeyError),
    /// The store cannot be reached, is busy, full or read-only. Trying later may help.
    #[error(transparent)]
    StoreUnavailable(StoreError),
    /// The store is not one that this release can use.
    #[error(transparent)]
    StoreIncompatible(StoreError),
    /// The account has no KEK of this id.
    #[error(
        "account {path} has no KEK {kek_id}: the envelope belongs to another account, or its KEK is in another store"
    )]
    NotFound {
        /// The account asked for.
        path: KeyPath,
        /// The KEK that the envelope names.
        kek_id: KekId,
    },
    /// The KEK is wrapped, but by no root key that the account's [`Placement`](crate::Placement) lists. No call was made.
    #[error(
        "the KEK of account {path} is wrapped by {wrapped_by}, and only {accepted} may have wrapped it: use the root key \
         that did, or list it as a former one if it is yours"
    )]
    WrongRoot {
        /// Whose KEK.
        path: KeyPath,
        /// What its record names.
        wrapped_by: String,
        /// What may have wrapped it.
        accepted: String,
    },
    /// The KEK is wrapped by another KEK, but by none of a path that the account's [`Placement`](crate::Placement) names. No
    /// call was made.
    #[error(
        "the KEK of account {path} is wrapped by {wrapped_by}, and only {accepted} may have wrapped it: if that is where \
         the account was before, say so in its placement"
    )]
    WrongParent {
        /// Whose KEK.
        path: KeyPath,
        /// What its record names.
        wrapped_by: String,
        /// What may have wrapped it.
        accepted: String,
    },
    /// The KEK that wraps the account's cannot be had, for a reason of its own.
    #[error("the KEK of account {path} is wrapped by one of {parent}, which cannot be used")]
    Parent {
        /// Whose KEK was asked for.
        path: KeyPath,
        /// Whose KEK wraps it.
        parent: KeyPath,
        /// Why that one cannot be had.
        #[source]
        source: Box<KeyError>,
    },
    /// The topology gives the account a place where it cannot be. No call was made.
    #[error("account {path} cannot stand where the topology puts it: {fault}")]
    Misplaced {
        /// Which account.
        path: KeyPath,
        /// Why not.
        fault: PlacementFault,
    },
    /// A KEK's record is not what was stored, or belongs elsewhere. Restore it from a backup.
    #[error("the record of {} of account {path} is corrupt: restore the KEK store from a backup", kek_text(*kek_id))]
    Corrupt {
        /// Whose KEK.
        path: KeyPath,
        /// Which one, if that can be told.
        kek_id: Option<KekId>,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// The account has KEKs and none that new objects may be sealed under. No call was made.
    #[error(
        "account {path} has {keks} KEK(s) and none of them is primary, so nothing new can be sealed for it: make one \
         primary, or restore the KEK store from a backup"
    )]
    NoPrimary {
        /// The account asked for.
        path: KeyPath,
        /// How many KEKs it has.
        keks: usize,
    },
    /// The account has no KEK at all, so there is none to replace. Its first seal makes one.
    #[error("account {path} has no KEK yet: its first seal makes one")]
    NoAccount {
        /// The account asked for.
        path: KeyPath,
    },
    /// The account had 2³² − 1 KEKs.
    #[error("account {path} has used up the numbers of its KEK versions")]
    VersionsUsedUp {
        /// The account asked for.
        path: KeyPath,
    },
    /// The store shows an older primary than this process has seen. It may have been restored from a backup, or a replica
    /// answers that lags behind.
    #[error(
        "the store shows version {found} as the primary KEK of account {path}, and version {seen} was seen before: \
         something rolled the KEK store back, or it answers from a replica that lags behind"
    )]
    RolledBack {
        /// Whose KEK.
        path: KeyPath,
        /// What the store shows.
        found: KekVersion,
        /// The newest that this process has seen.
        seen: KekVersion,
    },
    /// The account's KEKs were destroyed on purpose, and its path stays out of use.
    #[error(transparent)]
    Shredded(StoreError),
    /// The KEK is older than its account's versions that may still be used.
    #[error(transparent)]
    BelowMinVersion(StoreError),
    /// The account opens and does not seal, as somebody [said](crate::Account::open_only).
    #[error("account {path} opens and does not seal: enable it to seal again")]
    SealingDisabled {
        /// The account asked for.
        path: KeyPath,
    },
    /// The audit sink did not record what was to be done, so it was not done.
    #[error(transparent)]
    NotRecorded(AuditError),
    /// The hierarchy was closed.
    #[error("the hierarchy was closed: build a new one")]
    Closed,
    /// The KEK's state does not allow the operation.
    #[error("KEK {kek_id} of account {path} is {state}{}", remedy(*state))]
    WrongState {
        /// Whose KEK.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
        /// The state it is in.
        state: KekState,
    },
    /// The KEK's time was up before it could be used: the KMS, or the memory of this machine, was too slow.
    #[error(
        "a KEK took longer to get than its time to live of {ttl:?}: look at the KMS's latency, or allow a longer TTL"
    )]
    Late {
        /// The time to live in force.
        ttl: Duration,
    },
    /// There is no memory that a key may be kept in.
    #[error(transparent)]
    Memory(MemoryError),
    /// The operating system gave no random bytes for a new KEK.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// The KEK was loaded and brought nothing, or was invalidated on its way again and again. Trying again helps if the
    /// cause is gone.
    #[error(
        "loading the KEK stopped without an answer: its task panicked, its tokio runtime was shut down, or the account \
         was invalidated again and again meanwhile"
    )]
    Interrupted,
    /// A KEK has to be loaded, and the call was not made from within a tokio runtime, nor was one given to the builder.
    #[error("loading a KEK needs a tokio runtime: call from within one, or give one to `HierarchyBuilder::runtime`")]
    NoRuntime,
    /// The system gave no thread for overwriting expired keys, and a key that nobody would overwrite is not kept.
    #[error("the system gave no thread to overwrite expired keys with: raise its limit on threads")]
    NoSweeper,
}

fn remedy(state: KekState) -> &'static str {
    match state {
        KekState::Disabled => ": it neither seals nor opens until it is enabled again",
        KekState::Destroyed => " for ever: what is sealed under it was to be rewrapped before",
        _ => " and cannot be used for this",
    }
}

fn kek_text(id: Option<KekId>) -> String {
    id.map_or_else(|| "a KEK".to_owned(), |id| format!("KEK {id}"))
}

impl KeyError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Throttled(_)
                | Self::RootUnavailable(_)
                | Self::Overloaded(_)
                | Self::StoreUnavailable(_)
                | Self::Late { .. }
                | Self::Interrupted
        )
    }

    /// Whether it says nothing about the key itself: the KMS or the store could not be asked.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Throttled(_) | Self::RootUnavailable(_) | Self::Overloaded(_) | Self::StoreUnavailable(_))
    }

    /// What a child of `parent` is told. What says which key it is about, or nothing of any, says it to the child too.
    pub(crate) fn of_parent(self, child: &KeyPath, parent: &KeyPath) -> Self {
        match self {
            Self::NotFound { .. }
            | Self::WrongRoot { .. }
            | Self::WrongParent { .. }
            | Self::Corrupt { .. }
            | Self::NoPrimary { .. }
            | Self::RolledBack { .. }
            | Self::WrongState { .. }
            | Self::SealingDisabled { .. }
            | Self::VersionsUsedUp { .. } => {
                Self::Parent { path: child.clone(), parent: parent.clone(), source: Box::new(self) }
            }
            other => other,
        }
    }

    /// A record's fault found by the engine.
    pub(crate) fn corrupt(
        path: &KeyPath,
        kek_id: KekId,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Corrupt { path: path.clone(), kek_id: Some(kek_id), source: Arc::new(cause) }
    }

    /// Sorts a root key's answer about one KEK.
    pub(crate) fn from_root(error: RootKeyError, path: &KeyPath, kek_id: KekId) -> Self {
        match error {
            RootKeyError::Throttled { .. } => Self::Throttled(error),
            RootKeyError::Denied { .. } => Self::Denied(error),
            RootKeyError::Unavailable { .. } => Self::RootUnavailable(error),
            RootKeyError::Overloaded { .. } => Self::Overloaded(error),
            // Whoever comes to wait for it after all starts another.
            RootKeyError::Withdrawn => Self::Interrupted,
            RootKeyError::Rejected => Self::corrupt(path, kek_id, error),
        }
    }

    /// Sorts a store's answer about an account. `kek_id` is the one asked for, if it is known.
    pub(crate) fn from_store(error: StoreError, kek_id: Option<KekId>) -> Self {
        match error {
            StoreError::Corrupt { path, source } => Self::Corrupt { path, kek_id, source },
            StoreError::Unavailable { .. } => Self::StoreUnavailable(error),
            StoreError::Incompatible { .. } | StoreError::UnknownForm { .. } => Self::StoreIncompatible(error),
            StoreError::Shredded { .. } => Self::Shredded(error),
            StoreError::BelowMinVersion { .. } => Self::BelowMinVersion(error),
        }
    }
}

/// What the engine found wrong with a record that the store gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordFault {
    #[error("the store gave the record of another account, KEK or state")]
    NotTheOneAskedFor,
    #[error("the unwrapped secret does not match the record's check")]
    CheckMismatch,
    #[error("the parent's KEK that it names did not wrap it: another did, or its bytes were altered")]
    ParentRejects,
    #[error("its record and those above it name each other's KEKs")]
    Circle,
    #[error("its record and those above it name more than 8 KEKs one above the other")]
    TooDeep,
}

/// Why nothing was sealed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The account's KEK could not be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The context breaks one of its own rules.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The plaintext needs more than 2³² chunks, or more memory than can be addressed.
    #[error("{len} bytes are too long for one envelope; split the object")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

impl From<envelope::SealError> for SealError {
    fn from(error: envelope::SealError) -> Self {
        match error {
            envelope::SealError::Context(error) => Self::Context(error),
            envelope::SealError::TooLong { len } => Self::TooLong { len },
            envelope::SealError::Randomness(error) => Self::Randomness(error),
        }
    }
}

/// Why an envelope did not open. Nothing of its plaintext was released.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The account's KEK could not be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The bytes are not an envelope, or not one that this release knows. No key was looked for.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The context breaks one of its own rules.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The envelope is of another suite than the KEK it names.
    #[error("the envelope is of suite {envelope}, its KEK of suite {kek}: it was altered")]
    SuiteMismatch {
        /// The envelope's suite.
        envelope: Suite,
        /// The KEK's suite.
        kek: Suite,
    },
    /// A stream of the envelope failed: its reader, say.
    #[error(transparent)]
    Stream(Arc<StreamError>),
    /// Wrong account, wrong context or altered bytes: deliberately one outcome.
    #[error("envelope rejected: wrong account, wrong context or altered bytes")]
    Rejected,
}

impl From<envelope::OpenError> for OpenError {
    fn from(error: envelope::OpenError) -> Self {
        match error {
            envelope::OpenError::Envelope(error) => Self::Envelope(error),
            envelope::OpenError::Context(error) => Self::Context(error),
            envelope::OpenError::SuiteMismatch { envelope, kek } => Self::SuiteMismatch { envelope, kek },
            // Whatever else a refusal may be, this is the class that tells an attacker nothing.
            _ => Self::Rejected,
        }
    }
}

/// A stream was used beyond its time: begin it again, which asks for its account's KEK again, or allow it more with
/// [`PolicyBuilder::stream_ttl`](crate::PolicyBuilder::stream_ttl). It is inside the [`io::Error`](std::io::Error)s of an
/// [`Expiring`](crate::Expiring) stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream may be used for {ttl:?} and that time is up: begin it again, or allow it more")]
pub struct StreamExpired {
    /// The time to live in force.
    pub ttl: Duration,
}

/// Why [`HierarchyBuilder::build`](crate::HierarchyBuilder::build) made no engine.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No root key was given.
    #[error("a hierarchy needs a root key: call `root_key`, `roots` or `topology` on the builder, with a current one")]
    NoRootKey,
    /// No store was given.
    #[error("a hierarchy needs a KEK store: call `store` on the builder")]
    NoStore,
    /// More root keys than a record can hold wraps.
    #[error(
        "{count} root keys would wrap every new KEK, and a record holds {most} wraps: make some of them former ones"
    )]
    TooManyRoots {
        /// How many there are, the recovery one included.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// One root key in two places of a list.
    #[error("the root key {id} stands in the list twice: name each once, as current, former or recovery")]
    RootTwice {
        /// Which one.
        id: RootKeyId,
    },
    /// More root keys are to wrap a new KEK than there are.
    #[error("at least {least} root keys are to wrap a new KEK, and {current} are current")]
    AtLeastTooMany {
        /// How many are to.
        least: usize,
        /// How many there are.
        current: usize,
    },
    /// A TTL above the cap.
    #[error("a KEK time to live of {ttl:?} is over the cap of {cap:?}: a revoked key would go on working that long")]
    TtlTooLong {
        /// What was asked for.
        ttl: Duration,
        /// The cap.
        cap: Duration,
    },
    /// A TTL of streams above the cap.
    #[error("a stream time to live of {ttl:?} is over the cap of {cap:?}: a revoked key would go on working that long")]
    StreamTtlTooLong {
        /// What was asked for.
        ttl: Duration,
        /// The cap.
        cap: Duration,
    },
    /// A jitter that is not a part of the TTL.
    #[error("a TTL jitter of {part} is out of range: give a part of the TTL from 0 to {most}")]
    JitterOutOfRange {
        /// What was asked for.
        part: f64,
        /// The most there may be.
        most: f64,
    },
    /// A time to use stale keys above the cap.
    #[error("using stale keys for {time:?} is over the cap of {cap:?}: a revoked key would go on working that long")]
    StaleTooLong {
        /// What was asked for.
        time: Duration,
        /// The cap.
        cap: Duration,
    },
    /// An age at which KEKs would be replaced all the time.
    #[error("a KEK age of {age:?} is too short: at least 1 minute, usually months")]
    AgeTooShort {
        /// What was asked for.
        age: Duration,
    },
    /// A cache without room for one KEK.
    #[error("a cache needs room for at least one KEK; to cache nothing, set `kek_ttl` to zero")]
    NoCapacity,
}

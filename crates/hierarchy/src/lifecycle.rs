//! What can be done to an account's KEKs in their life, and why it was not.

use std::time::Duration;

use keystrata_primitives::{KekId, KekVersion, KeyPath};

use crate::{
    error::KeyError,
    store::{StoreError, Tombstone},
};

/// Whether a change was made. Asking again for what was done already does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// By this call.
    Made,
    /// It was so before; nothing was written.
    AlreadySo,
}

/// That the envelopes of an account were looked through and those under old KEKs [rewrapped](crate::Account::rewrap), and
/// when that began.
///
/// The proof that [`Account::destroy_version`](crate::Account::destroy_version) asks for. Made by
/// [`Account::begin_rewrap_scan`](crate::Account::begin_rewrap_scan) *before* the first envelope is read; a scan that is
/// spread over several processes keeps the time.
///
/// It is the caller's word: where the envelopes are, the engine does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RewrapScan {
    /// When the first envelope was read, in seconds since the Unix epoch, by the engine's clock.
    pub started_at: u64,
}

/// What a [shredding](crate::Account::shred) would destroy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShredPlan {
    /// Whose KEKs.
    pub path: KeyPath,
    /// How many of them would be destroyed.
    pub keks: usize,
    /// How many are destroyed already.
    pub destroyed: usize,
    /// Accounts whose KEKs one of these wraps, and which would be lost with them: at most
    /// [`LISTED`](Self::LISTED). While there are any, the shredding is refused.
    pub children: Vec<KeyPath>,
    /// Whether there are more of them.
    pub has_more_children: bool,
    /// If the path was shredded before.
    pub tombstone: Option<Tombstone>,
}

impl ShredPlan {
    /// How many accounts below are listed at most.
    pub const LISTED: usize = 8;
}

/// What a [shredding](crate::Account::shred) did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shredded {
    /// What is left of the path.
    pub tombstone: Tombstone,
    /// Whether it was this call that shredded it.
    pub change: Change,
    /// Accounts that another process put below the path in the very moment, at most [`ShredPlan::LISTED`]: reroot them
    /// while their KEKs are in memory somewhere, or what is sealed under these is lost with them.
    pub stranded: Vec<KeyPath>,
}

/// A step of [`Account::reroot`](crate::Account::reroot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reroot {
    /// Every KEK gets the wraps that its account's [`Placement`](crate::Placement) asks for now, and keeps the others:
    /// processes of the old topology and of the new one open it.
    Add,
    /// Every KEK loses the wraps that its placement does not ask for. No call. Refused for a KEK that lacks one of those.
    Retire,
    /// [`Retire`](Self::Retire) after each wrap that stays has been unwrapped and found to be that KEK's: one call
    /// for each of them that is a root key's. Worth it where the KMS rewrapped by itself and nobody has opened since.
    VerifyAndRetire,
}

/// What a [`Account::reroot`](crate::Account::reroot) did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rerooted {
    /// KEKs that were looked at: all but destroyed ones.
    pub keks: usize,
    /// KEKs whose record was changed.
    pub changed: usize,
    /// Wraps that were added.
    pub added: usize,
    /// Wraps that were dropped.
    pub dropped: usize,
}

/// Why a change to an account's KEKs was not made, or not all of it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LifecycleError {
    /// A KEK could not be had, the store did not answer, or the account is not there, is shredded or disabled. After a
    /// store that is unavailable the change may have been made: ask again.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// New objects are sealed under this KEK.
    #[error("KEK {kek_id} is the primary of account {path}: rotate first, then rewrap what is sealed under it")]
    IsPrimary {
        /// Whose KEK.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
    },
    /// There is no primary of that version or a later one, without which nothing could be sealed.
    #[error("version {asked} of account {path} is above its primary: rotate first")]
    AbovePrimary {
        /// Whose KEKs.
        path: KeyPath,
        /// What was asked for.
        asked: KekVersion,
    },
    /// Some process may still seal under the KEK, or be about to store what it sealed.
    #[error(
        "KEK {kek_id} of account {path} stopped being primary too short a time ago for every process to know: come again \
         in {} s", wait.as_secs().saturating_add(1)
    )]
    TooEarly {
        /// Whose KEK.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
        /// How long to wait, by this machine's clock.
        wait: Duration,
    },
    /// The rewrap scan began before every process knew of the new primary, so it may have missed envelopes.
    #[error(
        "the rewrap scan of account {path} began at {started_at}, and may have missed what was sealed under KEK {kek_id} \
         until {needed_from} (seconds since the Unix epoch): scan once more"
    )]
    ScanTooEarly {
        /// Whose KEK.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
        /// When the scan began.
        started_at: u64,
        /// When it may have begun at the earliest.
        needed_from: u64,
    },
    /// Other accounts' KEKs are wrapped by it and would be lost with it.
    #[error(
        "account {path} wraps the KEKs of {}{}: reroot or shred those first", list(children),
        if *has_more { " and others" } else { "" }
    )]
    WrapsOthers {
        /// Whose KEK.
        path: KeyPath,
        /// Some of the accounts below.
        children: Vec<KeyPath>,
        /// Whether there are more.
        has_more: bool,
    },
    /// A KEK lacks a wrap that its placement asks for, so no other may be dropped.
    #[error("KEK {kek_id} of account {path} is not wrapped by {lacks} yet: add that first")]
    NotAdded {
        /// Whose KEK.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
        /// What does not wrap it.
        lacks: String,
    },
    /// A record holds no more wraps.
    #[error("KEK {kek_id} of account {path} would have more than 8 wraps: retire its old ones first")]
    TooManyWraps {
        /// Whose KEK.
        path: KeyPath,
        /// Which one.
        kek_id: KekId,
    },
    /// Others changed the account again and again meanwhile.
    #[error("account {path} was changed by others again and again meanwhile: try again")]
    Contended {
        /// Which account.
        path: KeyPath,
    },
}

impl LifecycleError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Key(error) => error.is_retryable(),
            Self::TooEarly { .. } | Self::Contended { .. } => true,
            _ => false,
        }
    }
}

impl From<StoreError> for LifecycleError {
    fn from(error: StoreError) -> Self {
        Self::Key(KeyError::from_store(error, None))
    }
}

fn list(paths: &[KeyPath]) -> String {
    paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

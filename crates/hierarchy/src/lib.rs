//! The key-hierarchy engine of Keystrata: account KEKs under a root key, with a cache that bounds how long a key lives.
//!
//! A **root key** stays in a KMS. Each account has a **KEK** that the root key wraps; each sealed object has a **DEK** of
//! its own that the KEK wraps. A decrypted KEK stays in memory for a bounded time and is then overwritten, so a service
//! that seals millions of objects makes a handful of KMS calls.
//!
//! ```
//! # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
//! use std::time::Duration;
//! use keystrata_hierarchy::{Context, Hierarchy};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # let (root, store) = (ScriptedRootKey::new("test:root"), MemoryKekStore::new());
//! let keys = Hierarchy::builder()
//!     .root_key(root) // keystrata_kms::LocalRootKey, or an adapter of yours
//!     .store(store) // keystrata_store::SqliteKekStore
//!     .kek_ttl(Duration::from_secs(300))
//!     .build()?;
//! let acme = keys.account("acme")?;
//! let sealed = acme.seal(b"4111 1111 1111 1111", &Context::new().with("row", "42")).await?;
//! let plain = acme.open(&sealed, &Context::new().with("row", "42")).await?;
//! assert_eq!(plain, b"4111 1111 1111 1111");
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(example())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it promises
//! - No operation that begins later than the TTL after the KMS was asked uses that KEK. Its bytes are overwritten within a
//!   tenth of a second of that, within a second where the machine was suspended or its clock set, busy or idle. Use never
//!   lengthens a life; only an unwrap that the KMS allowed does, after the record was read again. (A
//!   [policy](PolicyBuilder::max_stale) may allow more while the KMS is out of reach; by default none does.)
//! - A miss costs one KMS call, however many callers of a runtime wait for it. (Losing a race to make an account's first
//!   KEK costs one more. A cache far too small for its traffic costs more: see [`HierarchyBuilder::capacity`].)
//! - A KEK that is used near its deadline is renewed in the background, so that nobody waits for it.
//! - What was [invalidated](Hierarchy::invalidate), or denied by the KMS, is overwritten at once, and a load that was under
//!   way does not bring it back.
//! - Nothing is sealed under a KEK that is not durably stored; creators and rotators at once, in any number of processes, end
//!   with one KEK that all use.
//! - An envelope opens under its own account, KEK and context only.
//!
//! What wraps an account's KEK is its [`Placement`]: root keys, one or several, its own or shared; the KEK of its path's
//! parent; or that of a group. A KEK that another unwrapped never outlives it, and is overwritten with it.
//!
//! # What it does not
//! See `docs/threat-model.md`: code in the same process, root, registers, and the buffers of a KMS client are outside what
//! can be wiped here.
#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod account;
mod audit;
mod cache;
pub mod clock;
mod engine;
mod enveloped;
mod error;
mod flight;
mod hierarchy;
pub mod jobs;
mod lifecycle;
mod policy;
mod refusals;
mod root;
mod signals;
mod store;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
mod topology;
mod watched;

pub use keystrata_memory::{Backing, MemoryError, MemoryReport, OnUnprotected};
pub use keystrata_primitives::{
    Context, ContextError, KekId, KekRecord, KekState, KekVersion, KeyPath, PathError, RootKeyId, SecretKey, Suite,
    WrappedSecret, Wrapper,
    envelope::{AsyncOpener, AsyncSealer, EnvelopeError, Opener, Sealer, StreamError},
};

#[cfg(feature = "audit-file")]
pub use self::audit::{AuditFsync, JsonLinesAudit};
pub use self::{
    account::{
        Account, Expiring,
        rewrap::{HeaderBytes, RekeyError, RewrapEachError, RewrapError, RewrapTally, Rewrapped},
    },
    audit::{AuditAction, AuditError, AuditEvent, AuditOutcome, AuditSink, OnAuditFailure, TracingAudit},
    clock::{Clock, SystemClock},
    engine::{health::Health, recover::Recovered, upkeep::Warmed},
    enveloped::{Enveloped, EnvelopedError, MoveError},
    error::{BuildError, KeyError, OpenError, SealError, StreamExpired},
    hierarchy::{Hierarchy, HierarchyBuilder},
    lifecycle::{Change, LifecycleError, Reroot, Rerooted, RewrapScan, ShredPlan, Shredded},
    policy::{Policy, PolicyBuilder},
    root::{Cause, Demand, GeneratedKey, RootContext, RootKey, RootKeyError, Urgency},
    signals::Stats,
    store::{
        AccountCopy, Accounts, CheckEvent, CheckReport, CopyError, CopyEvent, CopyMode, CopyReport, Creation, Fault,
        Finding, Heads, Import, KekStore, MemoryKekStore, PathHead, Raise, Rotation, Shred, StoreError, Tombstone,
        Unreadable, UnwrapAllError, UnwrapReport, Unwrapping, Update, WrappedBy, WrapperQuery, check_store, copy_store,
        unwrap_all,
    },
    topology::{Placement, PlacementFault, Roots, RootsBuilder},
};

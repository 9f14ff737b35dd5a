//! Root keys for Keystrata: adapters that put a KMS behind [`RootKey`](keystrata_hierarchy::RootKey).
//!
//! | adapter | key | for |
//! |---|---|---|
//! | [`LocalRootKey`] | a file | development, tests, demos |
//!
//! ```
//! use keystrata_hierarchy::{RootContext, RootKey};
//! use keystrata_kms::LocalRootKey;
//! # use secrecy::ExposeSecret;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("root.key");
//! LocalRootKey::create(&path)?; // once; `keystrata init` does it too
//!
//! let root = LocalRootKey::open(&path)?;
//! let generated = root.generate_key(&RootContext::none()).await?;
//! let secret = root.unwrap_key(&generated.wrapped, &RootContext::none()).await?;
//! assert_eq!(secret.expose_secret(), generated.secret.expose_secret());
//! assert_eq!(root.calls(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Around any of them, [`Guard`] puts a [`Budget`] that the calls of this process cannot exceed, retries, a breaker and
//! deadlines.
//!
//! An adapter of your own implements `RootKey` and runs `keystrata_hierarchy::test_util::conformance::root_key`.
#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod breaker;
mod budget;
mod counted;
mod guard;
mod local;
mod retrying;
mod signals;
mod timed;
mod timer;

pub use self::{
    breaker::{Breaker, BreakerOpen, BreakerPolicy, BreakerState},
    budget::{Budget, BudgetStats, Budgeted},
    counted::{CallStats, Counted, Operation, Outcome},
    guard::{Guard, GuardStats, Guarded},
    local::{LocalRootKey, LocalRootKeyError},
    retrying::{RetryPolicy, Retrying},
    timed::{Timed, TooSlow},
    timer::Timer,
};

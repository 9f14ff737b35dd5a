//! Root keys for Keystrata: adapters that put a KMS behind [`RootKey`](keystrata_hierarchy::RootKey).
//!
//! | adapter | key | cargo feature |
//! |---|---|---|
//! | [`LocalRootKey`], [`LocalKeyRing`] | a file, several files: for development, tests, demos | |
//! | `AwsKmsRootKey` | AWS KMS | `aws` |
//! | `VaultTransitRootKey` | the transit engine of HashiCorp Vault or OpenBao | `vault` |
//! | `GcpKmsRootKey` | Google Cloud KMS | `gcp` |
//!
//! [`open()`] makes one from a URI, so that a service moves from one to another by its settings alone, and [`verify_root`] tells
//! whether it works and what permission is missing. No feature is on by default, and without them no SDK is compiled.
//! `docs/kms.md` has the setup of each service and the least that it must be allowed.
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

#[cfg(any(feature = "aws", feature = "vault", feature = "gcp"))]
mod attempt;
#[cfg(feature = "aws")]
mod aws;
#[cfg(any(feature = "vault", feature = "gcp"))]
mod base64_key;
mod breaker;
mod budget;
#[cfg(any(feature = "aws", feature = "vault", feature = "gcp"))]
mod clients;
mod counted;
#[cfg(feature = "gcp")]
mod gcp;
mod guard;
#[cfg(any(feature = "vault", feature = "gcp"))]
mod http;
mod local;
mod open;
mod price;
mod retrying;
mod sent;
mod signals;
#[cfg(any(feature = "aws", feature = "vault", feature = "gcp"))]
mod text;
mod timed;
mod timer;
#[cfg(any(feature = "aws", feature = "vault", feature = "gcp"))]
mod turn;
mod uri;
#[cfg(feature = "vault")]
mod vault;
mod verify;

#[cfg(feature = "aws")]
pub use self::aws::{AwsErrorClass, AwsKeyFacts, AwsKmsConfig, AwsKmsRootKey, aws_error_class};
#[cfg(feature = "gcp")]
pub use self::gcp::{GcpAuth, GcpKmsConfig, GcpKmsRootKey};
#[cfg(feature = "vault")]
pub use self::vault::{VaultAuth, VaultSecret, VaultTransitConfig, VaultTransitRootKey};
pub use self::{
    breaker::{Breaker, BreakerOpen, BreakerPolicy, BreakerState},
    budget::{Budget, BudgetStats, Budgeted, SendAgain, further_request},
    counted::{CallStats, Counted, Operation, Outcome},
    guard::{Guard, GuardStats, Guarded},
    local::{LocalKeyRing, LocalRootKey, LocalRootKeyError},
    open::{OpenRootError, check_uri, open},
    price::{ListPrice, estimated_cost},
    retrying::{RetryPolicy, Retrying},
    sent::not_sent,
    timed::{Timed, TooSlow},
    timer::Timer,
    verify::{VerifyRootError, VerifyStep, verify_root},
};

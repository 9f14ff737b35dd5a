//! The record of what was done to keys: who, what, which KEK, and what became of it.

mod tracing_sink;

#[cfg(feature = "audit-file")]
mod file;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use keystrata_primitives::{KekId, KekVersion, KeyPath};

#[cfg(feature = "audit-file")]
pub use self::file::{AuditFsync, JsonLinesAudit};
pub use self::tracing_sink::TracingAudit;
use crate::root::Cause;

/// Takes down what is done to the KEKs of accounts. Seals and opens are none of it.
///
/// A change is told twice: as [intended](AuditOutcome::Intended) before anything is written, and by its outcome
/// afterwards. An intent without an outcome is a change whose process ended meanwhile: it may have been made.
///
/// ```
/// # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
/// use std::sync::Mutex;
/// use keystrata_hierarchy::{AuditError, AuditEvent, AuditSink, Context, Hierarchy};
///
/// #[derive(Debug, Default)]
/// struct Notebook(Mutex<Vec<String>>);
///
/// #[async_trait::async_trait]
/// impl AuditSink for Notebook {
///     async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
///         let line = format!("{} {} {} {}", event.actor, event.action, event.path, event.outcome);
///         self.0.lock().map_err(|_| AuditError::new("the notebook is torn"))?.push(line);
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let (root, store) = (ScriptedRootKey::new("test:root"), MemoryKekStore::new());
/// let notebook = std::sync::Arc::new(Notebook::default());
/// let keys = Hierarchy::builder().root_key(root).store(store).audit(notebook.clone()).actor("billing").build()?;
/// keys.account("acme")?.seal(b"x", &Context::none()).await?;
/// keys.as_actor("alice@example.com").account("acme")?.rotate().await?;
/// let lines = notebook.0.lock().map_err(|_| "torn")?;
/// assert_eq!(lines[..2], ["billing created acme intended", "billing created acme done"]);
/// assert_eq!(lines[2..], ["alice@example.com rotated acme intended", "alice@example.com rotated acme done"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait AuditSink: fmt::Debug + Send + Sync {
    /// Takes `event` down: durably, where it is to be evidence. What it waits for, the change waits for.
    ///
    /// # Errors
    /// [`AuditError`]; [`OnAuditFailure`] says what becomes of the change.
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError>;
}

#[async_trait]
impl<S: AuditSink + ?Sized> AuditSink for Arc<S> {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        (**self).record(event).await
    }
}

/// Why an event was not taken down.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit event was not recorded: {message}")]
pub struct AuditError {
    message: String,
    #[source]
    source: Option<Cause>,
}

impl AuditError {
    /// Without a cause. `message` says what happened and what to do.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// With its cause.
    pub fn caused(message: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { message: message.into(), source: Some(Arc::new(source)) }
    }
}

/// What becomes of a change that could not be recorded before it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAuditFailure {
    /// It is not made, and its caller gets [`KeyError::NotRecorded`](crate::KeyError::NotRecorded). The default.
    ///
    /// What has happened already cannot be refused: an outcome that is not recorded, or a denial by the KMS, is an
    /// error in the log and counts in [`Stats::audit_failures`](crate::Stats).
    #[default]
    Refuse,
    /// It is made, with an error in the log. For those to whom an account that cannot be disabled is worse than one that
    /// was disabled without a trace.
    GoOn,
}

/// One thing that was done to an account, or is about to be. Holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEvent {
    /// When, since the Unix epoch, by the engine's clock.
    pub at: Duration,
    /// Who, as [`Hierarchy::as_actor`](crate::Hierarchy::as_actor) or
    /// [`HierarchyBuilder::actor`](crate::HierarchyBuilder::actor) said; empty if neither did. It is believed, not checked.
    pub actor: Arc<str>,
    /// What.
    pub action: AuditAction,
    /// Whose KEKs.
    pub path: KeyPath,
    /// Which of them; `None` for all.
    pub kek_id: Option<KekId>,
    /// The version of that one, or the version that the action names.
    pub version: Option<KekVersion>,
    /// What became of it.
    pub outcome: AuditOutcome,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditAction {
    /// The account's first KEK was made.
    Created,
    /// A new KEK became the primary.
    Rotated,
    /// The account, or one version, seals and opens again.
    Enabled,
    /// The account opens and does not seal.
    SealingDisabled,
    /// The account, or one version, neither seals nor opens.
    Disabled,
    /// Versions below one do not open any more.
    MinVersionRaised,
    /// One version was destroyed.
    Destroyed,
    /// All versions were destroyed, and the path is out of use.
    Shredded,
    /// What wraps the account's KEKs was changed.
    Rerooted,
    /// A recovery root unwrapped the account's KEKs.
    Recovered,
    /// The KMS denied a KEK of the account. Told once, without an intent.
    Denied,
}

impl AuditAction {
    /// One word, as the sinks here write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Rotated => "rotated",
            Self::Enabled => "enabled",
            Self::SealingDisabled => "sealing-disabled",
            Self::Disabled => "disabled",
            Self::MinVersionRaised => "min-version-raised",
            Self::Destroyed => "destroyed",
            Self::Shredded => "shredded",
            Self::Rerooted => "rerooted",
            Self::Recovered => "recovered",
            Self::Denied => "denied",
        }
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditOutcome {
    /// Nothing yet: it is about to be done.
    Intended,
    /// It was done.
    Done,
    /// There was nothing to do, or somebody else was first.
    Unchanged,
    /// It was not done, or may have been, if that is what the message says.
    Failed(String),
}

impl AuditOutcome {
    /// One word, as the sinks here write it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it was not done.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(message) => Some(message),
            _ => None,
        }
    }
}

impl fmt::Display for AuditOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        self.failure().map_or(Ok(()), |message| write!(f, ": {message}"))
    }
}

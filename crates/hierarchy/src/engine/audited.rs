//! Telling an audit sink what is about to be done, and what became of it.

use std::{fmt, sync::Arc};

use keystrata_primitives::{KekId, KekIdentity, KekVersion, KeyPath};

use super::Engine;
use crate::{
    audit::{AuditAction, AuditEvent, AuditOutcome, AuditSink, OnAuditFailure},
    error::KeyError,
    signals::Signals,
};

/// Who does something.
pub(crate) type Actor = Arc<str>;

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    pub(crate) sink: Arc<dyn AuditSink>,
    pub(crate) on_failure: OnAuditFailure,
}

/// Something that is done to an account's KEKs, and by whom.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    pub(super) actor: Actor,
    pub(super) action: AuditAction,
    pub(super) path: KeyPath,
    pub(super) kek_id: Option<KekId>,
    pub(super) version: Option<KekVersion>,
}

impl Deed {
    /// To all KEKs of the account.
    pub(super) fn to_all(actor: &Actor, action: AuditAction, path: &KeyPath) -> Self {
        Self { actor: Arc::clone(actor), action, path: path.clone(), kek_id: None, version: None }
    }

    /// To this one.
    pub(super) fn to_one(actor: &Actor, action: AuditAction, kek: &KekIdentity) -> Self {
        Self { kek_id: Some(kek.id), version: Some(kek.version), ..Self::to_all(actor, action, &kek.path) }
    }

    fn event(&self, engine: &Engine, outcome: AuditOutcome) -> AuditEvent {
        AuditEvent {
            at: engine.now().real,
            actor: Arc::clone(&self.actor),
            action: self.action,
            path: self.path.clone(),
            kek_id: self.kek_id,
            version: self.version,
            outcome,
        }
    }
}

impl Engine {
    /// Who does what nobody asked for by name.
    pub(crate) fn actor(&self) -> &Actor {
        &self.config.actor
    }

    /// Runs `work` between two events. It is not begun if the first could not be recorded and its policy is to refuse.
    pub(super) async fn audited<T, E: From<KeyError> + fmt::Display>(
        &self,
        deed: &Deed,
        work: impl Future<Output = Result<T, E>>,
        became: impl FnOnce(&T) -> AuditOutcome,
    ) -> Result<T, E> {
        let Some(audit) = &self.config.audit else { return work.await };
        if let Err(error) = audit.sink.record(&deed.event(self, AuditOutcome::Intended)).await {
            self.signals.audit_failures.add(1);
            tracing::error!(%error, action = %deed.action, "an audit event was not recorded");
            if audit.on_failure == OnAuditFailure::Refuse {
                return Err(KeyError::NotRecorded(error).into());
            }
        }
        let result = work.await;
        let outcome = match &result {
            Ok(done) => became(done),
            Err(error) => AuditOutcome::Failed(error.to_string()),
        };
        record(&self.signals, &audit.sink, deed.event(self, outcome)).await;
        result
    }

    /// Something that happened to a KEK and that nobody here decided. Nobody waits until it is recorded.
    pub(super) fn tell(&self, deed: &Deed, outcome: AuditOutcome) {
        let (Some(audit), Ok(runtime)) = (&self.config.audit, self.runtime()) else { return };
        let (signals, sink) = (Arc::clone(&self.signals), Arc::clone(&audit.sink));
        let event = deed.event(self, outcome);
        runtime.spawn(async move { record(&signals, &sink, event).await });
    }
}

/// What has happened already cannot be refused any more.
async fn record(signals: &Signals, sink: &Arc<dyn AuditSink>, event: AuditEvent) {
    if let Err(error) = sink.record(&event).await {
        signals.audit_failures.add(1);
        tracing::error!(%error, action = %event.action, outcome = %event.outcome, "an audit event was not recorded");
    }
}

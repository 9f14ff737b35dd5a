//! Audit events as lines of the log.

use async_trait::async_trait;
use keystrata_primitives::KekVersion;

use super::{AuditError, AuditEvent, AuditSink};

/// Writes every event to whatever subscriber `tracing` has, as level `info` of the target `keystrata::audit`.
///
/// As durable as that subscriber is, and it never fails: a filter that leaves the target out leaves the events out.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingAudit;

#[async_trait]
impl AuditSink for TracingAudit {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        tracing::info!(
            target: "keystrata::audit",
            at_ms = u64::try_from(event.at.as_millis()).unwrap_or(u64::MAX),
            actor = &*event.actor,
            action = event.action.as_str(),
            account = %event.path,
            kek_id = event.kek_id.map(tracing::field::display),
            version = event.version.map(KekVersion::get),
            outcome = event.outcome.as_str(),
            failure = event.outcome.failure(),
            "key life cycle"
        );
        Ok(())
    }
}

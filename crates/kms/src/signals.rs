//! The names under which all this can be watched. Described in `docs/operations.md`.
//!
//! Labels are few by construction: names that the operator gives, and words from this file. No account, no key id.

use std::{sync::Arc, time::Duration};

use keystrata_hierarchy::{RootKeyError, Urgency};
use metrics::{SharedString, counter, gauge, histogram};

use crate::{breaker::BreakerState, budget::Reason};

fn label(name: &Arc<str>) -> SharedString {
    SharedString::from_shared(Arc::clone(name))
}

fn word(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Foreground => "foreground",
        Urgency::Background => "background",
    }
}

pub(crate) fn attempt(root: &Arc<str>, operation: &'static str, outcome: &'static str, took: Duration) {
    let labels = [("root", label(root)), ("operation", operation.into()), ("outcome", outcome.into())];
    counter!("keystrata_kms_attempts_total", &labels).increment(1);
    histogram!("keystrata_kms_attempt_seconds", &labels[..2]).record(took.as_secs_f64());
}

pub(crate) fn retried(root: &Arc<str>, error: &RootKeyError) {
    let reason = if matches!(error, RootKeyError::Throttled { .. }) { "throttled" } else { "unavailable" };
    counter!("keystrata_kms_retries_total", "root" => label(root), "reason" => reason).increment(1);
}

pub(crate) fn breaker_state(root: &Arc<str>, state: BreakerState) {
    let value = match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    };
    gauge!("keystrata_kms_breaker_state", "root" => label(root)).set(value);
}

pub(crate) fn breaker_refused(root: &Arc<str>) {
    counter!("keystrata_kms_breaker_refused_total", "root" => label(root)).increment(1);
}

pub(crate) fn budget_admitted(budget: &Arc<str>, urgency: Urgency, waited: Duration) {
    let labels = [("budget", label(budget)), ("urgency", word(urgency).into())];
    counter!("keystrata_budget_admitted_total", &labels).increment(1);
    histogram!("keystrata_budget_wait_seconds", &labels).record(waited.as_secs_f64());
}

pub(crate) fn budget_refused(budget: &Arc<str>, reason: Reason) {
    let reason = match reason {
        Reason::QueueFull => "queue_full",
        Reason::Deadline => "deadline",
    };
    counter!("keystrata_budget_refused_total", "budget" => label(budget), "reason" => reason).increment(1);
}

pub(crate) fn budget_left(budget: &Arc<str>) {
    counter!("keystrata_budget_left_total", "budget" => label(budget)).increment(1);
}

pub(crate) fn budget_waiting(budget: &Arc<str>, waiting: usize) {
    #[expect(clippy::cast_precision_loss, reason = "no queue is that long")]
    gauge!("keystrata_budget_waiting", "budget" => label(budget)).set(waiting as f64);
}

pub(crate) fn budget_rate(budget: &Arc<str>, per_second: f64) {
    gauge!("keystrata_budget_rate", "budget" => label(budget)).set(per_second);
}

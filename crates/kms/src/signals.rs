//! The names under which all this can be watched. Described in `docs/operations.md`.
//!
//! Labels are few by construction: names that the operator gives, and words from this file. No account, no key id.
//!
//! Keys are made once and the recorder is asked each time: an exporter may be installed later than a budget is made, and
//! where there is none an attempt should not pay for one.

use std::{fmt, sync::Arc, time::Duration};

use keystrata_hierarchy::{RootKeyError, Urgency};
use metrics::{Key, Label, Level, Metadata, Recorder, SharedString, with_recorder};

use crate::{
    breaker::BreakerState,
    budget::Reason,
    counted::{Operation, Outcome},
};

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// What is told of one root key.
pub(crate) struct RootSignals {
    label: Arc<str>,
    attempts: [[Key; Outcome::ALL.len()]; Operation::ALL.len()],
    seconds: [Key; Operation::ALL.len()],
    unsent: Key,
    further: Key,
    throttled: Key,
    unavailable: Key,
    breaker_state: Key,
    breaker_refused: Key,
}

impl RootSignals {
    pub(crate) fn new(label: &str) -> Arc<Self> {
        let label: Arc<str> = Arc::from(label);
        let key = |name, labels: &[(&'static str, &'static str)]| key(name, ("root", &label), labels);
        let attempt = |operation: Operation, outcome: Outcome| {
            let labels = [("operation", operation.name()), ("outcome", outcome.name())];
            key("keystrata_kms_attempts_total", &labels)
        };
        Arc::new(Self {
            attempts: Operation::ALL.map(|operation| Outcome::ALL.map(|outcome| attempt(operation, outcome))),
            seconds: Operation::ALL
                .map(|operation| key("keystrata_kms_attempt_seconds", &[("operation", operation.name())])),
            unsent: key("keystrata_kms_unsent_total", &[]),
            further: key("keystrata_kms_further_requests_total", &[]),
            throttled: key("keystrata_kms_retries_total", &[("reason", "throttled")]),
            unavailable: key("keystrata_kms_retries_total", &[("reason", "unavailable")]),
            breaker_state: key("keystrata_kms_breaker_state", &[]),
            breaker_refused: key("keystrata_kms_breaker_refused_total", &[]),
            label,
        })
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn attempt(&self, operation: Operation, outcome: Outcome, took: Duration) {
        with_recorder(|recorder| {
            count(recorder, &self.attempts[operation as usize][outcome as usize]);
            observe(recorder, &self.seconds[operation as usize], took);
        });
    }

    /// One of those that [`attempt`](Self::attempt) tells of was not sent.
    pub(crate) fn unsent(&self) {
        with_recorder(|recorder| count(recorder, &self.unsent));
    }

    pub(crate) fn further_request(&self) {
        with_recorder(|recorder| count(recorder, &self.further));
    }

    pub(crate) fn retried(&self, error: &RootKeyError) {
        let is_throttled = matches!(error, RootKeyError::Throttled { .. });
        let key = if is_throttled { &self.throttled } else { &self.unavailable };
        with_recorder(|recorder| count(recorder, key));
    }

    pub(crate) fn breaker_state(&self, state: BreakerState) {
        let value = match state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        };
        with_recorder(|recorder| set(recorder, &self.breaker_state, value));
    }

    pub(crate) fn breaker_refused(&self) {
        with_recorder(|recorder| count(recorder, &self.breaker_refused));
    }
}

impl fmt::Debug for RootSignals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RootSignals").field(&self.label).finish()
    }
}

/// What is told of one budget.
pub(crate) struct BudgetSignals {
    name: Arc<str>,
    /// By urgency, background first.
    admitted: [Key; 2],
    wait_seconds: [Key; 2],
    queue_full: Key,
    deadline: Key,
    left: Key,
    waiting: Key,
    rate: Key,
}

impl BudgetSignals {
    pub(crate) fn new(name: &str) -> Self {
        let name: Arc<str> = Arc::from(name);
        let key = |metric, labels: &[(&'static str, &'static str)]| key(metric, ("budget", &name), labels);
        let by_urgency = |metric| ["background", "foreground"].map(|urgency| key(metric, &[("urgency", urgency)]));
        Self {
            admitted: by_urgency("keystrata_budget_admitted_total"),
            wait_seconds: by_urgency("keystrata_budget_wait_seconds"),
            queue_full: key("keystrata_budget_refused_total", &[("reason", "queue_full")]),
            deadline: key("keystrata_budget_refused_total", &[("reason", "deadline")]),
            left: key("keystrata_budget_left_total", &[]),
            waiting: key("keystrata_budget_waiting", &[]),
            rate: key("keystrata_budget_rate", &[]),
            name,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn admitted(&self, urgency: Urgency, waited: Duration) {
        let index = usize::from(urgency == Urgency::Foreground);
        with_recorder(|recorder| {
            count(recorder, &self.admitted[index]);
            observe(recorder, &self.wait_seconds[index], waited);
        });
    }

    pub(crate) fn refused(&self, reason: Reason) {
        let key = match reason {
            Reason::QueueFull => &self.queue_full,
            Reason::Deadline => &self.deadline,
        };
        with_recorder(|recorder| count(recorder, key));
    }

    pub(crate) fn left(&self) {
        with_recorder(|recorder| count(recorder, &self.left));
    }

    pub(crate) fn waiting(&self, waiting: usize) {
        #[expect(clippy::cast_precision_loss, reason = "no queue is that long")]
        with_recorder(|recorder| set(recorder, &self.waiting, waiting as f64));
    }

    pub(crate) fn rate(&self, per_second: f64) {
        with_recorder(|recorder| set(recorder, &self.rate, per_second));
    }
}

fn key(name: &'static str, (label, value): (&'static str, &Arc<str>), labels: &[(&'static str, &'static str)]) -> Key {
    let first = Label::new(label, SharedString::from_shared(Arc::clone(value)));
    let others = labels.iter().map(|(label, value)| Label::from_static_parts(label, value));
    Key::from_parts(name, std::iter::once(first).chain(others).collect::<Vec<_>>())
}

fn count(recorder: &dyn Recorder, key: &Key) {
    recorder.register_counter(key, &METADATA).increment(1);
}

fn observe(recorder: &dyn Recorder, key: &Key, time: Duration) {
    recorder.register_histogram(key, &METADATA).record(time.as_secs_f64());
}

fn set(recorder: &dyn Recorder, key: &Key, value: f64) {
    recorder.register_gauge(key, &METADATA).set(value);
}

//! How a breaker stands, and who is let through.

use std::{fmt, sync::Arc, time::Duration};

use keystrata_hierarchy::RootKeyError;
use keystrata_memory::ProcessLocal;
use tokio::sync::watch;

use super::{BreakerOpen, BreakerPolicy, BreakerState};
use crate::{signals::RootSignals, timer::Timer};

/// The breaker without its root key: what those who wait behind it look at. Clones are the same gate.
#[derive(Clone)]
pub(crate) struct Gate {
    signals: Arc<RootSignals>,
    policy: BreakerPolicy,
    timer: Timer,
    /// A forked child begins closed: its parent's lock may never be released there.
    state: Arc<ProcessLocal<watch::Sender<State>>>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    phase: Phase,
    /// Calls that began before it last opened or closed, or a probe failed, do not count any more.
    epoch: u64,
    failed_probes: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed {
        failures: u32,
    },
    Open {
        until: Duration,
    },
    /// Somebody else may probe from `until` on: the first one may be on a runtime that nobody drives any more.
    Probing {
        until: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Answered,
    NoAnswer,
    /// Dropped, or not sent at all.
    Unknown,
}

impl Gate {
    pub(crate) fn new(signals: Arc<RootSignals>, policy: BreakerPolicy, timer: Timer) -> Self {
        let closed = State { phase: Phase::Closed { failures: 0 }, epoch: 0, failed_probes: 0 };
        let state = Arc::new(ProcessLocal::new(move || watch::Sender::new(closed)));
        Self { signals, policy, timer, state }
    }

    pub(crate) fn state(&self) -> BreakerState {
        let now = self.timer.now();
        match self.state.get().borrow().phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { until } if now < until => BreakerState::Open,
            Phase::Open { .. } | Phase::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    /// Returns the refusal once the breaker is open.
    pub(crate) async fn opened(&self) -> RootKeyError {
        let mut states = self.state.get().subscribe();
        // The one who probes waits here too, and is not to be turned away.
        let opened = states.wait_for(|state| matches!(state.phase, Phase::Open { .. })).await;
        let until = match opened.as_deref() {
            Ok(State { phase: Phase::Open { until }, .. }) => *until,
            _ => Duration::ZERO,
        };
        self.refusal(until.saturating_sub(self.timer.now()))
    }

    pub(super) fn pass(&self) -> Result<Pass<'_>, RootKeyError> {
        if let State { phase: Phase::Closed { .. }, epoch, .. } = *self.state.get().borrow() {
            return Ok(Pass { gate: self, epoch, verdict: Verdict::Unknown }); // nearly always
        }
        let now = self.timer.now();
        let mut pass = Err(Duration::ZERO);
        // Whether anything changed says whom to wake: nobody, on most calls.
        self.state.get().send_if_modified(|state| match state.phase {
            Phase::Closed { .. } => {
                pass = Ok((state.epoch, false));
                false
            }
            Phase::Open { until } | Phase::Probing { until } if now < until => {
                pass = Err(until.saturating_sub(now));
                false
            }
            Phase::Open { .. } | Phase::Probing { .. } => {
                let until = now.saturating_add(self.pause(state.failed_probes));
                // The epoch stays: what an earlier probe that is still out will say counts as much as this one's answer.
                state.phase = Phase::Probing { until };
                pass = Ok((state.epoch, true));
                true
            }
        });
        match pass {
            Ok((epoch, is_probe)) => {
                if is_probe {
                    self.tell(BreakerState::HalfOpen);
                }
                Ok(Pass { gate: self, epoch, verdict: Verdict::Unknown })
            }
            Err(retry_after) => {
                self.signals.breaker_refused();
                Err(self.refusal(retry_after))
            }
        }
    }

    fn end(&self, epoch: u64, verdict: Verdict) {
        if verdict == Verdict::Answered && matches!(self.state.get().borrow().phase, Phase::Closed { failures: 0 }) {
            return; // nearly always
        }
        let now = self.timer.now();
        let mut told = None;
        self.state.get().send_if_modified(|state| {
            if state.epoch != epoch {
                return false;
            }
            let next = match (state.phase, verdict) {
                (Phase::Closed { failures: 0 }, Verdict::Answered) | (Phase::Closed { .. }, Verdict::Unknown) => {
                    return false;
                }
                (_, Verdict::Answered) => Phase::Closed { failures: 0 },
                (Phase::Closed { failures }, Verdict::NoAnswer)
                    if failures.saturating_add(1) < self.policy.failures =>
                {
                    Phase::Closed { failures: failures + 1 }
                }
                (Phase::Closed { .. }, Verdict::NoAnswer) => Phase::Open { until: now.saturating_add(self.pause(0)) },
                (Phase::Probing { .. } | Phase::Open { .. }, Verdict::NoAnswer) => {
                    state.failed_probes = state.failed_probes.saturating_add(1);
                    Phase::Open { until: now.saturating_add(self.pause(state.failed_probes)) }
                }
                (Phase::Probing { .. } | Phase::Open { .. }, Verdict::Unknown) => Phase::Open { until: now },
            };
            let changes = !matches!((state.phase, next), (Phase::Closed { .. }, Phase::Closed { .. }));
            if changes {
                // A probe that was dropped takes nothing from others that are out.
                state.epoch += u64::from(verdict != Verdict::Unknown);
                told = Some(next);
            }
            if matches!(next, Phase::Closed { .. }) {
                state.failed_probes = 0;
            }
            state.phase = next;
            changes
        });
        match told {
            Some(Phase::Closed { .. }) => {
                tracing::info!(root = self.signals.label(), "the root key answers again");
                self.tell(BreakerState::Closed);
            }
            Some(Phase::Open { until }) => {
                let pause = until.saturating_sub(now);
                tracing::warn!(
                    root = self.signals.label(),
                    ?pause,
                    "the root key does not answer: it is left alone for a while"
                );
                self.tell(BreakerState::Open);
            }
            Some(Phase::Probing { .. }) | None => {}
        }
    }

    fn pause(&self, failed_probes: u32) -> Duration {
        let doubled = self.policy.pause.saturating_mul(2_u32.saturating_pow(failed_probes));
        doubled.min(self.policy.longest_pause.max(self.policy.pause))
    }

    fn tell(&self, state: BreakerState) {
        self.signals.breaker_state(state);
    }

    fn refusal(&self, retry_after: Duration) -> RootKeyError {
        let message = format!(
            "it did not answer {} times in a row; it will be asked again in {retry_after:?}",
            self.policy.failures.max(1)
        );
        RootKeyError::Unavailable { message, source: Some(Arc::new(BreakerOpen { retry_after })) }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("label", &self.signals.label())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// One call that was let through.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    epoch: u64,
    verdict: Verdict,
}

impl Pass<'_> {
    pub(super) fn end(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.end(self.epoch, self.verdict);
    }
}

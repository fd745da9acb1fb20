//! The breaker of a relay: whether it sends, probes the broker, or waits.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::batch::BatchOutcome;
use super::status::{Breaker, Status};
use crate::messenger::Health;
use crate::util::backoff::Backoff;

/// How many batches in a row must fail as a whole, with a broker that is up, before the breaker opens.
const FAILURES: u32 = 3;

/// How many messages the relay may lease now.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Gate {
    /// As many as the window has room for.
    Closed,
    /// None before the next probe.
    Open { next_probe: Instant },
    /// None while a probe runs.
    Probing,
    /// One message.
    HalfOpen,
}

pub(super) struct RelayBreaker {
    gate: Gate,
    /// How many sends and probes failed in a row.
    failures: u32,
}

impl Default for RelayBreaker {
    fn default() -> Self {
        Self { gate: Gate::Closed, failures: 0 }
    }
}

impl RelayBreaker {
    pub(super) fn gate(&self) -> Gate {
        self.gate
    }

    /// Notes that a probe has begun.
    pub(super) fn probing(&mut self) {
        self.gate = Gate::Probing;
    }

    /// Returns the shortest wait before a retry of messages sent now.
    pub(super) fn retry_wait(&self) -> Duration {
        match self.gate {
            // The next probe should use another message: this one may be the cause.
            Gate::HalfOpen => Backoff::default().ceiling(self.failures.saturating_add(2)),
            _ => Duration::ZERO,
        }
    }

    /// Takes the outcome of a batch into account.
    pub(super) fn judge(&mut self, outcome: &BatchOutcome, status: &Status) {
        match outcome {
            BatchOutcome::Nothing | BatchOutcome::Panicked(_) => {}
            BatchOutcome::Passed => {
                if self.gate != Gate::Closed && self.gate != Gate::HalfOpen {
                    // The batch was sent before the breaker opened.
                    return;
                }
                if self.gate == Gate::HalfOpen {
                    tracing::info!("the broker confirms messages again");
                    status.set_breaker(Breaker::Closed);
                }
                self.gate = Gate::Closed;
                self.failures = 0;
            }
            BatchOutcome::Failed | BatchOutcome::Poisoned => {
                self.failures = self.failures.saturating_add(1);
                if self.gate == Gate::HalfOpen || (self.gate == Gate::Closed && self.failures >= FAILURES) {
                    self.open(status);
                }
            }
            BatchOutcome::Down => {
                if matches!(self.gate, Gate::Closed | Gate::HalfOpen) {
                    self.failures = self.failures.saturating_add(1);
                    self.open(status);
                }
            }
        }
    }

    /// Takes the result of a probe into account.
    pub(super) fn probed(&mut self, health: &Health, status: &Status) {
        if health.is_up() {
            self.gate = Gate::HalfOpen;
            status.set_breaker(Breaker::HalfOpen);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.open(status);
        }
    }

    fn open(&mut self, status: &Status) {
        if self.gate == Gate::Closed {
            tracing::warn!("the broker is down; stored messages wait until it is back");
        }
        let delay = Backoff::default().delay(self.failures);
        self.gate = Gate::Open { next_probe: Instant::now() + delay };
        status.open_breaker(SystemTime::now() + delay);
    }
}

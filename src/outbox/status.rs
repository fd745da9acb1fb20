//! The status of an outbox.

use std::sync::Mutex;
use std::time::SystemTime;

use crate::store::Counts;
use crate::telemetry;
use crate::util::rate::Rate;
use crate::util::sync::lock;
use serde::{Deserialize, Serialize};

/// The status of an outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OutboxStatus {
    /// The place of the store.
    pub place: String,
    /// How much is stored.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages stored each second, over the last minute.
    pub stored_per_second: f64,
    /// Messages confirmed each second, over the last minute.
    pub confirmed_per_second: f64,
    /// The state of the relay's breaker.
    pub breaker: Breaker,
    /// The last failure of sending, with its time.
    pub last_error: Option<(SystemTime, String)>,
}

/// Whether the relay sends, or waits for the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Breaker {
    /// The relay sends.
    #[default]
    Closed,
    /// The broker is down: the relay probes it and sends nothing.
    Open {
        /// The time at which the breaker opened.
        since: SystemTime,
        /// The time of the next probe.
        next_probe: SystemTime,
    },
    /// The broker is up again: the relay sends one message first.
    HalfOpen,
}

/// The state that the outbox, its relay and its handle share.
#[derive(Default)]
pub(super) struct Status {
    pub(super) confirmed: Rate,
    breaker: Mutex<Breaker>,
    /// The time at which the breaker opened, until it closes.
    opened: Mutex<Option<SystemTime>>,
    last_error: Mutex<Option<(SystemTime, String)>>,
    down: Mutex<Option<String>>,
}

impl Status {
    /// Sets the reason why the relay does not work; `None` if it works.
    pub(super) fn set_down(&self, reason: Option<String>) {
        telemetry::relay(reason.is_none());
        *lock(&self.down) = reason;
    }

    /// Returns the reason why the relay does not work.
    pub(super) fn down(&self) -> Option<String> {
        lock(&self.down).clone()
    }

    pub(super) fn failed(&self, error: String) {
        *lock(&self.last_error) = Some((SystemTime::now(), error));
    }

    /// Opens the breaker, or keeps it open.
    pub(super) fn open_breaker(&self, next_probe: SystemTime) {
        let since = *lock(&self.opened).get_or_insert_with(SystemTime::now);
        *lock(&self.breaker) = Breaker::Open { since, next_probe };
        telemetry::breaker(true);
    }

    pub(super) fn set_breaker(&self, breaker: Breaker) {
        if breaker == Breaker::Closed {
            telemetry::breaker(false);
            *lock(&self.opened) = None;
        }
        *lock(&self.breaker) = breaker;
    }

    pub(super) fn snapshot(&self, place: String, counts: Counts, stored_per_second: f64) -> OutboxStatus {
        OutboxStatus {
            place,
            counts,
            stored_per_second,
            confirmed_per_second: self.confirmed.per_second(),
            breaker: lock(&self.breaker).clone(),
            last_error: lock(&self.last_error).clone(),
        }
    }
}

//! What an outbox tells about itself.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::store::Counts;
use crate::util::rate::Rate;
use serde::{Deserialize, Serialize};

/// How an outbox fares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OutboxStatus {
    /// Where it is stored.
    pub place: String,
    /// How much is stored.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages stored a second, over the last minute.
    pub stored_per_second: f64,
    /// Messages confirmed a second, over the last minute.
    pub confirmed_per_second: f64,
    /// Whether the relay sends.
    pub breaker: Breaker,
    /// The last failure of sending, and when it was.
    pub last_error: Option<(SystemTime, String)>,
}

/// Whether the relay sends, or waits for the bus to come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Breaker {
    /// It sends.
    #[default]
    Closed,
    /// Nothing could leave: it asks the bus now and then, and sends nothing.
    Open {
        /// Since when.
        since: SystemTime,
        /// When it asks again.
        next_probe: SystemTime,
    },
    /// The bus answers again: one message goes first.
    HalfOpen,
}

/// What the outbox, its relay and its handle share.
#[derive(Default)]
pub(super) struct Status {
    pub(super) confirmed: Rate,
    breaker: Mutex<Breaker>,
    /// When the breaker opened that is not closed yet.
    opened: Mutex<Option<SystemTime>>,
    last_error: Mutex<Option<(SystemTime, String)>>,
    down: Mutex<Option<String>>,
}

impl Status {
    /// The relay does not work, for this reason; or it does.
    pub(super) fn set_down(&self, reason: Option<String>) {
        *lock(&self.down) = reason;
    }

    /// Why the relay does not work.
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
    }

    pub(super) fn set_breaker(&self, breaker: Breaker) {
        if breaker == Breaker::Closed {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

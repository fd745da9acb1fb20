//! Messages that arrived: those that the application may receive, and those that wait for their retry.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rumqttc::{Publish, QoS};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::incoming::content;
use super::session::Session;
use crate::backends::brokers::Attempts;
use crate::message::{FailedAttempt, uuid_v7};
use crate::messenger::Failure;
use crate::source::SourceError;
use crate::util::deadline;
use crate::util::error::Chain;
use crate::util::sync::lock;

/// A message that arrived, and is not settled.
pub(super) struct Letter {
    pub(super) publish: Publish,
    pub(super) session: Arc<Session>,
    /// The size of its packet.
    pub(super) size: usize,
    /// The record of its failed attempts, if there were any.
    pub(super) record: Option<u64>,
    /// When it arrived, and the id of a message without one.
    pub(super) arrived: (SystemTime, Uuid),
    /// The same by the clock of this process.
    pub(super) arrived_at: Instant,
}

impl Letter {
    /// Whether it can no longer be settled, as the broker delivers it again.
    pub(super) fn is_stale(&self) -> bool {
        self.publish.qos != QoS::AtMostOnce && self.session.is_over()
    }
}

/// The messages of a source. The intake of the connection bounds them.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    arrived: Notify,
    /// The next retry may be due earlier.
    delayed: Notify,
}

#[derive(Default)]
struct InboxState {
    ready: VecDeque<Letter>,
    waiting: BTreeMap<(Instant, u64), Letter>,
    number: u64,
    attempts: Attempts,
    error: Option<Failure>,
}

impl Inbox {
    pub(super) fn push(&self, publish: Publish, session: &Arc<Session>) {
        let (size, now) = (session.intake.arrived(), SystemTime::now());
        if session.intake.discards() {
            return;
        }
        let mut state = lock(&self.state);
        let record = match state.attempts.is_empty() {
            true => None,
            false => state.attempts.take(content(&publish)),
        };
        let arrived = (now, uuid_v7(now));
        let (session, arrived_at) = (Arc::clone(session), Instant::now());
        state.ready.push_back(Letter { publish, session, size, record, arrived, arrived_at });
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Takes the next messages, each with the number of its attempt and its earlier failures; or the permanent error.
    #[expect(clippy::type_complexity, reason = "one caller takes it apart at once")]
    pub(super) fn take(
        &self,
        limit: usize,
    ) -> Option<Result<Vec<(Letter, u32, Vec<FailedAttempt>)>, SourceError>> {
        let mut state = lock(&self.state);
        let count = state.ready.len().min(limit);
        if count > 0 {
            let InboxState { ready, attempts, .. } = &mut *state;
            let with_attempts = |letter: Letter| {
                let attempt = attempts.count(letter.record).saturating_add(1);
                let failures = attempts.last(letter.record).to_vec();
                (letter, attempt, failures)
            };
            return Some(Ok(ready.drain(..count).map(with_attempts).collect()));
        }
        state.error.take().map(|failure| Err(SourceError::unavailable(Chain(failure.cause()).to_string())))
    }

    /// Returns a message untried; it is the next.
    pub(super) fn release(&self, letter: Letter) {
        if letter.is_stale() {
            return;
        }
        lock(&self.state).ready.push_front(letter);
        self.arrived.notify_waiters();
    }

    /// Counts a failed attempt, and lets the message wait.
    pub(super) fn retry(&self, mut letter: Letter, after: Duration, reason: Arc<str>) {
        let content = content(&letter.publish);
        letter.record = Some(lock(&self.state).attempts.failed(letter.record, content, reason));
        self.delay(letter, after);
    }

    /// Lets a message wait. It stays unacknowledged, so the broker delivers it again if this process dies.
    pub(super) fn delay(&self, letter: Letter, after: Duration) {
        letter.session.intake.set_aside();
        let mut state = lock(&self.state);
        state.number += 1;
        let due = (deadline::after(Instant::now(), after), state.number);
        state.waiting.insert(due, letter);
        drop(state);
        self.delayed.notify_one();
    }

    /// Completes when the wait of a message is over.
    pub(super) async fn due(&self) {
        loop {
            let due = lock(&self.state).waiting.first_key_value().map(|((due, _), _)| *due);
            let Some(due) = due else {
                self.delayed.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(due) => return,
                () = self.delayed.notified() => {}
            }
        }
    }

    pub(super) fn end_waits(&self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        while let Some(entry) = state.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let letter = entry.remove();
            letter.session.intake.take_back();
            state.ready.push_back(letter);
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    /// The failures of a message, for its dead letter.
    pub(super) fn failures(&self, letter: &Letter) -> (u32, Vec<FailedAttempt>) {
        let state = lock(&self.state);
        (state.attempts.count(letter.record), state.attempts.last(letter.record).to_vec())
    }

    /// Forgets the failed attempts of a message that is settled.
    pub(super) fn forget(&self, letter: &Letter) {
        if letter.record.is_some() {
            lock(&self.state).attempts.forget(letter.record);
        }
    }

    /// Drops the messages that the broker delivers again, as their connection has ended.
    pub(super) fn drop_stale(&self) {
        let mut state = lock(&self.state);
        state.ready.retain(|letter| !letter.is_stale());
        state.waiting.retain(|_, letter| !letter.is_stale());
        state.attempts.give_all_back();
    }

    /// Sets or clears a permanent error for the next `receive`.
    pub(super) fn set_error(&self, error: Option<Failure>) {
        lock(&self.state).error = error;
        self.arrived.notify_waiters();
    }

    /// Completes when a message arrives after this call.
    pub(super) fn arrived(&self) -> Notified<'_> {
        self.arrived.notified()
    }

    pub(super) fn wake(&self) {
        self.arrived.notify_waiters();
    }
}

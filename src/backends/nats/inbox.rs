//! The messages that are unsettled here: those that the application may receive, and those that it has.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_nats::Subject;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::ack_subject::AckSubject;
use super::incoming::Raw;
use crate::message::FailedAttempt;
use crate::messenger::Failure;
use crate::source::SourceError;
use crate::util::error::Chain;
use crate::util::sync::lock;

/// The most messages whose failures and releases are remembered.
const REMEMBERED: usize = 10_000;

/// A message that arrived, and is not settled.
pub(super) struct Letter {
    pub(super) raw: Raw,
    pub(super) ack: AckSubject,
}

/// A message as the application receives it: with the number of its attempt, and its earlier failures.
pub(super) struct Taken {
    pub(super) letter: Letter,
    pub(super) attempt: u32,
    pub(super) failures: Vec<FailedAttempt>,
}

/// The messages of a source.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    arrived: Notify,
    /// There is more room.
    freed: Notify,
}

#[derive(Default)]
struct InboxState {
    ready: VecDeque<Letter>,
    /// All unsettled messages by their place in the stream.
    held: BTreeMap<u64, Held>,
    bytes: usize,
    failures: BTreeMap<u64, Vec<FailedAttempt>>,
    /// How often a message was returned to the server untried, which counts as a delivery there.
    released: BTreeMap<u64, u32>,
    error: Option<Failure>,
}

struct Held {
    /// Where its newest delivery is acknowledged.
    reply: Subject,
    size: usize,
}

impl InboxState {
    fn attempt(&self, ack: AckSubject) -> u32 {
        let released = self.released.get(&ack.sequence).copied().unwrap_or_default();
        ack.delivered.saturating_sub(released).max(1)
    }
}

impl Inbox {
    /// Adds a message. If it is still unsettled here, since the server lost sight of this process, only its newest delivery can be
    /// acknowledged.
    pub(super) fn push(&self, raw: Raw, ack: AckSubject, reply: Subject, size: usize) {
        let mut state = lock(&self.state);
        if let Some(held) = state.held.get_mut(&ack.sequence) {
            held.reply = reply;
            return;
        }
        state.bytes += size;
        state.held.insert(ack.sequence, Held { reply, size });
        state.ready.push_back(Letter { raw, ack });
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Takes the next messages, or the permanent error.
    pub(super) fn take(&self, limit: usize) -> Option<Result<Vec<Taken>, SourceError>> {
        let mut state = lock(&self.state);
        let count = state.ready.len().min(limit);
        if count > 0 {
            let letters: Vec<_> = state.ready.drain(..count).collect();
            let taken = letters.into_iter().map(|letter| Taken {
                attempt: state.attempt(letter.ack),
                failures: state.failures.get(&letter.ack.sequence).cloned().unwrap_or_default(),
                letter,
            });
            return Some(Ok(taken.collect()));
        }
        state.error.take().map(|failure| Err(SourceError::unavailable(Chain(failure.cause()).to_string())))
    }

    /// Returns a message untried; it is the next.
    pub(super) fn release(&self, letter: Letter) {
        lock(&self.state).ready.push_front(letter);
        self.arrived.notify_waiters();
    }

    /// Takes all messages that the application did not receive.
    pub(super) fn take_ready(&self) -> Vec<Letter> {
        lock(&self.state).ready.drain(..).collect()
    }

    /// Where a message is acknowledged now.
    pub(super) fn reply(&self, sequence: u64) -> Option<Subject> {
        lock(&self.state).held.get(&sequence).map(|held| held.reply.clone())
    }

    /// Where all unsettled messages are acknowledged.
    pub(super) fn replies(&self) -> Vec<Subject> {
        lock(&self.state).held.values().map(|held| held.reply.clone()).collect()
    }

    /// Holds a message no longer.
    pub(super) fn drop_held(&self, sequence: u64) {
        let mut state = lock(&self.state);
        if let Some(held) = state.held.remove(&sequence) {
            state.bytes -= held.size;
        }
        drop(state);
        self.freed.notify_one();
    }

    /// Remembers a failed attempt.
    pub(super) fn failed(&self, sequence: u64, failure: FailedAttempt) {
        let mut state = lock(&self.state);
        let failures = state.failures.entry(sequence).or_default();
        failures.push(failure);
        if failures.len() > 10 {
            failures.remove(0);
        }
        if state.failures.len() > REMEMBERED {
            state.failures.pop_first();
        }
    }

    /// Remembers that a message returns to the server untried.
    pub(super) fn released(&self, sequence: u64) {
        let mut state = lock(&self.state);
        *state.released.entry(sequence).or_default() += 1;
        if state.released.len() > REMEMBERED {
            state.released.pop_first();
        }
    }

    /// The number of the attempt of a message, and its failures.
    pub(super) fn attempts(&self, ack: AckSubject) -> (u32, Vec<FailedAttempt>) {
        let state = lock(&self.state);
        (state.attempt(ack), state.failures.get(&ack.sequence).cloned().unwrap_or_default())
    }

    /// Forgets the attempts of a message that is settled for good.
    pub(super) fn forget(&self, sequence: u64) {
        let mut state = lock(&self.state);
        state.failures.remove(&sequence);
        state.released.remove(&sequence);
    }

    /// The number and the bytes of unsettled messages.
    pub(super) fn unsettled(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.held.len(), state.bytes)
    }

    /// Completes when there is more room.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
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

/// Stops holding a message when it is dropped: the server then delivers it again after `ACK_WAIT`, unless it was settled.
pub(super) struct Holding(Option<(Arc<Inbox>, u64)>);

impl Holding {
    pub(super) fn new(inbox: &Arc<Inbox>, sequence: u64) -> Self {
        Self(Some((Arc::clone(inbox), sequence)))
    }

    pub(super) fn sequence(&self) -> Option<u64> {
        self.0.as_ref().map(|(_, sequence)| *sequence)
    }

    /// Holds the message on.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some((inbox, sequence)) = &self.0 {
            inbox.drop_held(*sequence);
        }
    }
}

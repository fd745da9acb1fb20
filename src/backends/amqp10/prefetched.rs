//! Messages that arrived and were not received by the application yet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::settle::DeliverySettler;
use crate::message::{FailedAttempt, Message};
use crate::messenger::Failure;
use crate::reply::ReplyTo;
use crate::source::{SourceError, Unsettled};
use crate::util::error::Chain;

/// A message that arrived, with the handle to settle it.
pub(super) struct PrefetchedMessage {
    pub(super) content: Result<Content, Arc<str>>,
    pub(super) ticket: DeliverySettler,
}

pub(super) struct Content {
    pub(super) message: Message,
    pub(super) attempt: u32,
    pub(super) redelivered: bool,
    pub(super) failures: Vec<FailedAttempt>,
    pub(super) reply_to: Option<ReplyTo>,
}

impl PrefetchedMessage {
    pub(super) fn into_delivery(self, source: &Arc<str>) -> Unsettled {
        match self.content {
            Ok(Content { message, attempt, redelivered, failures, reply_to }) => {
                let source = Arc::clone(source);
                let unsettled = Unsettled::new(message, attempt, redelivered, source, failures, self.ticket);
                match reply_to {
                    Some(reply_to) => unsettled.with_reply_to(reply_to),
                    None => unsettled,
                }
            }
            Err(reason) => Unsettled::poison(reason, self.ticket),
        }
    }
}

/// The queue between the link, which fills it, and `receive`, which empties it. The credit of the link bounds it.
#[derive(Default)]
pub(super) struct Prefetched {
    state: Mutex<PrefetchedState>,
    arrived: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct PrefetchedState {
    fetched: VecDeque<PrefetchedMessage>,
    error: Option<Failure>,
}

impl Prefetched {
    pub(super) fn push(&self, fetched: PrefetchedMessage) {
        self.state().fetched.push_back(fetched);
        self.arrived.notify_waiters();
    }

    /// Sets or clears a permanent error for the next `receive`.
    pub(super) fn set_error(&self, error: Option<Failure>) {
        self.state().error = error;
        self.arrived.notify_waiters();
    }

    /// Takes the next messages, or the permanent error.
    pub(super) fn take(&self, limit: usize) -> Option<Result<Vec<PrefetchedMessage>, SourceError>> {
        let mut state = self.state();
        let count = state.fetched.len().min(limit);
        if count > 0 {
            let taken = state.fetched.drain(..count).collect();
            if state.fetched.is_empty() {
                self.emptied.notify_one();
            }
            return Some(Ok(taken));
        }
        state.error.take().map(|failure| Err(SourceError::unavailable(Chain(failure.cause()).to_string())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().fetched.is_empty()
    }

    /// Completes when the last message was taken, also before this call.
    pub(super) async fn emptied(&self) {
        self.emptied.notified().await;
    }

    pub(super) fn take_all(&self) -> VecDeque<PrefetchedMessage> {
        std::mem::take(&mut self.state().fetched)
    }

    /// Completes when a message arrives after this call.
    pub(super) fn arrived(&self) -> Notified<'_> {
        self.arrived.notified()
    }

    pub(super) fn wake(&self) {
        self.arrived.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, PrefetchedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

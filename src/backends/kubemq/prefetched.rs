//! Messages that arrived and were not received by the application yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::messenger::Failure;
use crate::source::{SourceError, Unsettled};
use crate::util::error::Chain;

/// The queue between the worker, which fills it, and `receive`, which empties it.
#[derive(Default)]
pub(super) struct Prefetched {
    contents: Mutex<Contents>,
    arrived: Notify,
}

#[derive(Default)]
struct Contents {
    messages: VecDeque<Unsettled>,
    error: Option<Failure>,
}

impl Prefetched {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, message: Unsettled) {
        self.lock().messages.push_back(message);
        self.arrived.notify_waiters();
    }

    /// Puts a message before the others.
    pub(super) fn push_front(&self, message: Unsettled) {
        self.lock().messages.push_front(message);
        self.arrived.notify_waiters();
    }

    /// Sets or clears the error for the next `receive`.
    pub(super) fn set_error(&self, error: Option<Failure>) {
        self.lock().error = error;
        self.arrived.notify_waiters();
    }

    /// Takes all messages, to release them.
    pub(super) fn take_all(&self) -> VecDeque<Unsettled> {
        std::mem::take(&mut self.lock().messages)
    }

    pub(super) fn wake(&self) {
        self.arrived.notify_waiters();
    }

    /// Waits for messages, or for the end of the source.
    pub(super) async fn take(
        &self,
        limit: usize,
        is_closed: impl Fn() -> bool,
    ) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if is_closed() {
                return Err(SourceError::Closed);
            }
            {
                let mut state = self.lock();
                if let Some(failure) = state.error.take() {
                    return Err(SourceError::unavailable(Chain(failure.cause()).to_string()));
                }
                // A message of a lost connection is delivered again.
                state.messages.retain(|message| !message.is_stale());
                let count = state.messages.len().min(limit);
                if count > 0 {
                    return Ok(state.messages.drain(..count).collect());
                }
            }
            arrived.await;
        }
    }
}

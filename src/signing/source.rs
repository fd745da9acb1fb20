//! The source that verifies.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::copies::Copies;
use super::verifier::{Verified, Verifier};
use crate::message::Message;
use crate::source::{Source, SourceError, Unsettled};
use crate::telemetry;
use crate::util::sync::lock;

/// The wait after the trusted keys could not be read.
const PACE: Duration = Duration::from_secs(1);

/// Receives from another source, and verifies each message before it is handled.
///
/// | the message | becomes |
/// |---|---|
/// | has a signature of a trusted origin | itself, as it was signed, with the header [`SIGNED_BY`](super::SIGNED_BY) |
/// | has another signature, was changed, or is too old | a dead letter with the reason |
/// | has no signature | a dead letter, unless [`Unsigned::Accept`](super::Unsigned) or the policy accepts it |
/// | is a copy of a handled message, with the same signature | acknowledged, not handled |
///
/// A retried message is verified again, since it comes back through the broker. While the trusted keys cannot be read,
/// messages wait.
pub struct Verifying<S> {
    inner: S,
    verifier: Verifier,
    copies: Arc<Copies>,
    /// One call of `receive` at a time.
    turn: tokio::sync::Mutex<()>,
    /// Received and not verified yet. They are here so that a dropped `receive` loses none.
    fresh: Mutex<VecDeque<Unsettled>>,
    /// Verified.
    ready: Mutex<VecDeque<Unsettled>>,
}

impl<S: Source> Verifying<S> {
    /// Receives from `inner`, and verifies with `verifier`. It remembers handled messages for itself.
    pub fn new(inner: S, verifier: Verifier) -> Self {
        let copies = Copies::new(verifier.remembered());
        Self {
            inner,
            verifier,
            copies,
            turn: tokio::sync::Mutex::default(),
            fresh: Mutex::default(),
            ready: Mutex::default(),
        }
    }

    /// Verifies the oldest message that is not verified yet. Returns whether there was one.
    async fn verify_next(&self) -> Result<bool, SourceError> {
        let Some(view) = lock(&self.fresh).front().map(|next| next.view().cloned().ok()) else {
            return Ok(false);
        };
        let verified = match &view {
            Some(view) => Some(self.verifier.verify(view.message()).await),
            // Poison stays poison.
            None => None,
        };
        let verified = verified
            .transpose()
            .map_err(|error| SourceError::unavailable(format!("the trusted keys cannot be read: {error}")))?;
        let Some(next) = lock(&self.fresh).pop_front() else { return Ok(true) };
        let next = match verified {
            None => Some(next),
            Some(Verified::Signed(message, signature)) => {
                telemetry::signature("verified");
                self.copies.pass(next.map_message(|_| Ok(message)), signature)
            }
            Some(Verified::Unsigned(message)) => {
                telemetry::signature("unsigned");
                Some(next.map_message(|_| Ok(message)))
            }
            Some(Verified::Refused(reason)) => {
                telemetry::signature("refused");
                Some(next.map_message(|view| Err(refused(view.message(), &reason).into())))
            }
        };
        lock(&self.ready).extend(next);
        Ok(true)
    }

    /// Hands back what was received and not returned.
    async fn release(&self) {
        let held: Vec<_> = lock(&self.fresh).drain(..).chain(lock(&self.ready).drain(..)).collect();
        for message in held {
            let _ = message.release().await;
        }
    }
}

fn refused(message: &Message, reason: &str) -> String {
    format!("the message {} of the topic {} is not trusted: {reason}", message.id(), message.topic())
}

fn take(queue: &Mutex<VecDeque<Unsettled>>, most: usize) -> Vec<Unsettled> {
    let mut queue = lock(queue);
    let most = most.min(queue.len());
    queue.drain(..most).collect()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: Source> Source for Verifying<S> {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let _turn = self.turn.lock().await;
        loop {
            while lock(&self.ready).len() < limit.max(1) {
                match self.verify_next().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tokio::time::sleep(PACE).await;
                        return Err(error);
                    }
                }
            }
            let ready = take(&self.ready, limit.max(1));
            if !ready.is_empty() {
                return Ok(ready);
            }
            let received = self.inner.receive(limit).await?;
            lock(&self.fresh).extend(received);
        }
    }

    async fn pause(&self) {
        self.release().await;
        self.inner.pause().await;
    }

    async fn close(&self, deadline: Duration) {
        let until = tokio::time::Instant::now() + deadline;
        let _ = tokio::time::timeout_at(until, self.release()).await;
        self.inner.close(until.saturating_duration_since(tokio::time::Instant::now())).await;
    }

    async fn backlog(&self) -> Option<u64> {
        self.inner.backlog().await
    }

    fn name(&self) -> Arc<str> {
        self.inner.name()
    }
}

impl<S: Source> fmt::Debug for Verifying<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifying").field("source", &self.inner.name()).finish_non_exhaustive()
    }
}

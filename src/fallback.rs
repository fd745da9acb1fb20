//! Sending through a second messenger when the first one fails.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::message::Message;
use crate::messenger::in_flight::InFlight;
use crate::messenger::{Capabilities, Failure, Health, Messenger, Unsent};
use crate::util::error::BoxError;

/// Sends through the second messenger what the first one could not send.
///
/// By default these are [transient](Failure::Transient) failures: the first messenger is down. `Ok` means that one of the two
/// confirmed each message. Messages that neither confirmed come back: as rejected if both rejected them, or if the first did
/// and [`with_rejected`](Self::with_rejected) is not set, otherwise as transient.
///
/// Order is kept within each of the two, not between them. Put a buffer or an outbox around it, or make that the second:
/// messages in a buffer never fall back.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use tower_outbox::dummy::Dummy;
/// use tower_outbox::fallback::Fallback;
/// use tower_outbox::testing::Recording;
/// use tower_outbox::{Message, MessagingLayer, Messenger};
///
/// let fallback = Fallback::new(Recording::new(), Dummy::new()).with_rejected();
/// fallback.send(vec![Message::new("a.b", "x").unwrap()]).await.unwrap();
/// let layer = MessagingLayer::new(fallback);
/// # });
/// ```
pub struct Fallback<A, B> {
    first: A,
    second: B,
    second_in_flight: Option<InFlight>,
    rejected: bool,
}

impl<A: Messenger, B: Messenger> Fallback<A, B> {
    /// Sends through `first`, and through `second` what `first` could not send.
    pub fn new(first: A, second: B) -> Self {
        let second_in_flight = second.capabilities().in_flight;
        Self { first, second, second_in_flight, rejected: false }
    }

    /// Also sends through the second messenger what the first one rejects.
    #[must_use]
    pub fn with_rejected(mut self) -> Self {
        self.rejected = true;
        self
    }

    fn falls_back(&self, failure: &Failure) -> bool {
        self.rejected || failure.is_transient()
    }
}

impl<A, B> fmt::Debug for Fallback<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback").field("rejected", &self.rejected).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<A: Messenger, B: Messenger> Messenger for Fallback<A, B> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let Err(unsent) = self.first.send(batch).await else { return Ok(()) };
        let mut messages = Vec::new();
        let mut failed = Vec::with_capacity(unsent.len());
        for (message, failure) in unsent {
            if self.falls_back(&failure) {
                failed.push(Failed::Over(message.id(), failure));
                messages.push(message);
            } else {
                failed.push(Failed::Kept(message, failure));
            }
        }
        if messages.is_empty() {
            return merged(failed, Unsent::default()).into_result();
        }
        if let Some(Failed::Over(_, failure)) =
            failed.iter().find(|failed| matches!(failed, Failed::Over(..)))
        {
            tracing::warn!(messages = messages.len(), %failure, "the first messenger failed; sending through the second");
        }
        let _in_flight = self.second_in_flight.as_ref().map(InFlight::token);
        let unsent = self.second.send(messages).await.err().unwrap_or_default();
        merged(failed, unsent).into_result()
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        match self.first.check(message) {
            Err(_) if self.rejected && self.second.check(message).is_ok() => Ok(()),
            checked => checked,
        }
    }

    async fn health(&self) -> Health {
        match self.first.health().await {
            Health::Up => Health::Up,
            Health::Down { reason } => match self.second.health().await {
                Health::Up => Health::Up,
                Health::Down { reason: second } => Health::Down { reason: format!("{reason}; {second}") },
            },
        }
    }

    async fn close(&self, deadline: Duration) {
        tokio::join!(self.first.close(deadline), self.second.close(deadline));
    }

    /// Returns the capabilities of [`either`](Capabilities::either) messenger. A send that falls back is counted as in flight at both.
    fn capabilities(&self) -> Capabilities {
        Capabilities::either(self.first.capabilities(), self.second.capabilities())
    }
}

/// A message that the first messenger did not send.
enum Failed {
    Kept(Message, Failure),
    /// The second messenger gets it.
    Over(Uuid, Failure),
}

/// Returns the messages that neither sent, in their order.
fn merged(failed: Vec<Failed>, unsent: Unsent) -> Unsent {
    let mut second = unsent.into_iter().peekable();
    let mut neither = Unsent::default();
    for failed in failed {
        match failed {
            Failed::Kept(message, failure) => neither.extend([(message, failure)]),
            Failed::Over(id, first) => {
                if let Some((message, second)) = second.next_if(|(message, _)| message.id() == id) {
                    let worth_another_try = first.is_transient() && !second.is_transient();
                    neither.extend([(message, if worth_another_try { first } else { second })]);
                }
            }
        }
    }
    neither.extend(second);
    neither
}

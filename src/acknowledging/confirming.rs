//! The source that confirms handled messages to their senders.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{sleep, timeout};

use super::address::AllowedAddresses;
use super::confirmation::{confirmation_of, rejection_of};
use crate::message::headers::ACK;
use crate::message::{Message, Settlement};
use crate::messenger::Messenger;
use crate::reply::Reply;
use crate::source::{Settle, Source, SourceError, Unsettled};
use crate::telemetry;
use crate::util::backoff::Backoff;

/// How long a confirmation is tried. The sender sends the message again about then.
const PATIENCE: Duration = Duration::from_secs(5);

/// A source that confirms each message to its sender when it is acknowledged, if the message has the header
/// [`ACK`](crate::message::headers::ACK) with an [allowed](Self::with_allowed) address.
///
/// The confirmation is sent first, and confirmed by the broker; then the message is acknowledged. When the message becomes a dead
/// letter, the sender gets its reason after that, and gives the message up. A confirmation that
/// cannot be sent within 5 seconds is given up, which is logged and counted, and the message is acknowledged all the same: its sender
/// sends it again.
pub struct Confirming<S> {
    inner: S,
    messenger: Arc<dyn Messenger>,
    allowed: Arc<AllowedAddresses>,
}

impl<S: Source> Confirming<S> {
    /// Confirms the messages of `inner` through `messenger`, which sends to the broker without a store before it.
    pub fn new(inner: S, messenger: impl Messenger) -> Self {
        Self { inner, messenger: Arc::new(messenger), allowed: Arc::default() }
    }

    /// Sets the addresses that may be written to; by default `*/ack`.
    #[must_use]
    pub fn with_allowed(mut self, allowed: AllowedAddresses) -> Self {
        self.allowed = Arc::new(allowed);
        self
    }

    fn confirmed(&self, unsettled: Unsettled) -> Unsettled {
        // A header that is no text is not ours.
        let asks = unsettled
            .view()
            .is_ok_and(|view| view.message().header(ACK).is_some_and(|ack| ack.as_str().is_some()));
        if !asks {
            return unsettled;
        }
        let (messenger, allowed) = (Arc::clone(&self.messenger), Arc::clone(&self.allowed));
        unsettled.settled_by(|unsettled| Confirm { unsettled, messenger, allowed })
    }
}

impl<S> fmt::Debug for Confirming<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirming").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: Source> Source for Confirming<S> {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let received = self.inner.receive(limit).await?;
        Ok(received.into_iter().map(|unsettled| self.confirmed(unsettled)).collect())
    }

    async fn pause(&self) {
        self.inner.pause().await;
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    async fn backlog(&self) -> Option<u64> {
        self.inner.backlog().await
    }

    fn name(&self) -> Arc<str> {
        self.inner.name()
    }
}

/// Confirms a message before it is acknowledged. Dropped, it hands the message back.
struct Confirm {
    unsettled: Unsettled,
    messenger: Arc<dyn Messenger>,
    allowed: Arc<AllowedAddresses>,
}

#[async_trait]
impl Settle for Confirm {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { unsettled, messenger, allowed } = *self;
        let message = unsettled.view().ok().map(|view| view.message().clone());
        let (Settlement::Ack | Settlement::Reject { .. }, Some(message)) = (&settlement, message) else {
            return Box::new(unsettled).settle(settlement).await;
        };
        let address = message.header(ACK).and_then(|address| address.as_str()).unwrap_or_default();
        let Some(topic) = allowed.topic(address) else {
            telemetry::confirmation_refused(&message, address);
            return Box::new(unsettled).settle(settlement).await;
        };
        match settlement {
            Settlement::Reject { ref reason } => {
                let rejection = rejection_of(&message, &topic, reason);
                // Its sender gives the message up, so the dead letter must be there.
                Box::new(unsettled).settle(settlement).await?;
                confirm(&*messenger, &message, rejection).await;
                Ok(())
            }
            settlement => {
                confirm(&*messenger, &message, confirmation_of(&message, &topic)).await;
                Box::new(unsettled).settle(settlement).await
            }
        }
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        self.unsettled.reply(reply).await
    }

    async fn extend(&mut self, visibility: Duration) -> Result<(), SourceError> {
        self.unsettled.extend(visibility).await
    }

    fn is_stale(&self) -> bool {
        self.unsettled.is_stale()
    }
}

async fn confirm(messenger: &dyn Messenger, message: &Message, confirmation: Message) {
    let mut cause = "the broker does not answer".to_owned();
    let sent = timeout(PATIENCE, async {
        for attempt in 0.. {
            let Err(unsent) = messenger.send(vec![confirmation.clone()]).await else { return true };
            cause = unsent.to_string();
            if unsent.iter().any(|(_, failure)| !failure.is_transient()) {
                return false;
            }
            sleep(Backoff::default().delay(attempt)).await;
        }
        false
    });
    match sent.await {
        Ok(true) => telemetry::confirmation_sent(message),
        Ok(false) | Err(_) => telemetry::confirmation_failed(message, &cause),
    }
}

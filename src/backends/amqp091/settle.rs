//! The settlement of one delivery.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};
use uuid::Uuid;

use super::forwarding::Forwarder;
use super::guard::HeldBytes;
use super::incoming::Incoming;
use super::replies::{self, is_direct};
use super::source_link::{ForwardError, ForwardFault, SourceLink};
use crate::message::Settlement;
use crate::reply::Reply;
use crate::source::{Settle, SourceError};
use crate::util::error::Chain;

/// The delay before a message that could not be forwarded is returned: the broker delivers it again at once.
const HOLD: Duration = Duration::from_secs(1);

/// The handle to settle a delivery.
pub(super) struct DeliverySettler {
    pub(super) link: Arc<SourceLink>,
    pub(super) acker: Acker,
    pub(super) incoming: Incoming,
    pub(super) id: Option<Uuid>,
    /// The memory of its body, until it is settled.
    pub(super) _held: HeldBytes,
}

#[async_trait]
impl Settle for DeliverySettler {
    /// Forwards in a task of its own, which runs to its end if this is dropped.
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let answers = self.link.context.answers.clone();
        match settlement {
            Settlement::Ack | Settlement::Discard => {
                let _answering = answers.token();
                self.ack().await
            }
            Settlement::Release => {
                let _answering = answers.token();
                self.hand_back().await
            }
            settlement => {
                let sent_on = answers.spawn(async move { self.forward(settlement).await }).await;
                sent_on.unwrap_or_else(|error| Err(SourceError::unavailable(error)))
            }
        }
    }

    /// Publishes over the connection of retries, which confirms.
    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        let properties = &self.incoming.properties;
        let Some(address) = properties.reply_to().as_ref().filter(|address| is_direct(address.as_str()))
        else {
            return Err(SourceError::unavailable("the request has no reply address that the broker made"));
        };
        let reply = replies::encode(address.as_str(), properties, reply);
        let sent = self.link.reply(reply).await;
        sent.map_err(|failure| SourceError::unavailable(Chain(failure.cause()).to_string()))
    }

    fn is_stale(&self) -> bool {
        self.acker.poisoned()
    }
}

impl DeliverySettler {
    async fn ack(&self) -> Result<(), SourceError> {
        if self.incoming.unanswered > 0 {
            self.link.context.attempts.forget(&self.incoming);
        }
        answered(self.acker.ack(BasicAckOptions::default()).await)
    }

    async fn hand_back(&self) -> Result<(), SourceError> {
        let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        answered(self.acker.nack(options).await)
    }

    async fn forward(self, settlement: Settlement) -> Result<(), SourceError> {
        if self.is_stale() {
            return answered(Ok(false));
        }
        let context = Arc::clone(&self.link.context);
        let queue = &context.subscription.queue;
        let forward = Forwarder {
            subscription: &context.subscription,
            incoming: &self.incoming,
            topic: self.incoming.topic(context.settings.broker.topic_prefix.as_deref(), queue),
            id: self.id,
            has_quorum_queues: self.link.has_quorum_queues.load(Ordering::Relaxed),
        };
        let outgoing = match settlement {
            Settlement::Retry { after, reason } => forward.retry(after, &reason),
            Settlement::Reject { reason } => forward.dead_letter(&reason),
            Settlement::Ack | Settlement::Discard => return self.ack().await,
            Settlement::Release => return self.hand_back().await,
        };
        let to = outgoing.publish.routing_key.clone();
        match self.link.forward(outgoing).await {
            Ok(None) => self.ack().await,
            Ok(Some(safe_from)) => {
                let queue = queue.clone();
                context.answers.spawn(async move {
                    tokio::time::sleep_until(safe_from).await;
                    if let Err(error) = self.ack().await {
                        tracing::warn!(%queue, %to, %error, "forwarded a failed message but could not acknowledge it; it is delivered twice");
                    }
                });
                Ok(())
            }
            Err(ForwardError { error, over }) => {
                if over != ForwardFault::Outage && !context.is_quorum() {
                    context.attempts.add(&self.incoming);
                }
                let failed = self.incoming.failed().saturating_add(1);
                let is_buried = over == ForwardFault::Message && self.link.has_dead_letters().await;
                let _ = tokio::time::timeout(HOLD, context.closed.cancelled()).await;
                if is_buried {
                    tracing::warn!(%queue, %to, failed, %error, "failed to forward a failed message; rejected it to the dead-letter exchange of the queue");
                    return answered(self.acker.reject(BasicRejectOptions { requeue: false }).await);
                }
                tracing::warn!(%queue, %to, failed, %error, "failed to forward a failed message; the broker delivers it again");
                self.hand_back().await?;
                Err(SourceError::Unavailable(error))
            }
        }
    }
}

fn answered(result: lapin::Result<bool>) -> Result<(), SourceError> {
    match result {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(SourceError::unavailable("the connection was lost: the broker delivers the message again"))
        }
        Err(error) => Err(SourceError::unavailable(error)),
    }
}

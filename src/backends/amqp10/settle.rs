//! Settling: the way from a message to its link.

use std::sync::Arc;

use async_trait::async_trait;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use tokio::sync::{mpsc, oneshot};

use super::connection::Connection;
use super::original::Original;
use super::replies;
use crate::message::Settlement;
use crate::reply::Reply;
use crate::source::{Settle, SourceError};
use crate::telemetry;
use crate::util::error::Chain;

/// The facts that a link needs to settle a delivery.
pub(super) struct PendingDelivery {
    pub(super) info: DeliveryInfo,
    /// The record of its failed attempts, if there were any.
    pub(super) record: Option<u64>,
    pub(super) attempt: u32,
    /// The size of the received message in bytes.
    pub(super) size: usize,
    /// None if it was not received completely.
    pub(super) original: Option<Original>,
}

/// The handle to settle one delivery of a link.
pub(super) struct DeliverySettler {
    pub(super) letter: PendingDelivery,
    /// The connection over which its reply goes.
    pub(super) connection: Arc<Connection>,
    pub(super) source: Arc<str>,
    pub(super) answers: mpsc::UnboundedSender<SettleRequest>,
}

/// A delivery, its settlement, and the channel to the waiting caller.
pub(super) struct SettleRequest {
    pub(super) letter: PendingDelivery,
    pub(super) settlement: Settlement,
    pub(super) reply: oneshot::Sender<Result<(), SourceError>>,
}

#[async_trait]
impl Settle for DeliverySettler {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { letter, answers, .. } = *self;
        let (reply, given) = oneshot::channel();
        // At most one for each delivery of the link: its credit bounds them.
        drop(answers.send(SettleRequest { letter, settlement, reply }));
        given.await.unwrap_or_else(|_| Err(SourceError::unavailable(LinkGone)))
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        let Some((address, reply)) =
            self.letter.original.as_ref().and_then(|request| replies::encode(request, reply))
        else {
            return Err(SourceError::unavailable("the message has no reply-to address"));
        };
        match self.connection.reply().deliver(address, reply).await {
            Err(failure) if self.connection.is_closed() => {
                Err(SourceError::unavailable(Chain(failure.cause()).to_string()))
            }
            // The node of a caller is deleted with its connection.
            Err(failure) => {
                tracing::info!(%failure, source = %self.source, "failed to send a reply to its caller; dropped it");
                telemetry::late_reply(&self.source);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn is_stale(&self) -> bool {
        self.answers.is_closed()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the link was lost before the message was settled: the broker delivers it again")]
struct LinkGone;

//! Settling: the way from a message to its link.

use async_trait::async_trait;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use tokio::sync::{mpsc, oneshot};

use super::incoming::Original;
use crate::message::Settlement;
use crate::source::{Settle, SourceError};

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
        let Self { letter, answers } = *self;
        let (reply, given) = oneshot::channel();
        // At most one for each delivery of the link: its credit bounds them.
        drop(answers.send(SettleRequest { letter, settlement, reply }));
        given.await.unwrap_or_else(|_| Err(SourceError::unavailable(LinkGone)))
    }

    fn is_stale(&self) -> bool {
        self.answers.is_closed()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the link was lost before the message was settled: the broker delivers it again")]
struct LinkGone;

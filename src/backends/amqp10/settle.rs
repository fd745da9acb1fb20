//! How an answer gets from a delivery to its link.

use async_trait::async_trait;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use tokio::sync::{mpsc, oneshot};

use super::incoming::Original;
use crate::message::Settlement;
use crate::source::{Settle, SourceError};

/// What a link has to know of a delivery to carry out its answer.
pub(super) struct PendingDelivery {
    pub(super) info: DeliveryInfo,
    /// The record of its failed attempts, if there were any.
    pub(super) record: Option<u64>,
    pub(super) attempt: u32,
    /// How many bytes came.
    pub(super) size: usize,
    /// Absent when it was not received whole.
    pub(super) original: Option<Original>,
}

/// The right to answer one delivery of a link.
pub(super) struct DeliverySettler {
    pub(super) letter: PendingDelivery,
    pub(super) answers: mpsc::UnboundedSender<SettleRequest>,
}

/// A delivery, its answer, and who waits until that is given.
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
        // There is at most one for each delivery of the link: its credit bounds them.
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

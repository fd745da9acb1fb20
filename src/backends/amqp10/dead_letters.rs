//! Messages that are being sent to `DEAD_LETTER_ADDRESS`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::outgoing::AmqpMessage;
use super::settle::PendingDelivery;
use crate::messenger::Failure;
use crate::source::SourceError;

/// The channel to the caller that waits for a settlement.
pub(super) type Reply = oneshot::Sender<Result<(), SourceError>>;

/// A delivery whose message was sent, with the result.
pub(super) struct Sent {
    pub(super) letter: PendingDelivery,
    pub(super) reply: Reply,
    pub(super) result: Result<(), Failure>,
}

/// The dead letters without a confirm. Each uses credit, which bounds them.
#[derive(Default)]
pub(super) struct DeadLetters(FuturesUnordered<Pin<Box<dyn Future<Output = Sent> + Send>>>);

impl DeadLetters {
    pub(super) fn send(
        &self,
        connection: &Arc<Connection>,
        address: &str,
        message: AmqpMessage,
        letter: PendingDelivery,
        reply: Reply,
    ) {
        let (connection, address) = (Arc::clone(connection), address.to_owned());
        self.0.push(Box::pin(async move {
            let result = connection.batch(false).deliver(address, message).await;
            Sent { letter, reply, result }
        }));
    }

    /// The next whose outcome is known.
    pub(super) async fn next(&mut self) -> Option<Sent> {
        self.0.next().await
    }
}

//! The requests to the task that changes a router.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::RouteError;
use super::message::RoutedMessage;
use super::record::{QueueHeader, QueueId};

pub(super) type Reply<T> = oneshot::Sender<Result<T, RouteError>>;

/// A change of a router.
#[derive(Debug)]
pub(super) enum Command {
    /// `queues` is set for a message that goes into these only.
    Publish {
        message: RoutedMessage,
        queues: Option<Vec<QueueId>>,
        publisher: Publisher,
    },
    Subscribe {
        header: QueueHeader,
        subscriber: u64,
        reply: Reply<QueueId>,
    },
    Remove {
        queue: QueueId,
        reply: Option<Reply<()>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// The publisher of a message, who waits for the answer.
#[derive(Debug)]
pub(super) struct Publisher {
    reply: Reply<()>,
    /// The room of the message among those that wait for the disk.
    _permit: OwnedSemaphorePermit,
}

impl Publisher {
    pub(super) fn new(reply: Reply<()>, permit: OwnedSemaphorePermit) -> Self {
        Self { reply, _permit: permit }
    }

    /// Answers, unless the publisher has gone.
    pub(super) fn answer(self, answer: Result<(), RouteError>) {
        let _ = self.reply.send(answer);
    }
}

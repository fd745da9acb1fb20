//! The requests to the task that changes a router.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::RouteError;
use super::message::RoutedMessage;
use super::record::{QueueHeader, QueueId};

pub(super) type Reply<T> = oneshot::Sender<Result<T, RouteError>>;

/// A change of a router.
#[derive(Debug)]
pub(super) enum Command {
    /// `queue` is set for messages that go into this one only.
    Publish {
        messages: Vec<(RoutedMessage, Publisher)>,
        queue: Option<QueueId>,
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
    /// The room of the message and its neighbours among those that wait for the disk.
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Publisher {
    pub(super) fn new(reply: Reply<()>, permit: Arc<OwnedSemaphorePermit>) -> Self {
        Self { reply, _permit: permit }
    }

    /// Answers, unless the publisher has gone.
    pub(super) fn answer(self, answer: Result<(), RouteError>) {
        let _ = self.reply.send(answer);
    }
}

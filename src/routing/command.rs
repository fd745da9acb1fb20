//! What is asked of the task that changes a router.

use tokio::sync::oneshot;

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
        reply: Reply<()>,
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

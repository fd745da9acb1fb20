//! The result of a shutdown.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::message::Message;
use crate::store::Counts;

/// The messages and sends that [`Bus::shutdown`](super::Bus::shutdown) could not finish.
#[derive(Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct Shutdown {
    /// Messages that were accepted and are neither confirmed nor stored.
    pub left: Vec<Message>,
    /// How many sends were still in flight.
    pub sends: usize,
    /// How many messages wait in the outbox. They are safe, and leave after the next start.
    pub stored: u64,
}

impl Shutdown {
    /// Whether nothing is lost: every accepted message is confirmed, stored, handed back, or was logged as unsent before.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left.is_empty() && self.sends == 0
    }
}

/// The worker of the delivery: the relay of an outbox, or the sender of the background buffer.
pub(super) struct Worker {
    /// Gives the worker the time to end by.
    pub(super) stop: oneshot::Sender<Instant>,
    pub(super) task: JoinHandle<Left>,
}

/// The messages that a worker left when it stopped.
pub(super) enum Left {
    /// In memory.
    Messages(Vec<Message>),
    /// On disk, or in the database.
    #[cfg_attr(
        not(any(feature = "embedded", feature = "_sql")),
        expect(dead_code, reason = "nothing else stores")
    )]
    Stored(Counts),
}

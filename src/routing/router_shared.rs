//! The state that the handles of a router, its subscriptions and its task share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::command::{Command, Publisher};
use super::counters::Counters;
use super::error::RouteError;
use super::message::RoutedMessage;
use super::namespace::Namespace;
use super::record::QueueId;
use super::router_state::RouterState;
use super::seal::Seal;
use super::settings::RouterSettings;
use crate::log::record_log::RecordLog;

/// The size of a segment of the log in bytes.
pub(super) const SEGMENT: u64 = 32 << 20;

/// The largest message in bytes.
const LARGEST: usize = 16 << 20;

/// The largest sum of the sizes of messages that wait for the disk, in bytes.
pub(super) const WAITING: u32 = 64 << 20;

#[derive(Debug)]
pub(super) struct RouterShared {
    pub(super) id: Arc<str>,
    pub(super) settings: RouterSettings,
    /// Signs and verifies messages, if that is wanted.
    pub(super) seal: Option<Arc<dyn Seal>>,
    pub(super) state: Mutex<RouterState>,
    pub(super) log: RecordLog,
    pub(super) counters: Counters,
    pub(super) commands: mpsc::Sender<Command>,
    /// The bytes of messages that may still wait for the disk.
    pub(super) room: Arc<Semaphore>,
    pub(super) next_subscriber: AtomicU64,
    /// Wakes the links to designated routers.
    pub(super) subscriptions_changed: Notify,
}

impl RouterShared {
    /// Whether the last values of a namespace are kept here.
    pub(super) fn keeps_values(&self, namespace: &Namespace) -> bool {
        !self.settings.uplinks.contains(namespace)
    }

    /// Writes messages, in their order, and puts them into their queues, or all into this one. Returns the result of each.
    ///
    /// Dropping the future writes all of them or none.
    pub(super) async fn write(
        &self,
        messages: Vec<RoutedMessage>,
        queue: Option<QueueId>,
    ) -> Vec<Result<(), RouteError>> {
        let sizes: Vec<_> = messages.iter().map(RoutedMessage::size).collect();
        let room = u32::try_from(sizes.iter().filter(|size| **size <= LARGEST).sum::<usize>());
        let permit = Arc::clone(&self.room).acquire_many_owned(room.unwrap_or(WAITING).min(WAITING)).await;
        let Ok(permit) = permit.map(Arc::new) else {
            return sizes.iter().map(|_| Err(RouteError::Closed)).collect();
        };
        let (mut written, mut answers) = (Vec::with_capacity(messages.len()), Vec::new());
        for (message, size) in messages.into_iter().zip(sizes) {
            if size > LARGEST {
                answers.push(Err(RouteError::TooLarge { size, limit: LARGEST }));
                continue;
            }
            let (reply, answer) = oneshot::channel();
            written.push((message, Publisher::new(reply, Arc::clone(&permit))));
            answers.push(Ok(answer));
        }
        drop(permit);
        if !written.is_empty() {
            // If the router is closed, the answers say so.
            let _ = self.commands.send(Command::Publish { messages: written, queue }).await;
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(match answer {
                Ok(answer) => answer.await.unwrap_or(Err(RouteError::Closed)),
                Err(failure) => Err(failure),
            });
        }
        results
    }
}

//! The parts of a source that all its sessions share.

use std::sync::{Arc, Mutex};

use lapin::Channel;
use rustls::ClientConfig;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempts::Attempts;
use super::incoming::Dialect;
use super::queue_kind::QueueKind;
use super::settings::Amqp091Settings;
use super::subscription::Amqp091Subscription;
use crate::backends::brokers::BrokerUrl;

/// The parts of a source that its sessions and its settlements share.
pub(super) struct SourceContext {
    pub(super) settings: Arc<Amqp091Settings>,
    pub(super) subscription: Amqp091Subscription,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The kind of the queue, once it is known.
    pub(super) kind: OnceCell<Option<QueueKind>>,
    pub(super) attempts: Attempts,
    pub(super) closed: CancellationToken,
    /// Tracks the settlements in progress.
    pub(super) answers: TaskTracker,
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) dialect: Dialect,
    pub(super) name: Arc<str>,
    /// A channel of the connection on which the queue is looked at. An error ends it, and no delivery with it.
    pub(super) looking: Mutex<Option<Channel>>,
}

impl SourceContext {
    /// Whether the queue counts deliveries that were not acknowledged.
    pub(super) fn is_quorum(&self) -> bool {
        self.kind.get().and_then(Option::as_ref).is_some_and(|kind| kind.is_quorum)
    }
}

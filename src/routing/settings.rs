//! The settings of a router.

use std::path::PathBuf;
use std::time::Duration;

use super::namespace::Namespace;
use super::record::QueueLimits;

/// The settings of a router.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouterSettings {
    /// The folder for the messages. It is created if its parent exists.
    pub path: PathBuf,
    /// The limits of the queue of each subscriber. By default 10,000 messages and 100 MiB.
    pub subscription_limits: QueueLimits,
    /// The limits of the queue for each designated router, and for each router of a site. By default 100,000 messages and
    /// 1,000 MiB.
    pub trunk_limits: QueueLimits,
    /// How long a queue lives without a subscriber, at most. By default one day.
    pub queue_expiry: Duration,
    /// The largest number of queues. By default 100,000.
    pub max_queues: usize,
    /// The time between two writes to the disk. By default `None`: each message is on the disk before it is confirmed. With
    /// an interval a power cut costs what was published since the last write.
    pub flush_interval: Option<Duration>,
    /// The namespaces that have their designated router at another address. All others are served here, with their last values.
    pub uplinks: Vec<Namespace>,
}

impl RouterSettings {
    /// The defaults, with this folder.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            subscription_limits: QueueLimits { length: 10_000, bytes: 100 << 20 },
            trunk_limits: QueueLimits { length: 100_000, bytes: 1_000 << 20 },
            queue_expiry: Duration::from_secs(86_400),
            max_queues: 100_000,
            flush_interval: None,
            uplinks: Vec::new(),
        }
    }
}

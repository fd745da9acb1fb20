//! The facts that a router has about a queue.

use std::time::SystemTime;

use super::namespace::Namespace;
use super::pattern::Pattern;
use super::record::{QueueKind, QueueLimits};

/// A queue of a router.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueInfo {
    /// The kind.
    pub kind: QueueKind,
    /// The identifier of the subscriber; for a peer its namespace and router, and empty for the designated router.
    pub identifier: String,
    /// The namespace.
    pub namespace: Namespace,
    /// The patterns of the messages that the queue gets.
    pub patterns: Vec<Pattern>,
    /// The number of messages.
    pub messages: u64,
    /// The sum of the sizes of the messages, in bytes.
    pub bytes: u64,
    /// The limits, over which the oldest messages are dropped.
    pub limits: QueueLimits,
    /// The messages that were dropped over the limits since the router was opened.
    pub dropped: u64,
    /// Whether there is a subscriber now.
    pub has_subscriber: bool,
    /// The time at which the queue ends unless a subscriber comes; `None` while there is one, or for never.
    pub expires: Option<SystemTime>,
}

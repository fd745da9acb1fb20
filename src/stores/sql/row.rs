//! A message as it stands in a table.

use std::time::Duration;

use crate::error::BoxError;
use crate::message::Message;
use crate::stores::dispatch::Group;

/// A row of the table of messages.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) position: u64,
    pub(crate) bucket: i16,
    /// Of topic and key; none if it has no key.
    pub(crate) key_hash: Option<i64>,
    pub(crate) size: u64,
    /// How long it is not due yet.
    pub(crate) wait: Duration,
    pub(crate) attempts: u32,
    /// The last failures, as [`headers::write_failures`](crate::headers::write_failures) writes them.
    pub(crate) failures: Option<String>,
    pub(crate) content: Content,
}

/// What of a message was read.
#[derive(Debug)]
pub(crate) enum Content {
    /// All of it.
    Message(Message),
    /// It cannot be read.
    Damaged(BoxError),
    /// It was not asked for.
    Unread,
}

impl Row {
    pub(crate) fn group(&self) -> Option<Group> {
        self.key_hash.map(Group::of_hash)
    }
}

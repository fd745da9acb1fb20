//! Stored messages, as a list shows them.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::message::Message;
use crate::message::failed_attempt::FailedAttempt;

/// One stored message with its state and failures.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Its position.
    pub position: u64,
    /// Its state.
    pub state: EntryState,
    /// The message; `None` when it can no longer be read.
    pub message: Option<Message>,
    /// How many attempts failed.
    pub attempts: u32,
    /// The last failures, oldest first.
    pub failures: Vec<FailedAttempt>,
    /// The reason why a pending message is not sent yet.
    pub wait: Option<Wait>,
}

impl Entry {
    /// For implementors of a store: an entry without attempts.
    #[must_use]
    pub fn new(position: u64, state: EntryState, message: Option<Message>) -> Self {
        Self { position, state, message, attempts: 0, failures: Vec::new(), wait: None }
    }

    /// Returns a sentence with the reason why the message is still stored.
    #[must_use]
    pub fn explain(&self) -> String {
        let last = self.failures.last().map(|failure| failure.reason.as_ref());
        match (self.state, self.wait) {
            (EntryState::Dead, _) => format!("given up on: {}", last.unwrap_or("no reason was kept")),
            (EntryState::Pending, Some(Wait::Sending)) => "it is being sent now".to_owned(),
            (EntryState::Pending, Some(Wait::Delayed { .. })) => "its delay is not over".to_owned(),
            (EntryState::Pending, Some(Wait::Retry { .. })) => {
                format!(
                    "the last attempt failed and the next is not due: {}",
                    last.unwrap_or("no reason was kept")
                )
            }
            (EntryState::Pending, Some(Wait::Key)) => {
                "an earlier message of the same topic and key is not sent yet".to_owned()
            }
            (EntryState::Pending, _) => "earlier messages are sent first, or the broker is down".to_owned(),
        }
    }
}

/// The state of a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryState {
    /// The message will be sent.
    Pending,
    /// The message is a dead letter.
    Dead,
}

impl fmt::Display for EntryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Dead => "dead",
        })
    }
}

/// The reason why a pending message is not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Earlier messages are sent first.
    Turn,
    /// Its delay is not over.
    Delayed {
        /// The time at which this ends.
        until: SystemTime,
    },
    /// Its last attempt failed; the next is not due.
    Retry {
        /// The time at which this ends.
        until: SystemTime,
    },
    /// An earlier message of its topic and key is not sent yet.
    Key,
    /// It is being sent.
    Sending,
}

/// A page of a list ends after the message with which its bodies come to so many bytes.
#[cfg(any(feature = "embedded", feature = "_sql"))]
pub(crate) const PAGE_BYTES: usize = 8 << 20;

/// One page of a list.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// The entries of the page.
    pub entries: Vec<Entry>,
    /// The `after` of the next page; `None` at the end. A page may be short, or empty, before the end.
    pub next: Option<u64>,
}

impl Page {
    /// For implementors of a store.
    #[must_use]
    pub fn new(entries: Vec<Entry>, next: Option<u64>) -> Self {
        Self { entries, next }
    }
}

/// The size of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Pending messages, those being sent included.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// About how many bytes pending messages and dead letters take.
    pub bytes: u64,
    /// The time of the oldest pending message.
    pub oldest: Option<SystemTime>,
}

//! The limits of a store.

use serde::{Deserialize, Serialize};

/// How much a store may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How many messages, pending and dead; 1,000,000 by default.
    pub max_messages: u64,
    /// How many bytes, with the reasons of failures in an embedded store; 1 GiB by default.
    pub max_bytes: u64,
    /// The behaviour when a limit is reached.
    pub when_full: WhenFull,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_messages: 1_000_000, max_bytes: 1 << 30, when_full: WhenFull::default() }
    }
}

/// The behaviour of a store that is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// New requests get 503 before their handler runs, and `append` fails.
    #[default]
    Refuse,
    /// The oldest pending messages are dropped; the next message that is sent carries their number in [`DROPPED`](crate::message::headers::DROPPED).
    /// Stores in a database refuse this when they are opened: messages that were committed are not dropped.
    DropOldest,
}

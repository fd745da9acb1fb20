//! Why an engine could not do something.

use std::time::Duration;

use super::name::{ChannelName, NameError};
use crate::util::error::{BoxError, debug_as_display};

/// Why an engine could not do something. The codes and texts of a wire protocol belong to the face that speaks it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine is closed, or is about to close.
    #[error("the channels are closed")]
    Closed,
    /// The name of a channel is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A limit is reached; the same call may succeed later.
    #[error("{what} is full at {limit}: consume or purge messages, or raise {setting}")]
    Full {
        /// The limit that is reached.
        what: String,
        /// The limit.
        limit: u64,
        /// The setting of the limit.
        setting: &'static str,
    },
    /// The message is larger than the engine accepts; it never will be accepted.
    #[error("the message has {size} bytes, and {setting} allows {limit}")]
    TooLarge {
        /// The size of the message.
        size: u64,
        /// The limit.
        limit: u64,
        /// The setting of the limit.
        setting: &'static str,
    },
    /// A value is out of its range; the text names the value and the range.
    #[error("{0}")]
    Invalid(String),
    /// The receipt is not open: everything under it is settled, its visibility has run out, or there was none of this number.
    #[error("receipt {0} is not open: its messages are settled, or their visibility ran out")]
    UnknownReceipt(u64),
    /// The receipt does not hold this message. What came before it in the list is settled.
    #[error("receipt {receipt} does not hold message {sequence}")]
    NotHeld {
        /// The number of the receipt.
        receipt: u64,
        /// The sequence of the message.
        sequence: u64,
    },
    /// Another subscriber uses this durable name now.
    #[error(
        "the durable name {name} of stream {channel} is in use: give each subscriber its own name, or all of them a group"
    )]
    InUse {
        /// The stream.
        channel: ChannelName,
        /// The durable name.
        name: String,
    },
    /// Nobody answers requests on this channel now.
    #[error("nobody answers requests on channel {0} now")]
    NoResponder(ChannelName),
    /// No answer came in time.
    #[error("no answer came on channel {channel} within {}", humantime::format_duration(*after))]
    NoAnswer {
        /// The channel.
        channel: ChannelName,
        /// The time allowed.
        after: Duration,
    },
    /// The disk or the remote side failed. The operation may or may not have taken place; a message may have been stored.
    #[error("the channels cannot be used now")]
    Unavailable(#[source] BoxError),
}

debug_as_display!(EngineError);

impl EngineError {
    /// Makes an [`Unavailable`](Self::Unavailable).
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Name(_) | Self::TooLarge { .. } | Self::Invalid(_))
    }
}

//! `DELIVERY`: when a response may go out, and which failures a message survives.

use std::fmt;

use serde::{Deserialize, Serialize};

/// When a response may go out, and which failures its messages survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeliveryMode {
    /// The response waits for the broker's confirm. The default.
    #[default]
    Direct,
    /// The response does not wait. A bounded buffer in memory is sent after it; a crash loses the buffer.
    Background,
    /// The response waits until the messages are on the local disk; a relay sends them. Needs the feature `embedded`.
    Durable,
    /// The response waits until the messages are committed in the app's own database, together with the rows that the
    /// handler wrote; a relay sends them. Needs the feature `postgres` or `sqlite`.
    Transactional,
}

impl fmt::Display for DeliveryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Background => "background",
            Self::Durable => "durable",
            Self::Transactional => "transactional",
        })
    }
}

//! The settings of a relay.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The behaviour of a relay towards messages that expired in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenExpired {
    /// They become dead letters.
    #[default]
    DeadLetter,
    /// They are dropped; that is logged and counted.
    Drop,
}

/// The settings of a [`Relay`](super::Relay).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelaySettings {
    /// How many messages may wait for their confirm; 1,024 by default, at least 1.
    pub window: usize,
    /// How long a message may be stored, for those that have no shorter [`expiry`](crate::message::Message::expiry); none by default.
    pub expiry: Option<Duration>,
    /// The behaviour towards expired messages; [`WhenExpired::DeadLetter`] by default.
    pub when_expired: WhenExpired,
    /// How many attempts a message gets before it is a dead letter; 50 by default, at least 1.
    ///
    /// An attempt that fails while [`health`](crate::messenger::Messenger::health) is down does not count.
    pub max_attempts: u32,
    /// The longest wait before another attempt; one minute by default.
    pub max_backoff: Duration,
    /// Whether each message is sent and settled by itself, and the messages of one topic and key together; no by default: up to
    /// 256 messages are sent and settled together. For a messenger whose confirms take long, such as
    /// [`Acknowledging`](crate::acknowledging::Acknowledging): one missing confirm then delays no other message.
    pub one_by_one: bool,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            window: 1_024,
            expiry: None,
            when_expired: WhenExpired::default(),
            max_attempts: 50,
            max_backoff: Duration::from_secs(60),
            one_by_one: false,
        }
    }
}

impl RelaySettings {
    /// Sets [`window`](Self::window).
    #[must_use]
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// Sets [`expiry`](Self::expiry).
    #[must_use]
    pub fn with_expiry(mut self, expiry: Duration) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// Sets [`when_expired`](Self::when_expired).
    #[must_use]
    pub fn with_when_expired(mut self, when_expired: WhenExpired) -> Self {
        self.when_expired = when_expired;
        self
    }

    /// Sets [`max_attempts`](Self::max_attempts).
    #[must_use]
    pub fn with_max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// Sets [`max_backoff`](Self::max_backoff).
    #[must_use]
    pub fn with_max_backoff(mut self, max_backoff: Duration) -> Self {
        self.max_backoff = max_backoff;
        self
    }

    /// Sets [`one_by_one`](Self::one_by_one).
    #[must_use]
    pub fn with_one_by_one(mut self, one_by_one: bool) -> Self {
        self.one_by_one = one_by_one;
        self
    }
}

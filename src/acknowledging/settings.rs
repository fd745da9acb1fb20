//! Settings of a sender that awaits confirmations.

use std::time::Duration;

use super::address::AckAddress;

/// The settings of [`Acknowledging`](super::Acknowledging).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcknowledgingSettings {
    /// The address of this instance, at which it awaits confirmations.
    pub address: AckAddress,
    /// How long the confirmation of a message may take after the broker's confirm; 5 seconds by default.
    pub timeout: Duration,
}

impl AcknowledgingSettings {
    /// This address, and defaults for the rest.
    #[must_use]
    pub fn new(address: AckAddress) -> Self {
        Self { address, timeout: Duration::from_secs(5) }
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

//! Settings of a consumer.

use std::time::Duration;

/// The settings of a [`Consumer`](crate::consumer::Consumer).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ConsumerSettings {
    /// How many messages are handled at the same time; 16 by default, at least 1.
    pub concurrency: usize,
    /// How long a handler may take; 30 s by default. After that its future is dropped and the attempt has failed.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::duration"))]
    pub timeout: Duration,
    /// How many attempts a message gets before it is a dead letter; 10 by default, at least 1.
    pub max_attempts: u32,
    /// The longest wait before another attempt; one minute by default. Waits begin at one second and double, with full jitter.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::duration"))]
    pub max_backoff: Duration,
    /// The largest body, in bytes; 16 MiB by default. A larger one is a dead letter; a larger request is answered with 413, and a
    /// larger response to it becomes a 500.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::size"))]
    pub max_bytes: usize,
    /// Whether a request is retried, while its caller waits and attempts are left, when its response is 408, 425, 429 or 5xx; false by
    /// default: the response is the reply.
    pub retry_requests: bool,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            concurrency: 16,
            timeout: Duration::from_secs(30),
            max_attempts: 10,
            max_backoff: Duration::from_secs(60),
            max_bytes: 16 << 20,
            retry_requests: false,
        }
    }
}

impl ConsumerSettings {
    /// The longest time over which a message is tried: `max_attempts` times `timeout` and `max_backoff`. A longer
    /// `Retry-After` extends it.
    #[must_use]
    pub fn retry_span(&self) -> Duration {
        self.timeout.saturating_add(self.max_backoff).saturating_mul(self.max_attempts)
    }

    /// Sets [`concurrency`](Self::concurrency).
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
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

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets [`retry_requests`](Self::retry_requests).
    #[must_use]
    pub fn with_retry_requests(mut self, retry_requests: bool) -> Self {
        self.retry_requests = retry_requests;
        self
    }
}

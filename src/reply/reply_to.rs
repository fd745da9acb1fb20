//! Where the reply to a message goes.

use std::sync::Arc;

use tokio::time::Instant;

/// Where the reply to a received message goes, and until when its caller waits.
///
/// A source gives it only if its protocol vouches for the address: a stranger who names an address must not make a responder send
/// anywhere.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    address: Arc<str>,
    deadline: Option<Instant>,
}

impl ReplyTo {
    /// A reply to this address, whose caller waits for ever.
    #[must_use]
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        Self { address: address.into(), deadline: None }
    }

    /// Sets until when the caller waits, by the clock of this process.
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Returns the address, in the words of the broker.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns until when the caller waits; `None` if it is not known.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

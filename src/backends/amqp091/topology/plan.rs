//! What applying a topology would change.

use std::fmt;

use super::items::{Binding, Exchange, Queue};

/// What [`Topology::apply`](super::Topology::apply) would make, and what is in its way; shown as one line each.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Exchanges that are missing.
    pub exchanges: Vec<Exchange>,
    /// Queues that are missing.
    pub queues: Vec<Queue>,
    /// Bindings of what is missing. AMQP 0-9-1 does not show whether those of what is there are.
    pub bindings: Vec<Binding>,
    /// What is there and is not as it should be, with what the broker says; it must be deleted first.
    pub differing: Vec<(String, String)>,
}

impl Plan {
    /// Whether exchanges and queues are there, as they should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exchanges.iter().try_for_each(|exchange| writeln!(f, "makes {exchange}"))?;
        self.queues.iter().try_for_each(|queue| writeln!(f, "makes {queue}"))?;
        self.bindings.iter().try_for_each(|binding| writeln!(f, "makes {binding}"))?;
        self.differing.iter().try_for_each(|(what, reason)| writeln!(f, "cannot make {what}: {reason}"))
    }
}

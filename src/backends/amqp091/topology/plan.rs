//! The changes that applying a topology would make.

use std::fmt;

use super::items::{Binding, Exchange, Queue};

/// The parts that [`Topology::apply`](super::Topology::apply) would create, and the obstacles; shown as one line each.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Exchanges that are missing.
    pub exchanges: Vec<Exchange>,
    /// Queues that are missing.
    pub queues: Vec<Queue>,
    /// Bindings of missing exchanges and queues. AMQP 0-9-1 does not show whether other bindings exist.
    pub bindings: Vec<Binding>,
    /// Existing parts with different properties, with the text of the broker; they must be deleted first.
    pub differing: Vec<(String, String)>,
}

impl Plan {
    /// Whether all exchanges and queues exist with the same properties.
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

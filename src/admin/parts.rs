//! The parts of a bus that have pages of their own, where they are used.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::broker_queue::BrokerDeadLetters;
use crate::observed::TopicCounters;

/// The parts of a bus, as far as it has them.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub(crate) topics: TopicCounters,
    #[cfg(feature = "channels")]
    pub(crate) channels: Option<crate::channels::Channels>,
    #[cfg(feature = "routing")]
    pub(crate) routing: Option<crate::routing::Routing>,
    /// The broker's own queues of dead letters.
    pub(crate) dead_letters: Option<Arc<dyn BrokerDeadLetters>>,
}

/// The parts that this process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartsReport {
    pub(crate) channels: bool,
    pub(crate) routing: bool,
    #[serde(default)]
    pub(crate) broker_dead_letters: bool,
}

impl Parts {
    #[must_use]
    pub(crate) fn with_dead_letters(&self, of: Option<impl BrokerDeadLetters + 'static>) -> Self {
        Self { dead_letters: of.map(|of| Arc::new(of) as _), ..self.clone() }
    }

    pub(super) fn report(&self) -> PartsReport {
        PartsReport {
            #[cfg(feature = "channels")]
            channels: self.channels.is_some(),
            #[cfg(not(feature = "channels"))]
            channels: false,
            #[cfg(feature = "routing")]
            routing: self.routing.is_some(),
            #[cfg(not(feature = "routing"))]
            routing: false,
            broker_dead_letters: self.dead_letters.is_some(),
        }
    }
}

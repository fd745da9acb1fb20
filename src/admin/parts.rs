//! The parts of a bus that have pages of their own, where they are used.

use serde::{Deserialize, Serialize};

use super::topic_counter::TopicCounters;

/// The parts of a bus, as far as it has them.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub(crate) topics: TopicCounters,
    #[cfg(feature = "channels")]
    pub(crate) channels: Option<crate::channels::Channels>,
    #[cfg(feature = "routing")]
    pub(crate) routing: Option<crate::routing::Routing>,
}

/// The parts that this process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartsReport {
    pub(crate) channels: bool,
    pub(crate) routing: bool,
}

impl Parts {
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
        }
    }
}

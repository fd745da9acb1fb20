//! Exchanges, queues and bindings, declared on a broker.

mod declare;
mod definition;
mod error;
mod fnmatch;
mod items;
mod petisco;
mod plan;

pub use self::definition::Topology;
pub use self::error::TopologyError;
pub use self::items::{Binding, Exchange, ExchangeKind, Queue};
pub use self::petisco::{PetiscoSubscriber, PetiscoTopology, PetiscoTtl};
pub use self::plan::Plan;

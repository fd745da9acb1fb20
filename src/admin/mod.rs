//! An axum router to look into the outbox and to operate on it: [`Bus::admin`](crate::Bus::admin).

mod answer;
mod audit;
mod broker_act;
mod broker_dead_letters;
mod broker_queue;
#[cfg_attr(
    not(any(feature = "channels", feature = "dashboard")),
    allow(dead_code, reason = "there are no channels")
)]
mod channels;
mod consumers;
mod destination;
mod error;
mod groups;
mod header;
mod health;
mod later_drops;
mod operator;
mod parts;
mod request;
mod router;
#[cfg_attr(
    not(any(feature = "routing", feature = "dashboard")),
    allow(dead_code, reason = "there is no router")
)]
mod routing;
mod state;
mod status;
mod stored_message;
mod timestamp;
mod topics;
mod undo;

#[cfg(feature = "cli")]
pub(crate) use self::audit::OPERATOR;
#[cfg(feature = "dashboard")]
pub(crate) use self::broker_act::BrokerActed;
#[cfg(feature = "dashboard")]
pub(crate) use self::broker_dead_letters::{BrokerListed, BrokerQueue, BrokerQueues};
pub(crate) use self::broker_queue::BrokerDeadLetters;
#[cfg(feature = "dashboard")]
pub(crate) use self::channels::{ChannelReport, ChannelsReport};
#[cfg(feature = "dashboard")]
pub(crate) use self::consumers::{ConsumerReport, Consumers};
pub(crate) use self::destination::Destination;
#[cfg(feature = "dashboard")]
pub(crate) use self::groups::{Counted, Group, Groups};
#[cfg(feature = "cli")]
pub(crate) use self::header::Header;
#[cfg(feature = "dashboard")]
pub(crate) use self::later_drops::LaterDrop;
pub(crate) use self::later_drops::LaterDrops;
pub use self::operator::Operator;
pub(crate) use self::parts::Parts;
#[cfg(feature = "dashboard")]
pub(crate) use self::parts::PartsReport;
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::request::{Acted, Appended};
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::router::Listed;
#[cfg(feature = "dashboard")]
pub(crate) use self::router::{OperationReport, Operations};
#[cfg(feature = "dashboard")]
pub(crate) use self::routing::{LinkReport, QueueReport, RoutingReport};
pub(crate) use self::state::{Admin, AppState};
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::status::{BreakerReport, HealthReport, InstanceReport, OutboxReport, StatusReport};
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::stored_message::StoredMessage;
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::timestamp::format as format_time;
#[cfg(feature = "dashboard")]
pub(crate) use self::topics::{TopicReport, Topics};
#[cfg(feature = "dashboard")]
pub(crate) use self::undo::Listed as LaterDropsListed;

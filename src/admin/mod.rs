//! An axum router to look into the outbox and to operate on it: [`Bus::admin`](crate::Bus::admin).

mod answer;
mod audit;
mod consumers;
mod error;
mod groups;
mod header;
mod health;
mod later_drops;
mod operator;
mod request;
mod router;
mod state;
mod status;
mod stored_message;
mod timestamp;
mod undo;

#[cfg(feature = "dashboard")]
pub(crate) use self::consumers::{ConsumerReport, Consumers};
#[cfg(feature = "dashboard")]
pub(crate) use self::groups::{Counted, Group, Groups};
#[cfg(feature = "cli")]
pub(crate) use self::header::Header;
pub(crate) use self::later_drops::LaterDrops;
pub use self::operator::Operator;
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::request::{Acted, Appended};
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::router::Listed;
#[cfg(feature = "dashboard")]
pub(crate) use self::router::Operations;
pub(crate) use self::state::{Admin, AppState};
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::status::{BreakerReport, HealthReport, OutboxReport, StatusReport};
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::stored_message::StoredMessage;
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::timestamp::format as format_time;
#[cfg(feature = "dashboard")]
pub(crate) use self::undo::Listed as LaterDropsListed;

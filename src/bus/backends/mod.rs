//! The backends: from the name in `BACKEND` to a messenger and its sources.

mod brokers;
mod driver;
mod local;
mod routing;
#[cfg(feature = "wavemq")]
mod served_router;
mod table;

#[cfg(feature = "admin")]
pub(crate) use self::driver::OpenDeadLettersError;
pub(super) use self::driver::{Backend, LocalSources, Requesters, fault, no_requests};
#[cfg(feature = "_brokers")]
pub(crate) use self::table::broker_settings;
#[cfg(feature = "admin")]
pub(crate) use self::table::dead_letters;
pub(super) use self::table::{backend, check_source, confirmations, not_named, source};

//! From settings to a running bus: the one room that knows all parts.

mod acknowledging;
mod backends;
mod builder;
mod client;
#[cfg(feature = "_sql")]
mod database;
mod describe;
mod probes;
mod running;
#[cfg(feature = "metrics")]
mod sampling;
#[cfg(feature = "serve")]
mod serve;
mod shutdown;
#[cfg(feature = "signing")]
mod signing;
mod source;
mod waiting;

#[cfg(all(feature = "cli", feature = "_brokers"))]
pub(crate) use self::backends::broker_settings;
#[cfg(feature = "cli")]
pub(crate) use self::backends::{OpenDeadLettersError, dead_letters};
pub use self::builder::BusBuilder;
#[cfg(all(feature = "_sql", feature = "cli"))]
pub(crate) use self::database::{Database, DatabaseStore};
pub use self::describe::{AsyncApi, Description};
pub use self::running::Bus;
#[cfg(feature = "serve")]
pub use self::serve::{Serve, ServeError};
pub use self::shutdown::Shutdown;
#[cfg(all(feature = "_sql", feature = "cli", feature = "signing"))]
pub(crate) use self::signing::trusted_table;
#[cfg(feature = "cli")]
pub(crate) use self::source::check_consumers;

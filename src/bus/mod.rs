//! From settings to a running bus: the one room that knows all parts.

mod acknowledging;
mod backends;
#[cfg(feature = "admin")]
mod broker_dead_letters;
mod builder;
mod client;
#[cfg(feature = "_sql")]
mod database;
#[cfg(feature = "admin")]
mod dead_letter_routes;
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
#[cfg(feature = "cli")]
pub(crate) use self::broker_dead_letters::DeadLettersOfBroker;
pub use self::builder::BusBuilder;
#[cfg(all(feature = "_sql", feature = "cli"))]
pub(crate) use self::database::{Database, DatabaseStore};
#[cfg(all(feature = "cli", feature = "amqp091"))]
pub(crate) use self::dead_letter_routes::amqp091_consumers;
#[cfg(feature = "cli")]
pub(crate) use self::dead_letter_routes::{DeadLetterRoute, dead_letter_routes};
pub use self::describe::{AsyncApi, Description};
pub use self::running::Bus;
#[cfg(feature = "serve")]
pub use self::serve::{Serve, ServeError};
pub use self::shutdown::Shutdown;
#[cfg(all(feature = "_sql", feature = "cli", feature = "signing"))]
pub(crate) use self::signing::trusted_table;
#[cfg(feature = "cli")]
pub(crate) use self::source::check_consumers;

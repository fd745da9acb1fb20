//! The messengers: one file or folder for each kind of bus.

#[cfg(feature = "amqp091")]
pub mod amqp091;
#[cfg(feature = "amqp10")]
pub mod amqp10;
#[cfg(feature = "_brokers")]
mod brokers;
mod dummy;
mod recording;

pub use self::dummy::Dummy;
pub use self::recording::{Recording, Sent};

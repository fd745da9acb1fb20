//! Messengers and sources: one file or folder for each kind of bus.

#[cfg(feature = "amqp091")]
pub mod amqp091;
#[cfg(feature = "amqp10")]
pub mod amqp10;
#[cfg(feature = "_brokers")]
mod brokers;
mod dummy;
mod memory;
mod recording;
mod store_queue;

pub use self::dummy::Dummy;
pub use self::memory::{DeadLetter, Memory};
pub use self::recording::{Recording, Sent};
pub use self::store_queue::StoreQueue;

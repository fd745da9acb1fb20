//! Messengers and sources: one file or folder for each kind of broker.

#[cfg(feature = "amqp091")]
pub mod amqp091;
#[cfg(feature = "amqp10")]
pub mod amqp10;
#[cfg(feature = "_brokers")]
pub(crate) mod brokers;
pub mod dummy;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "kubemq-client")]
pub mod kubemq;
#[cfg(any(feature = "settings", feature = "testing"))]
#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, unreachable_pub, reason = "settings use only what sends and receives")
)]
pub(crate) mod memory;
#[cfg(feature = "mqtt")]
pub mod mqtt;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "testing")]
pub(crate) mod recording;
pub mod store_queue;

//! The base of every backend with several brokers: settings, addresses, dialling and fail-over.

mod access;
mod connection;
#[cfg(feature = "amqp10")]
mod dial;
mod error;
mod failover;
#[cfg(feature = "amqp091")]
mod hand_over;
mod messenger;
mod one_by_one;
mod settings;
mod url;

pub(super) use self::access::{Brokers, Rules};
#[cfg(feature = "amqp091")]
pub(super) use self::connection::ConnectionEnded;
pub(super) use self::connection::{Connection, Connector};
#[cfg(feature = "amqp10")]
pub(super) use self::dial::Dialer;
pub use self::error::BrokersError;
pub(super) use self::failover::Failover;
#[cfg(feature = "amqp091")]
pub(super) use self::hand_over::hand_over;
pub(super) use self::messenger::broker_messenger;
#[cfg(feature = "amqp091")]
pub(super) use self::settings::one_or_many;
pub use self::settings::{BrokerSettings, Sasl};
pub(super) use self::url::BrokerUrl;
pub use self::url::UrlError;

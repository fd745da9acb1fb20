//! The base of every backend with several brokers: settings, addresses, dialling and fail-over.

mod access;
#[cfg(any(feature = "amqp10", feature = "kubemq-client", feature = "mqtt"))]
mod attempts;
mod connection;
#[cfg(any(
    feature = "amqp10",
    feature = "kafka",
    feature = "kubemq-client",
    feature = "mqtt",
    feature = "nats"
))]
mod demand;
#[cfg(any(feature = "amqp10", feature = "kubemq-client", feature = "mqtt"))]
mod dial;
mod error;
mod failover;
#[cfg(any(
    feature = "amqp091",
    feature = "kafka",
    feature = "kubemq-client",
    feature = "mqtt",
    feature = "nats"
))]
mod hand_over;
mod messenger;
mod one_by_one;
mod settings;
#[cfg(feature = "nats")]
mod stored;
mod url;
#[cfg(feature = "nats")]
mod withdrawing;

pub(crate) use self::access::{Brokers, Rules};
#[cfg(feature = "kubemq-client")]
pub(super) use self::access::{is_first_warning, is_open};
#[cfg(any(feature = "amqp10", feature = "kubemq-client", feature = "mqtt"))]
pub(super) use self::attempts::Attempts;
#[cfg(any(feature = "amqp091", feature = "kubemq-client", feature = "mqtt", feature = "nats"))]
pub(super) use self::connection::ConnectionEnded;
pub(super) use self::connection::{Connection, Connector};
#[cfg(any(
    feature = "amqp10",
    feature = "kafka",
    feature = "kubemq-client",
    feature = "mqtt",
    feature = "nats"
))]
pub(super) use self::demand::{Demand, Pauses};
#[cfg(any(feature = "amqp10", feature = "kubemq-client", feature = "mqtt"))]
pub(super) use self::dial::Dialer;
#[cfg(feature = "kubemq-client")]
pub(super) use self::dial::Stream;
pub use self::error::BrokersError;
pub(super) use self::failover::Failover;
#[cfg(any(
    feature = "amqp091",
    feature = "kafka",
    feature = "kubemq-client",
    feature = "mqtt",
    feature = "nats"
))]
pub(super) use self::hand_over::hand_over;
pub(super) use self::messenger::broker_messenger;
#[cfg(any(feature = "amqp091", feature = "kafka", feature = "mqtt", feature = "nats"))]
pub(super) use self::settings::one_or_many;
pub use self::settings::{BrokerSettings, Sasl};
#[cfg(feature = "nats")]
pub(crate) use self::stored::{Stored, StoredAnswer};
pub(crate) use self::url::BrokerUrl;
pub use self::url::UrlError;
#[cfg(feature = "nats")]
pub(crate) use self::withdrawing::{Requests, withdraw};

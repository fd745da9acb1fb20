//! AMQP 0-9-1: a messenger for any broker, and one for Fedora Messaging.
//!
//! [`Amqp091`] and [`Fedmsg`] share one transport: kept connections, publisher confirms with a window,
//! fail-over between brokers. They differ in envelope. Neither declares an exchange.
//!
//! | what the broker answers | result |
//! |---|---|
//! | `basic.ack` | confirmed |
//! | `basic.return` (with `MANDATORY`: no queue is bound) | [`Rejected`](crate::Failure::Rejected) |
//! | `basic.nack` (a full queue, an internal error) | [`Transient`](crate::Failure::Transient) |
//! | channel closed with 403, 404, 406 | [`Rejected`](crate::Failure::Rejected) |
//! | connection lost, channel closed otherwise, no confirm within `SEND_TIMEOUT`, publishers blocked by an alarm | [`Transient`](crate::Failure::Transient), after the other brokers were tried |

mod any_broker;
mod connection;
#[cfg(feature = "cli")]
mod dead_letters;
mod envelope;
mod fedora;
mod fedora_config;
mod incoming;
mod json_lines;
mod link;
mod messenger;
mod outgoing;
mod session;
mod settings;
mod settle;
mod source;
mod subscription;
mod topology;

#[cfg(feature = "cli")]
pub(crate) use self::dead_letters::{DeadLetter, DeadLetters, DeadLettersError};
pub use self::fedora::{FedoraMessage, Severity};
#[cfg(feature = "cli")]
pub(crate) use self::fedora_config::fill as fill_from_fedora_config;
pub use self::json_lines::{JsonLineError, from_json_line, to_json_line};
pub use self::messenger::{Amqp091, Fedmsg};
pub use self::settings::Amqp091Settings;
pub use self::source::Amqp091Source;
pub use self::subscription::{Amqp091Subscription, RetryBy};
pub use self::topology::{
    Binding, Exchange, ExchangeKind, PetiscoSubscriber, PetiscoTopology, PetiscoTtl, Plan, Queue, Topology,
    TopologyError,
};
pub use crate::backends::brokers::{BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

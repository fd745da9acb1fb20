//! AMQP 1.0 (OASIS, 2012): a messenger for any broker, and one that speaks as rhmsg does.
//!
//! [`Amqp10`] and [`RhMsg`] share one transport: kept connections, a window of unsettled
//! deliveries on each link, fail-over between brokers. They differ in envelope and addresses.
//!
//! | outcome of a delivery | result |
//! |---|---|
//! | `accepted` | confirmed |
//! | `rejected` | [`Rejected`](crate::Failure::Rejected) |
//! | `released`, `modified`, lost link or connection, none within `SEND_TIMEOUT` | [`Transient`](crate::Failure::Transient), after the other brokers were tried |
//! | the address is refused: not found, not allowed, invalid | [`Rejected`](crate::Failure::Rejected) |
//!
//! The first message of a topic attaches a link to its address; up to 64 links are kept on a connection.

mod connection;
mod envelope;
mod failure;
mod link;
mod messenger;
mod rhmsg;
mod sasl;
mod settings;

pub use self::messenger::{Amqp10, RhMsg};
pub use self::settings::Amqp10Settings;
pub use crate::backends::brokers::{BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

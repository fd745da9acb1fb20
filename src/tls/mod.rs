//! TLS of both sides: certificates and keys, the client of brokers, the server of KubeMQ clients, and errors.

#[cfg(feature = "_brokers")]
mod client;
mod error;
#[cfg(feature = "_brokers")]
mod explain;
mod identity;
#[cfg(feature = "cli")]
mod inspect;
mod pem;
#[cfg(feature = "kubemq")]
mod server;

#[cfg(feature = "_brokers")]
pub(crate) use self::client::{TlsSettings, client_config};
pub use self::error::TlsError;
#[cfg(feature = "_brokers")]
pub(crate) use self::explain::explain;
#[cfg(feature = "cli")]
pub(crate) use self::inspect::{Certificate, inspect};
#[cfg(feature = "kubemq")]
pub(crate) use self::server::{ServerTls, common_name, server_config};

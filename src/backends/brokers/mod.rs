//! What every backend with several brokers shares: where they are, how to reach and keep one.

mod dial;
mod failover;
mod url;

pub(super) use self::dial::Dialer;
pub(super) use self::failover::{Connection, Connector, Failover};
pub use self::url::UrlError;
pub(super) use self::url::{BrokerUrl, redacted};

//! The contract between fail-over and one protocol: a connection to one broker, and its connector.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::url::BrokerUrl;
use crate::message::Message;
use crate::messenger::Unsent;
use crate::util::error::{BoxError, Chain};

/// Opens connections of one protocol.
#[async_trait]
pub(crate) trait Connector: Send + Sync + 'static {
    type Connection: Connection;

    async fn connect(&self, broker: &BrokerUrl) -> Result<Self::Connection, BoxError>;
}

/// A kept connection to one broker.
#[async_trait]
pub(crate) trait Connection: Send + Sync + 'static {
    /// As [`Messenger::send`](crate::messenger::Messenger::send), over this connection only.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent>;

    /// Whether it is of no more use.
    fn is_closed(&self) -> bool;

    /// Whether it was ended on our side, as the broker did not answer in time.
    fn is_given_up(&self) -> bool {
        false
    }

    /// Why the broker takes nothing although the connection is open, if so.
    fn blocked(&self) -> Option<String> {
        None
    }

    /// Closes it after what is outstanding has ended.
    async fn close(&self);
}

/// The cause of a failure when the broker closed the connection over one of its messages.
#[derive(Debug, thiserror::Error)]
#[error("the broker closed the connection over a message ({0})")]
pub(crate) struct ConnectionEnded(pub(crate) String);

/// Connects within `limit`; the error is for a person to read.
pub(super) async fn connect<C: Connector>(
    connector: &C,
    url: &BrokerUrl,
    limit: Duration,
) -> Result<C::Connection, String> {
    match timeout(limit, connector.connect(url)).await {
        Ok(connected) => connected.map_err(|error| Chain(error.as_ref()).to_string()),
        Err(_) => Err(format!("no connection within {limit:?}")),
    }
}

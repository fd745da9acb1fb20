//! The messenger over NATS.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use rustls::ClientConfig;

use super::client;
use super::connection::Connection;
use super::failure::{TooLarge, TooOld};
use super::outgoing::Outgoing;
use super::settings::NatsSettings;
use super::windows::Windows;
use crate::backends::brokers::{self, BrokerUrl, BrokersError, Connector, Failover, broker_messenger};
use crate::envelope::Envelope;
use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::error::{BoxError, Chain};

/// A NATS server or cluster, by default with JetStream: the backend `nats`.
///
/// A message is published to the subject of its topic, with its headers, and its id as `Nats-Msg-Id`. The [module](super)
/// documents the outcomes.
pub struct Nats(Transport);

broker_messenger!(Nats, NatsSettings);

struct Transport {
    failover: Failover<NatsConnector>,
    settings: Arc<NatsSettings>,
    urls: Vec<BrokerUrl>,
    server: Arc<Server>,
}

/// The abilities of the server in use.
struct Server {
    /// Its largest message.
    limit: AtomicUsize,
    /// Its version, major and minor number; 0 before the first connection.
    version: AtomicU64,
}

impl Transport {
    fn new(settings: &NatsSettings) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        let windows = Windows::new(settings.retry_horizon());
        let settings = Arc::new(settings.clone());
        let server = Arc::new(Server { limit: AtomicUsize::new(usize::MAX), version: AtomicU64::new(0) });
        let connector =
            NatsConnector { settings: Arc::clone(&settings), tls, server: Arc::clone(&server), windows };
        let failover = Failover::new(connector, urls.clone(), settings.broker.connection_timeout());
        Ok(Self { failover, settings, urls, server })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        let outline = Outgoing::outline(&self.settings, message)?;
        let version = self.server.version.load(Ordering::Relaxed);
        let too_old = |what, least| {
            let version = format!("{}.{}", version >> 32, version & 0xFFFF_FFFF);
            Err(TooOld { what, least, version }.into())
        };
        if outline.needs.delay && (1..packed(2, 12)).contains(&version) {
            return too_old("messages with a delay", "2.12");
        }
        if outline.needs.expiry && (1..packed(2, 11)).contains(&version) {
            return too_old("messages with an expiry", "2.11");
        }
        let limit = self.server.limit.load(Ordering::Relaxed);
        let mut size = outline.size;
        // An envelope of JSON adds to the body; it is written only when the limit is near.
        if self.settings.broker.envelope != Envelope::Plain && size.saturating_mul(8) > limit {
            size = Outgoing::new(&self.settings, message)?.size();
        }
        if size > limit { Err(TooLarge { size, limit }.into()) } else { Ok(()) }
    }
}

fn packed(major: u64, minor: u64) -> u64 {
    major << 32 | minor
}

/// The version in a text such as `2.15.1`; 0 if it is none.
fn version_of(text: &str) -> u64 {
    let mut numbers = text.split('.').map_while(|number| number.parse().ok());
    numbers
        .next()
        .zip(numbers.next())
        .map_or(0, |(major, minor): (u32, u32)| packed(major.into(), minor.into()))
}

struct NatsConnector {
    settings: Arc<NatsSettings>,
    tls: Option<Arc<ClientConfig>>,
    server: Arc<Server>,
    windows: Arc<Windows>,
}

#[async_trait]
impl Connector for NatsConnector {
    type Connection = SettledConnection;

    async fn connect(&self, broker: &BrokerUrl) -> Result<Self::Connection, BoxError> {
        let generation = client::open(&self.settings, self.tls.as_ref(), broker).await;
        let generation = generation.map_err(|failure| Chain(failure.cause()).to_string())?;
        self.server.limit.store(generation.client.max_payload(), Ordering::Relaxed);
        self.server.version.store(version_of(&generation.client.server_info().version), Ordering::Relaxed);
        let connection = Connection::new(generation, &self.settings, Arc::clone(&self.windows)).await;
        let connection = connection.map_err(|failure| Chain(failure.cause()).to_string())?;
        Ok(SettledConnection { connection, settings: Arc::clone(&self.settings) })
    }
}

/// A connection with the settings of its messages.
struct SettledConnection {
    connection: Connection,
    settings: Arc<NatsSettings>,
}

#[async_trait]
impl brokers::Connection for SettledConnection {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let encode = |message| Outgoing::new(&self.settings, message).map_err(Failure::rejected);
        let messages: Vec<_> = batch.iter().map(encode).collect();
        let connection = self.connection.clone();
        brokers::hand_over(batch, async move { connection.publish(messages).await }).await
    }

    fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    fn is_given_up(&self) -> bool {
        self.connection.is_given_up()
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(version_of("2.9.10") < packed(2, 11) && version_of("2.15.1") >= packed(2, 12));
        assert_eq!((version_of("nightly"), version_of("2.12.0-preview.1")), (0, packed(2, 12)));
    }
}

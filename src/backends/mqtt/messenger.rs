//! The messenger over MQTT.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use super::connection::{self, Connection};
use super::failure::TooLarge;
use super::outgoing::{LARGEST, Outgoing};
use super::settings::MqttSettings;
use crate::backends::brokers::{
    self, BrokerUrl, BrokersError, Connector, Dialer, Failover, broker_messenger,
};
use crate::envelope::Envelope;
use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::error::{BoxError, Chain};

/// Any MQTT 5 broker: the backend `mqtt`.
///
/// A message is published to the MQTT topic name of its topic, with its headers as user properties, by default with QoS 1.
/// The [module](super) documents the outcomes.
pub struct Mqtt(Transport);

broker_messenger!(Mqtt, MqttSettings);

struct Transport {
    failover: Failover<MqttConnector>,
    settings: Arc<MqttSettings>,
    urls: Vec<BrokerUrl>,
    limit: Arc<AtomicU32>,
}

impl Transport {
    fn new(settings: &MqttSettings) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        let settings = Arc::new(settings.clone());
        let limit = Arc::new(AtomicU32::new(LARGEST));
        let connector = MqttConnector {
            settings: Arc::clone(&settings),
            dialer: Arc::new(Dialer::new(tls)),
            limit: Arc::clone(&limit),
        };
        let failover = Failover::new(connector, urls.clone(), settings.broker.connection_timeout());
        Ok(Self { failover, settings, urls, limit })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        let outline = Outgoing::outline(&self.settings, message)?;
        let limit = self.limit.load(Ordering::Relaxed);
        let mut size = outline.size();
        // An envelope of JSON adds to the body; it is written only when the limit is near.
        if self.settings.broker.envelope != Envelope::Plain && size.saturating_mul(8) > limit as usize {
            size = Outgoing::new(&self.settings, message)?.size();
        }
        if size > limit as usize { Err(TooLarge { size, limit }.into()) } else { Ok(()) }
    }
}

struct MqttConnector {
    settings: Arc<MqttSettings>,
    dialer: Arc<Dialer>,
    /// The largest packet of the broker in use.
    limit: Arc<AtomicU32>,
}

#[async_trait]
impl Connector for MqttConnector {
    type Connection = SettledConnection;

    async fn connect(&self, broker: &BrokerUrl) -> Result<Self::Connection, BoxError> {
        let connection = connection::open(&self.settings, &self.dialer, broker).await;
        let connection = connection.map_err(|failure| Chain(failure.cause()).to_string())?;
        self.limit.store(connection.largest(), Ordering::Relaxed);
        Ok(SettledConnection { connection, settings: Arc::clone(&self.settings) })
    }
}

/// A connection with the settings of its messages.
struct SettledConnection {
    connection: Connection,
    settings: Arc<MqttSettings>,
}

#[async_trait]
impl brokers::Connection for SettledConnection {
    /// Publishes in a task of its own, which runs to its end if this is dropped.
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

//! The messenger over Kafka.

use std::sync::Arc;

use async_trait::async_trait;

use super::client;
use super::connection::Connection;
use super::failure::{BatchRefused, open_failure};
use super::outgoing::Outgoing;
use super::settings::{Cluster, KafkaSettings};
use crate::backends::brokers::{self, BrokerUrl, BrokersError, Connector, Failover, broker_messenger};
use crate::envelope::Envelope;
use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::error::{BoxError, Chain};

/// A Kafka cluster: the backend `kafka`.
///
/// A message is a record of the topic with its name, with its key and headers. The [module](super) documents the outcomes.
pub struct Kafka(Transport);

broker_messenger!(Kafka, KafkaSettings);

struct Transport {
    failover: Failover<KafkaConnector>,
    settings: Arc<KafkaSettings>,
    urls: Vec<BrokerUrl>,
}

impl Transport {
    fn new(settings: &KafkaSettings) -> Result<Self, BrokersError> {
        let cluster = settings.check()?;
        let settings = Arc::new(settings.clone());
        let urls = cluster.urls.clone();
        let connector = KafkaConnector { settings: Arc::clone(&settings), cluster };
        // The brokers are one cluster, whose client chooses among them.
        let one = urls.iter().take(1).cloned().collect();
        let failover = Failover::new(connector, one, settings.broker.connection_timeout());
        Ok(Self { failover, settings, urls })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        let mut outgoing = Outgoing::outline(&self.settings, message)?;
        // An envelope of JSON adds to the body; it is written only when the limit is near.
        if self.settings.broker.envelope != Envelope::Plain
            && outgoing.size().saturating_mul(8) > self.settings.max_message_bytes
        {
            outgoing = Outgoing::new(&self.settings, message)?;
        }
        Ok(outgoing.check_size(&self.settings)?)
    }
}

struct KafkaConnector {
    settings: Arc<KafkaSettings>,
    cluster: Cluster,
}

#[async_trait]
impl Connector for KafkaConnector {
    type Connection = SettledConnection;

    async fn connect(&self, _: &BrokerUrl) -> Result<Self::Connection, BoxError> {
        let open = async {
            let client = client::open(&self.settings, &self.cluster, self.settings.request_timeout()).await?;
            Connection::new(client, &self.settings).await.map_err(|error| open_failure(&error))
        };
        let connection = open.await.map_err(|failure| Chain(failure.cause()).to_string())?;
        Ok(SettledConnection { connection, settings: Arc::clone(&self.settings) })
    }
}

/// A connection with the settings of its messages.
struct SettledConnection {
    connection: Connection,
    settings: Arc<KafkaSettings>,
}

impl SettledConnection {
    fn encoded(&self, batch: &[Message]) -> Vec<Result<Outgoing, Failure>> {
        let encode = |message| {
            let outgoing = Outgoing::new(&self.settings, message).map_err(Failure::rejected)?;
            outgoing.check_size(&self.settings).map_err(Failure::rejected)?;
            Ok(outgoing)
        };
        batch.iter().map(encode).collect()
    }
}

#[async_trait]
impl brokers::Connection for SettledConnection {
    /// Publishes in tasks of their own, which run to their end if this is dropped. The messages of a batch of records that the
    /// brokers refused are published again, each alone.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let (messages, connection) = (self.encoded(&batch), self.connection.clone());
        let sent = brokers::hand_over(batch, async move { connection.publish(messages).await }).await;
        let Err(unsent) = sent else { return Ok(()) };
        let (suspects, mut unsent): (Vec<_>, Vec<_>) =
            unsent.into_iter().partition(|(_, failure)| failure.cause().is::<BatchRefused>());
        if !suspects.is_empty() {
            let batch: Vec<_> = suspects.into_iter().map(|(message, _)| message).collect();
            let (messages, connection) = (self.encoded(&batch), self.connection.clone());
            let sent = brokers::hand_over(batch, async move { connection.publish_alone(messages).await });
            unsent.extend(sent.await.err().into_iter().flatten());
        }
        unsent.into_iter().collect::<Unsent>().into_result()
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

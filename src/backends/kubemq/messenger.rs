//! The messenger over KubeMQ.

use std::sync::Arc;

use async_trait::async_trait;

use super::connection::{self, Connection};
use super::event_link;
use super::outgoing;
use super::sender_link::SenderLink;
use super::settings::{KubemqSettings, Pattern};
use crate::backends::brokers::{
    self, BrokerUrl, BrokersError, Connector, Dialer, Failover, broker_messenger, hand_over,
};
use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::error::BoxError;

/// Sends to queues, events or the event store of a KubeMQ server: the backend `kubemq`.
///
/// The [module](super) documents how messages are written, and the outcomes.
pub struct Kubemq(Transport);

broker_messenger!(Kubemq, KubemqSettings);

struct Transport {
    failover: Failover<KubemqConnector>,
    settings: Arc<KubemqSettings>,
    urls: Vec<BrokerUrl>,
}

impl Transport {
    fn new(settings: &KubemqSettings) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        if matches!(settings.pattern, Pattern::Commands | Pattern::Queries) {
            let problem = "commands and queries are for consumers and clients: write where messages go, such as \"queues\"";
            return Err(BrokersError::setting("PATTERN", problem));
        }
        let settings = Arc::new(settings.clone());
        let connector =
            KubemqConnector { settings: Arc::clone(&settings), dialer: Arc::new(Dialer::new(tls)) };
        let failover = Failover::new(connector, urls.clone(), settings.broker.connection_timeout());
        Ok(Self { failover, settings, urls })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        let broker = &self.settings.broker;
        let outline = broker.envelope.outline(message, broker.origin())?;
        outgoing::check(&self.settings, &outline)
    }
}

struct KubemqConnector {
    settings: Arc<KubemqSettings>,
    dialer: Arc<Dialer>,
}

#[async_trait]
impl Connector for KubemqConnector {
    type Connection = Sender;

    async fn connect(&self, broker: &BrokerUrl) -> Result<Self::Connection, BoxError> {
        let opened = connection::open(&self.settings, &self.dialer, broker).await;
        let connection = opened.map_err(|error| error.error)?;
        let queues = match self.settings.pattern {
            Pattern::Queues => {
                Some(Arc::new(SenderLink::open(connection.clone(), self.settings.broker.window)))
            }
            _ => None,
        };
        Ok(Sender { connection, queues, settings: Arc::clone(&self.settings) })
    }
}

/// A connection that sends.
struct Sender {
    connection: Connection,
    /// The stream to queues, unless events are sent.
    queues: Option<Arc<SenderLink>>,
    settings: Arc<KubemqSettings>,
}

impl Sender {
    fn encode<T>(
        &self,
        batch: &[Message],
        encode: impl Fn(&KubemqSettings, &Message) -> Result<T, BoxError>,
    ) -> Vec<Result<T, Failure>> {
        let broker = &self.settings.broker;
        let encode = |message: &Message| {
            let sealed = broker.envelope.seal(message, broker.origin())?;
            outgoing::check(&self.settings, &sealed)?;
            encode(&self.settings, &sealed)
        };
        batch.iter().map(|message| encode(message).map_err(Failure::rejected)).collect()
    }
}

#[async_trait]
impl brokers::Connection for Sender {
    /// Sends in a task of its own, which runs to its end if this is dropped.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        if let Some(queues) = &self.queues {
            let (queues, messages) = (Arc::clone(queues), self.encode(&batch, outgoing::queue_message));
            return hand_over(batch, async move { queues.send(messages).await }).await;
        }
        let (connection, events) = (self.connection.clone(), self.encode(&batch, outgoing::event));
        hand_over(batch, async move { event_link::send(&connection, events).await }).await
    }

    fn is_closed(&self) -> bool {
        self.connection.lost.is_cancelled() || self.queues.as_ref().is_some_and(|queues| queues.is_ended())
    }

    fn is_given_up(&self) -> bool {
        self.connection.is_given_up()
    }

    async fn close(&self) {
        if let Some(queues) = &self.queues {
            queues.finish().await;
        }
        self.connection.lost.cancel();
    }
}

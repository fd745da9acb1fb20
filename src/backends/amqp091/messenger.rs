//! The two messengers over AMQP 0-9-1.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;

use super::connection::{self, Connection};
use super::fedora::Fedora;
use super::fedora_config;
use super::limits::{Limits, MAX_EXPIRY, fields};
use super::outgoing::{Plain, Publish, Shape};
use super::settings::Amqp091Settings;
use crate::backends::brokers::{
    self, Access, BrokerUrl, BrokersError, Connector, Failover, broker_messenger, check_envelope,
    check_message, prefixed,
};
use crate::envelope::Envelope;
use crate::message::Message;
use crate::message::topic::Topic;
use crate::messenger::{Failure, Unsent};
use crate::util::error::BoxError;

/// Any AMQP 0-9-1 broker: the backend `amqp091`.
///
/// A message goes to an exchange with its topic as routing key: message-id, content-type, timestamp, its headers,
/// persistent unless the settings say otherwise. See the [module](super) for what is confirmed.
pub struct Amqp091(Transport<Plain>);

/// Fedora Messaging: the backend `fedmsg`.
///
/// A message is a JSON object that `fedora-messaging consume` accepts without a word: schema, severity, `sent-at`,
/// and the filter headers of [`FedoraMessage`](super::FedoraMessage). A header `sent-at` or `priority` of your own is refused at
/// `enqueue`: they say the message's time and priority. See the [module](super) for what is confirmed.
///
/// PDC, which sends so, keeps the response when sending fails. The default here is 503: set `ON_SEND_FAILURE = "log"`
/// ([`OnSendFailure::Log`](crate::layer::OnSendFailure::Log)) for PDC's way.
pub struct Fedmsg(Transport<Fedora>);

broker_messenger!(Amqp091, Amqp091Settings);
broker_messenger!(Fedmsg, Amqp091Settings);

struct Transport<E: Shape> {
    failover: Failover<LapinConnector<E>>,
    settings: Arc<Amqp091Settings>,
    urls: Vec<BrokerUrl>,
    limits: Limits,
}

impl<E: Shape> Transport<E> {
    fn new(settings: &Amqp091Settings) -> Result<Self, BrokersError> {
        let (settings, urls, tls) = checked(settings, E::WRAPS)?;
        let limits = Limits::default();
        let connector = LapinConnector {
            settings: Arc::clone(&settings),
            tls,
            limits: limits.clone(),
            envelope: PhantomData,
        };
        let failover = Failover::new(connector, urls.clone(), settings.connection_timeout);
        Ok(Self { failover, settings, urls, limits })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        let sealed = self.settings.envelope.seal(message, self.settings.origin())?;
        check_message(self.settings.topic_prefix.as_deref(), &sealed)?;
        E::check(&sealed)?;
        Ok(self.limits.check(&sealed, || E::encode(&self.settings, &sealed))?)
    }
}

/// The settings, filled, with what they name; `wraps` says whether `ENVELOPE` may name another shape.
pub(super) fn checked(settings: &Amqp091Settings, wraps: bool) -> Result<Checked, BrokersError> {
    let mut settings = fedora_config::fill(settings)?;
    check_envelope(settings.envelope, settings.origin(), settings.topic_prefix.as_deref(), wraps)?;
    if let (Envelope::Petisco, None, Some(organization), Some(service)) =
        (settings.envelope, &settings.exchange, &settings.organization, &settings.service)
    {
        settings.exchange = Some(format!("{organization}.{service}"));
    }
    if settings.exchange.as_deref().is_some_and(|exchange| exchange.len() > Topic::MAX_LEN) {
        return Err(BrokersError::setting("EXCHANGE", "is longer than 255 bytes"));
    }
    if settings.ttl.is_some_and(|ttl| ttl > MAX_EXPIRY) {
        return Err(BrokersError::setting("TTL", "is longer than ten years (3650d), the longest of brokers"));
    }
    let (urls, tls) = access(&settings).check()?;
    Ok((Arc::new(settings), urls, tls))
}

type Checked = (Arc<Amqp091Settings>, Vec<BrokerUrl>, Option<Arc<ClientConfig>>);

fn access(settings: &Amqp091Settings) -> Access<'_> {
    Access {
        urls: &settings.urls,
        parse_url: BrokerUrl::parse_with_vhost,
        tls: settings.tls(),
        sasl: settings.sasl,
        topic_prefix: settings.topic_prefix.as_deref(),
        window: settings.window,
        connection_timeout: settings.connection_timeout,
        send_timeout: settings.send_timeout,
        idle_timeout: settings.idle_timeout,
        // Heartbeats are whole seconds, two to a time-out.
        least_idle_timeout: Duration::from_secs(2),
    }
}

struct LapinConnector<E> {
    settings: Arc<Amqp091Settings>,
    tls: Option<Arc<ClientConfig>>,
    limits: Limits,
    envelope: PhantomData<E>,
}

#[async_trait]
impl<E: Shape> Connector for LapinConnector<E> {
    type Connection = EnvelopeConnection<E>;

    async fn connect(&self, broker: &BrokerUrl) -> Result<Self::Connection, BoxError> {
        let mut connection = connection::open(&self.settings, self.tls.clone(), broker, usize::MAX).await?;
        self.limits.renew(connection.frame_max());
        connection.limits = self.limits.clone();
        Ok(EnvelopeConnection { connection, settings: Arc::clone(&self.settings), envelope: PhantomData })
    }
}

/// A connection that knows how messages look on it.
struct EnvelopeConnection<E> {
    connection: Connection,
    settings: Arc<Amqp091Settings>,
    envelope: PhantomData<E>,
}

impl<E: Shape> EnvelopeConnection<E> {
    fn encode(&self, message: &Message) -> Result<Publish, BoxError> {
        let message = &*self.settings.envelope.seal(message, self.settings.origin())?;
        check_message(self.settings.topic_prefix.as_deref(), message)?;
        fields(message)?;
        Ok(Publish {
            exchange: self.settings.exchange.clone().unwrap_or_else(|| "amq.topic".to_owned()),
            routing_key: prefixed(self.settings.topic_prefix.as_deref(), message.topic()),
            mandatory: self.settings.mandatory,
            properties: E::encode(&self.settings, message),
            body: message.body().clone(),
        })
    }
}

#[async_trait]
impl<E: Shape> brokers::Connection for EnvelopeConnection<E> {
    /// Publishes in a task of its own: dropped half-way, the batch goes on to its end.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let mut publishes = Vec::with_capacity(batch.len());
        let mut refused = Vec::new();
        for (index, message) in batch.iter().enumerate() {
            match self.encode(message) {
                Ok(publish) => publishes.push(publish),
                Err(error) => refused.push((index, Failure::rejected(error))),
            }
        }
        let connection = self.connection.clone();
        let publish = async move {
            let mut results = connection.publish(&publishes).await;
            refused.into_iter().for_each(|(index, failure)| results.insert(index, Err(failure)));
            results
        };
        brokers::hand_over(batch, publish).await
    }

    fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    fn is_given_up(&self) -> bool {
        self.connection.is_given_up()
    }

    fn blocked(&self) -> Option<String> {
        self.connection.blocked()
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}

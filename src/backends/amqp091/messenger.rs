//! The two messengers over AMQP 0-9-1.

use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::ClientConfig;

use super::connection::{self, Connection};
use super::fedora::Fedora;
use super::fedora_config;
use super::limits::{Limits, fields};
use super::outgoing::{Plain, Publish, Shape};
use super::settings::Amqp091Settings;
use crate::backends::brokers::{
    self, BrokerUrl, Brokers, BrokersError, Connector, Failover, broker_messenger,
};
use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::error::BoxError;

/// Any AMQP 0-9-1 broker: the backend `amqp091`.
///
/// A message is published to an exchange with its topic as routing key: message-id, content-type, timestamp, its headers,
/// persistent by default. The [module](super) documents the outcomes.
pub struct Amqp091(Transport<Plain>);

/// Fedora Messaging: the backend `fedmsg`.
///
/// A message is a JSON object that `fedora-messaging consume` accepts without a warning: schema, severity, `sent-at`,
/// and the filter headers of [`FedoraMessage`](super::FedoraMessage). A header `sent-at` or `priority` of your own is rejected at
/// `enqueue`: they carry the time and the priority of the message. The [module](super) documents the outcomes.
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
        let (settings, (urls, tls)) = checked(settings, E::WRAPS)?;
        let limits = Limits::default();
        let connector = LapinConnector {
            settings: Arc::clone(&settings),
            tls,
            limits: limits.clone(),
            envelope: PhantomData,
        };
        let failover = Failover::new(connector, urls.clone(), settings.broker.connection_timeout());
        Ok(Self { failover, settings, urls, limits })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        let broker = &self.settings.broker;
        let outline = broker.envelope.outline(message, broker.origin())?;
        broker.check_message(&outline)?;
        E::check(&outline)?;
        let body_len = || broker.envelope.seal(message, broker.origin()).map_or(0, |it| it.body().len());
        Ok(self.limits.check(&outline, body_len, || E::encode(&self.settings, &outline))?)
    }
}

/// The settings, completed, and the brokers they name; `wraps` is whether `ENVELOPE` may name another shape.
pub(super) fn checked(
    settings: &Amqp091Settings,
    wraps: bool,
) -> Result<(Arc<Amqp091Settings>, Brokers), BrokersError> {
    let mut settings = fedora_config::fill(settings)?;
    let brokers = settings.check(wraps)?;
    Ok((Arc::new(settings), brokers))
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

/// A connection with the shape of its messages.
struct EnvelopeConnection<E> {
    connection: Connection,
    settings: Arc<Amqp091Settings>,
    envelope: PhantomData<E>,
}

impl<E: Shape> EnvelopeConnection<E> {
    fn encode(&self, message: &Message) -> Result<Publish, BoxError> {
        let message = &*self.settings.broker.envelope.seal(message, self.settings.broker.origin())?;
        self.settings.broker.check_message(message)?;
        fields(message)?;
        Ok(Publish {
            exchange: self.settings.exchange.clone().unwrap_or_else(|| "amq.topic".to_owned()),
            routing_key: self.settings.broker.prefixed(message.topic()),
            mandatory: self.settings.mandatory,
            properties: E::encode(&self.settings, message),
            body: message.body().clone(),
        })
    }
}

#[async_trait]
impl<E: Shape> brokers::Connection for EnvelopeConnection<E> {
    /// Publishes in a task of its own, which runs to its end if this is dropped.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::brokers::BrokerSettings;
    use crate::envelope::Envelope;
    use crate::envelope::odd_messages::odd_messages;

    /// The error of a check that seals the whole message.
    fn by_sealing<E: Shape>(transport: &Transport<E>, message: &Message) -> Result<(), BoxError> {
        let broker = &transport.settings.broker;
        let sealed = broker.envelope.seal(message, broker.origin())?;
        broker.check_message(&sealed)?;
        E::check(&sealed)?;
        let encode = || E::encode(&transport.settings, &sealed);
        Ok(transport.limits.check(&sealed, || sealed.body().len(), encode)?)
    }

    fn assert_same_errors<E: Shape>(transport: &Transport<E>, messages: &[Message]) -> usize {
        let text = |result: Result<(), BoxError>| result.map_err(|error| error.to_string());
        let check = |message| {
            let (found, expected) = (text(transport.check(message)), text(by_sealing(transport, message)));
            assert_eq!(found, expected, "{message:?}");
            usize::from(found.is_err())
        };
        messages.iter().map(check).sum()
    }

    #[tokio::test]
    async fn a_check_rejects_the_messages_that_cannot_be_sent_once_sealed() {
        let messages = odd_messages();
        let broker = BrokerSettings::new(["amqp://h"]).with_service("acme", "registration");
        for envelope in [
            Envelope::Plain,
            Envelope::CloudEvents,
            Envelope::CloudEventsStructured,
            Envelope::Petisco,
            Envelope::Mqfactory,
        ] {
            let settings = broker.clone().with_envelope(envelope).into();
            let transport = Transport::<Plain>::new(&settings).unwrap();
            let rejected = assert_same_errors(&transport, &messages);
            transport.limits.renew(4_096);
            transport.limits.set_largest_body(200);
            let with_limits = assert_same_errors(&transport, &messages);
            assert!(rejected > 50 && with_limits > rejected, "{envelope:?}: {rejected}, {with_limits}");
        }
        assert!(assert_same_errors(&Transport::<Fedora>::new(&broker.into()).unwrap(), &messages) > 50);
    }
}

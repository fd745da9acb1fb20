//! The two messengers over AMQP 1.0.

use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;

use super::connection::{self, Connection};
use super::failure::{NoCredit, NoOutcome};
use super::outgoing::{self, Plain, Shape};
use super::rhmsg::Rhmsg;
use super::settings::Amqp10Settings;
use crate::backends::brokers::{
    self, BrokerUrl, BrokersError, Connector, Dialer, Failover, broker_messenger,
};
use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::error::BoxError;

/// Any AMQP 1.0 broker: the backend `amqp10`.
///
/// A message is a data section with message-id, subject (the topic), content-type, creation-time, group-id
/// (the key) and its headers as application properties; durable by default.
/// The [module](super) documents the outcomes.
pub struct Amqp10(Transport<Plain>);

/// AMQP 1.0 as python-rhmsg speaks it: the backend `rhmsg`.
///
/// A message is a JSON object as an amqp-value string, its scalars repeated as application properties, sent to
/// `topic://<prefix>.<topic>`; not durable by default. The [module](super) documents the outcomes.
///
/// PDC keeps the response when sending fails. The default here is 503: set `ON_SEND_FAILURE = "log"`
/// ([`OnSendFailure::Log`](crate::layer::OnSendFailure::Log)) for PDC's way.
pub struct RhMsg(Transport<Rhmsg>);

broker_messenger!(Amqp10, Amqp10Settings);
broker_messenger!(RhMsg, Amqp10Settings);

struct Transport<E: Shape> {
    failover: Failover<AmqpConnector<E>>,
    settings: Arc<Amqp10Settings>,
    urls: Vec<BrokerUrl>,
}

impl<E: Shape> Transport<E> {
    fn new(settings: &Amqp10Settings) -> Result<Self, BrokersError> {
        let fault = |key, problem| Err(BrokersError::setting(key, problem));
        let (urls, tls) = settings.check(E::WRAPS)?;
        if settings.priority > 9 {
            return fault("PRIORITY", "is above 9, the highest of AMQP");
        }
        let without_topic = settings.address.as_deref().unwrap_or_default().replace("{topic}", "");
        if without_topic.contains(['{', '}']) {
            return fault("ADDRESS", "knows only {topic}, as in \"topic://{topic}\"");
        }
        let settings = Arc::new(E::with_timeouts(settings.clone()));
        let dialer = Dialer::new(tls);
        let connector = AmqpConnector { settings: Arc::clone(&settings), dialer, envelope: PhantomData };
        let failover = Failover::new(connector, urls.clone(), settings.broker.connection_timeout());
        Ok(Self { failover, settings, urls })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        outgoing::check::<E>(&self.settings, message)
    }
}

struct AmqpConnector<E> {
    settings: Arc<Amqp10Settings>,
    dialer: Dialer,
    envelope: PhantomData<E>,
}

#[async_trait]
impl<E: Shape> Connector for AmqpConnector<E> {
    type Connection = EnvelopeConnection<E>;

    async fn connect(&self, broker: &BrokerUrl) -> Result<Self::Connection, BoxError> {
        let connection = connection::open(&self.settings, &self.dialer, broker, None).await?;
        Ok(EnvelopeConnection { connection, settings: Arc::clone(&self.settings), envelope: PhantomData })
    }
}

/// A connection with the shape of its messages.
struct EnvelopeConnection<E> {
    connection: Connection,
    settings: Arc<Amqp10Settings>,
    envelope: PhantomData<E>,
}

impl<E: Shape> EnvelopeConnection<E> {
    async fn hand_over(
        &self,
        batch: &mut connection::Batch<'_>,
        message: &Message,
    ) -> Result<connection::Answer, Failure> {
        let (address, encoded) =
            outgoing::addressed::<E>(&self.settings, message).map_err(Failure::rejected)?;
        batch.send(address, encoded).await
    }
}

#[async_trait]
impl<E: Shape> brokers::Connection for EnvelopeConnection<E> {
    /// Passes the messages to their links in order, then collects the outcomes. If it is dropped, passed messages
    /// are still sent, and the rest is not.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let mut handed = self.connection.batch(batch.len() > 1);
        let mut answers = Vec::with_capacity(batch.len());
        for message in batch {
            let answer = self.hand_over(&mut handed, &message).await;
            answers.push((message, answer));
        }
        let mut unsent = Unsent::default();
        for (message, answer) in answers {
            let result = match answer {
                Ok(answer) => answer.await.unwrap_or_else(|_| Err(Failure::transient("the runtime stopped"))),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = result {
                unsent.extend([(message, failure)]);
            }
        }
        unsent.into_result()
    }

    fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    fn is_given_up(&self) -> bool {
        let failure = self.connection.lifeline().failure();
        failure.is_some_and(|failure| failure.cause().is::<NoOutcome>() || failure.cause().is::<NoCredit>())
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

    /// The error of a check that seals and encodes the whole message, as sending does.
    fn by_sending<E: Shape>(transport: &Transport<E>, message: &Message) -> Result<(), BoxError> {
        outgoing::addressed::<E>(&transport.settings, message).map(drop)
    }

    fn assert_same_errors<E: Shape>(settings: &Amqp10Settings) {
        let transport = Transport::<E>::new(settings).unwrap();
        let text = |result: Result<(), BoxError>| result.map_err(|error| error.to_string());
        let mut rejected = 0;
        for message in odd_messages() {
            let found = text(transport.check(&message));
            assert_eq!(found, text(by_sending(&transport, &message)), "{message:?}");
            rejected += usize::from(found.is_err());
        }
        assert!(rejected > 50, "{rejected} messages were rejected");
    }

    #[tokio::test]
    async fn a_check_rejects_the_messages_that_sending_rejects() {
        let broker = BrokerSettings::new(["amqp://h"]).with_service("acme", "registration");
        for envelope in [
            Envelope::Plain,
            Envelope::CloudEvents,
            Envelope::CloudEventsStructured,
            Envelope::Petisco,
            Envelope::Mqfactory,
        ] {
            assert_same_errors::<Plain>(&broker.clone().with_envelope(envelope).into());
        }
        assert_same_errors::<Rhmsg>(&broker.into());
    }
}

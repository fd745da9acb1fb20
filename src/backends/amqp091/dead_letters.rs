//! The messages of a dead-letter queue, and how they are requeued.

use std::sync::Arc;

use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, Channel, ErrorKind};

use super::any_broker;
use super::connection::Connection;
use super::forwarding::{goes_along, kept};
use super::incoming::{Dialect, Incoming, REDELIVERY_COUNT};
use super::outgoing::Publish;
use super::settings::Amqp091Settings;
use crate::backends::brokers::BrokersError;
use crate::message::Message;
use crate::message::headers::{EXPIRY, QUEUE, REASON, TOPIC};
use crate::util::error::Chain;

/// A queue whose messages are taken one by one. Messages that are not requeued return to their position when it is closed or dropped.
pub(crate) struct DeadLetters {
    connection: Connection,
    /// The channel that the messages were taken on.
    channel: Channel,
    settings: Arc<Amqp091Settings>,
    queue: String,
    left: u32,
}

/// One of its messages.
pub(crate) struct DeadLetter {
    incoming: Incoming,
    acker: Acker,
}

/// Why dead letters cannot be taken or requeued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadLettersError {
    #[error(transparent)]
    Settings(#[from] BrokersError),
    #[error("no broker can be reached: {0}")]
    Unreachable(String),
    #[error("there is no queue {0:?}")]
    NoQueue(String),
    #[error("the original queue of a message is unknown: give --exchange and --routing-key")]
    NoTarget,
    #[error(
        "a message names the original queue {0:?}, which does not belong to this dead-letter queue: if it is yours, give \
         --back-to {0:?}"
    )]
    Foreign(String),
    #[error(
        "the exchange {exchange:?} did not accept a message with the routing key {routing_key:?}: {reason}"
    )]
    NotTaken { exchange: String, routing_key: String, reason: String },
    #[error("the broker reported an error")]
    Broker(#[from] lapin::Error),
}

impl DeadLetters {
    pub(crate) async fn open(settings: &Amqp091Settings, queue: &str) -> Result<Self, DeadLettersError> {
        let (connection, settings) =
            any_broker::connect(settings).await?.map_err(DeadLettersError::Unreachable)?;
        let missing = || DeadLettersError::NoQueue(queue.to_owned());
        if queue.len() > 255 {
            return Err(missing());
        }
        let channel = connection.new_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        let left = match declared {
            Ok(declared) => declared.message_count(),
            Err(error) if is_not_found(&error) => return Err(missing()),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { connection, channel, settings, queue: queue.to_owned(), left })
    }

    /// The number of messages left of those at the start.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// The next of the messages at the start.
    pub(crate) async fn next(&mut self) -> Result<Option<DeadLetter>, DeadLettersError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let got = self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default()).await?;
        Ok(got.map(|got| {
            // A repaired message is shown as it is.
            let _ = self.connection.findings.take(self.channel.id(), got.delivery.delivery_tag);
            let (incoming, acker) = Incoming::new(got.delivery, &self.queue);
            DeadLetter { incoming, acker }
        }))
    }

    /// The message in it, if it can be read.
    pub(crate) fn message(&self, letter: &DeadLetter) -> Option<Message> {
        let prefix = self.settings.broker.topic_prefix.as_deref();
        let message = letter.incoming.decode(Dialect::Plain, prefix, &self.queue).ok()?;
        self.settings.broker.envelope.open(message).ok()
    }

    /// The exchange and routing key that lead back to the original queue.
    ///
    /// A dead letter of ours names the queue in a header, reached by the default exchange. One of petisco returns to the retry exchange; its
    /// queue is in a header, or in the name of this one. A dead letter of RabbitMQ returns to the first queue it was in.
    /// Anyone may have written these headers: they count only if they name the queue that this one belongs to, or one of `also`.
    pub(crate) fn target(
        &self,
        letter: &DeadLetter,
        also: &[String],
    ) -> Result<(String, String), DeadLettersError> {
        let text = |name| letter.incoming.header(name).map(|value| value.to_string());
        let of_petisco = self.queue.strip_prefix("dead_letter.");
        let ours_to_use = |named: String| {
            let is_base = of_petisco.or_else(|| self.queue.strip_suffix(".dead")) == Some(named.as_str());
            match is_base || also.contains(&named) {
                true => Ok(named),
                false => Err(DeadLettersError::Foreign(named)),
            }
        };
        if let Some(queue) = text(QUEUE) {
            return Ok((String::new(), ours_to_use(queue)?));
        }
        let petisco = text("queue").filter(|_| text(REDELIVERY_COUNT).is_some());
        let petisco = petisco.or_else(|| of_petisco.map(str::to_owned));
        if let Some(exchange) = petisco.as_deref().and_then(petisco_retry_exchange) {
            return Ok((exchange, format!("retry.{}", ours_to_use(petisco.unwrap_or_default())?)));
        }
        match text("x-first-death-queue").filter(|queue| petisco.is_none() && *queue != self.queue) {
            Some(queue) => Ok((String::new(), ours_to_use(queue)?)),
            None => Err(DeadLettersError::NoTarget),
        }
    }

    /// Publishes it without its failed attempts, and removes it from the queue after the confirm.
    pub(crate) async fn requeue(
        &self,
        letter: DeadLetter,
        (exchange, routing_key): (String, String),
    ) -> Result<(), DeadLettersError> {
        let mut properties = kept(&letter.incoming.properties).with_delivery_mode(2);
        if let Some(priority) = letter.incoming.priority() {
            properties = properties.with_priority(priority);
        }
        if let Some(headers) = letter.fresh_headers() {
            properties = properties.with_headers(headers);
        }
        let body = letter.incoming.body;
        let publish = Publish { exchange, routing_key, mandatory: true, properties, body };
        if let Some(Err(failure)) = self.connection.publish(std::slice::from_ref(&publish)).await.pop() {
            let Publish { exchange, routing_key, .. } = publish;
            let reason = Chain(failure.cause()).to_string();
            return Err(DeadLettersError::NotTaken { exchange, routing_key, reason });
        }
        letter.acker.ack(BasicAckOptions::default()).await?;
        Ok(())
    }

    /// Returns the messages that were not requeued.
    pub(crate) async fn close(self) {
        self.connection.close().await;
    }
}

impl DeadLetter {
    /// A header as a text.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.incoming.header(name).map(|value| value.to_string())
    }

    /// The reason for which it became a dead letter.
    pub(crate) fn reason(&self) -> Option<String> {
        self.header(REASON).or_else(|| self.header("x-first-death-reason"))
    }

    /// Its headers without those that count attempts, or that are not trusted; none if there are no others.
    fn fresh_headers(&self) -> Option<FieldTable> {
        let counted = self.incoming.header(REDELIVERY_COUNT).is_some();
        let stays = |name: &str| match name {
            TOPIC | EXPIRY => self.incoming.is_ours,
            REDELIVERY_COUNT => false,
            "queue" => !counted,
            _ => goes_along(name),
        };
        let headers = self.incoming.properties.headers().as_ref()?.inner();
        let mut fresh = FieldTable::default();
        for (name, value) in headers.iter().filter(|(name, _)| stays(name.as_str())) {
            fresh.insert(name.clone(), AMQPValue::clone(value));
        }
        (!fresh.inner().is_empty()).then_some(fresh)
    }
}

/// The exchange for retries of a queue of petisco, `<organization>.<service>.<version>.<event|command>.<name>.<subscriber>`.
fn petisco_retry_exchange(queue: &str) -> Option<String> {
    let parts: Vec<_> = queue.split('.').collect();
    let [organization, service, version, "event" | "command", _, _] = parts.as_slice() else { return None };
    version.parse::<u32>().is_ok().then(|| format!("retry.{organization}.{service}"))
}

fn is_not_found(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => {
            matches!(amqp.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
        }
        _ => false,
    }
}

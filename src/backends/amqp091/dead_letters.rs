//! The messages of a dead-letter queue, and how they are requeued.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, Channel, ErrorKind};

use super::any_broker;
use super::connection::Connection;
use super::forwarding::{goes_along, kept};
use super::incoming::{Dialect, Incoming, REDELIVERY_COUNT};
use super::outgoing::Publish;
use super::queue_kind::{QueueKind, queue_kind};
use super::settings::Amqp091Settings;
use crate::message::headers::{EXPIRY, QUEUE, REASON, TOPIC};
use crate::source::dead_letters::{DeadLetter, DeadLetterQueue, DeadLettersError, Target};
use crate::util::error::Chain;

/// A queue of dead letters. Its messages are taken one by one; those that are neither requeued nor removed return to their position when it
/// is closed or dropped, or when this process ends.
pub(crate) struct Amqp091DeadLetters {
    connection: Connection,
    /// The channel that the messages were taken on.
    channel: Channel,
    settings: Arc<Amqp091Settings>,
    queue: String,
    left: u32,
    quorum: Option<QueueKind>,
    current: Option<(Incoming, Acker)>,
}

impl Amqp091DeadLetters {
    pub(crate) async fn open(
        settings: Amqp091Settings,
        queue: String,
        _: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        let connected = any_broker::connect(&settings).await;
        let connected = connected.map_err(|error| DeadLettersError::Broker(error.into()))?;
        let (connection, settings) = connected.map_err(DeadLettersError::Unreachable)?;
        let missing = || DeadLettersError::NoQueue(queue.clone());
        if queue.len() > 255 {
            return Err(missing());
        }
        let channel = connection.new_channel().await.map_err(fault)?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
        let left = match declared {
            Ok(declared) => declared.message_count(),
            Err(error) if is_not_found(&error) => return Err(missing()),
            Err(error) => return Err(fault(error)),
        };
        // Without the permission to declare the queue its kind is unknown.
        let kind = queue_kind(&connection, &queue).await.ok().flatten();
        let quorum = kind.filter(|kind| kind.is_quorum);
        Ok(Box::new(Self { connection, channel, settings, queue, left, quorum, current: None }))
    }

    fn view(&self, incoming: &Incoming) -> DeadLetter {
        let prefix = self.settings.broker.topic_prefix.as_deref();
        let message = incoming.decode(Dialect::Plain, prefix, &self.queue);
        let message = message.and_then(|message| self.settings.broker.envelope.open(message));
        let headers = incoming.properties.headers().as_ref().map(FieldTable::inner);
        let names = headers.into_iter().flatten().map(|(name, _)| name.to_string());
        let headers = names.filter_map(|name| {
            let value = incoming.header(&name)?.to_string();
            Some((name, value))
        });
        let headers: BTreeMap<_, _> = headers.collect();
        let reason = headers.get(REASON).or_else(|| headers.get("x-first-death-reason")).cloned();
        DeadLetter {
            message: message.map_err(|error| Chain(error.as_ref()).to_string()),
            reason,
            attempts: incoming.failed(),
            failures: incoming.failures(),
            headers,
        }
    }

    /// Its headers without those that count attempts, or that are not trusted; none if there are no others.
    fn fresh_headers(incoming: &Incoming) -> Option<FieldTable> {
        let counted = incoming.header(REDELIVERY_COUNT).is_some();
        let stays = |name: &str| match name {
            TOPIC | EXPIRY => incoming.is_ours,
            REDELIVERY_COUNT => false,
            "queue" => !counted,
            _ => goes_along(name),
        };
        let headers = incoming.properties.headers().as_ref()?.inner();
        let mut fresh = FieldTable::default();
        for (name, value) in headers.iter().filter(|(name, _)| stays(name.as_str())) {
            fresh.insert(name.clone(), AMQPValue::clone(value));
        }
        (!fresh.inner().is_empty()).then_some(fresh)
    }

    fn take_current(&mut self) -> Result<(Incoming, Acker), DeadLettersError> {
        self.current.take().ok_or_else(|| DeadLettersError::Broker("no dead letter was taken".into()))
    }
}

#[async_trait]
impl DeadLetterQueue for Amqp091DeadLetters {
    fn left(&self) -> Option<u64> {
        Some(self.left.into())
    }

    fn caution(&self) -> Option<String> {
        let kind = self.quorum.as_ref()?;
        let limit = match &kind.delivery_limit {
            Some(limit) => format!("; after {limit} deliveries it gives the message up"),
            None => String::new(),
        };
        Some(format!(
            "{:?} is a quorum queue: each look at a message that stays counts as a delivery{limit}",
            self.queue
        ))
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, DeadLettersError> {
        self.current = None;
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let got = self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default()).await;
        let Some(got) = got.map_err(fault)? else { return Ok(None) };
        // A repaired message is shown as it is.
        let _ = self.connection.findings.take(self.channel.id(), got.delivery.delivery_tag);
        let (incoming, acker) = Incoming::new(got.delivery, &self.queue);
        let view = self.view(&incoming);
        self.current = Some((incoming, acker));
        Ok(Some(view))
    }

    /// A dead letter of ours names the queue in a header, reached by the default exchange. One of petisco returns to the retry exchange; its
    /// queue is in a header, or in the name of this one. A dead letter of RabbitMQ returns to the first queue it was in.
    fn target(&self, also: &[String]) -> Result<Target, DeadLettersError> {
        let Some((incoming, _)) = &self.current else { return Err(DeadLettersError::NoTarget) };
        let queue = |queue| Target::Exchange { exchange: String::new(), routing_key: queue };
        let text = |name| incoming.header(name).map(|value| value.to_string());
        let of_petisco = self.queue.strip_prefix("dead_letter.");
        let ours_to_use = |named: String| {
            let is_base = of_petisco.or_else(|| self.queue.strip_suffix(".dead")) == Some(named.as_str());
            match is_base || also.contains(&named) {
                true => Ok(named),
                false => Err(DeadLettersError::Foreign(named)),
            }
        };
        if let Some(named) = text(QUEUE) {
            return ours_to_use(named).map(queue);
        }
        let petisco = text("queue").filter(|_| text(REDELIVERY_COUNT).is_some());
        let petisco = petisco.or_else(|| of_petisco.map(str::to_owned));
        if let Some(exchange) = petisco.as_deref().and_then(petisco_retry_exchange) {
            let routing_key = format!("retry.{}", ours_to_use(petisco.unwrap_or_default())?);
            return Ok(Target::Exchange { exchange, routing_key });
        }
        match text("x-first-death-queue").filter(|queue| petisco.is_none() && *queue != self.queue) {
            Some(named) => ours_to_use(named).map(queue),
            None => Err(DeadLettersError::NoTarget),
        }
    }

    fn named(&self, to: &str) -> Target {
        Target::Exchange { exchange: String::new(), routing_key: to.to_owned() }
    }

    async fn requeue(&mut self, target: Target) -> Result<(), DeadLettersError> {
        let (incoming, acker) = self.take_current()?;
        let (exchange, routing_key) = match target.clone() {
            Target::Exchange { exchange, routing_key } => (exchange, routing_key),
            Target::Address { address: queue }
            | Target::Queue { queue }
            | Target::Subject { subject: queue, .. } => (String::new(), queue),
        };
        let mut properties = kept(&incoming.properties).with_delivery_mode(2);
        if let Some(priority) = incoming.priority() {
            properties = properties.with_priority(priority);
        }
        if let Some(headers) = Self::fresh_headers(&incoming) {
            properties = properties.with_headers(headers);
        }
        let publish = Publish { exchange, routing_key, mandatory: true, properties, body: incoming.body };
        if let Some(Err(failure)) = self.connection.publish(std::slice::from_ref(&publish)).await.pop() {
            let reason = Chain(failure.cause()).to_string();
            return Err(DeadLettersError::NotTaken { target, reason });
        }
        acker.ack(BasicAckOptions::default()).await.map(drop).map_err(fault)
    }

    async fn remove(&mut self) -> Result<(), DeadLettersError> {
        let (_, acker) = self.take_current()?;
        acker.ack(BasicAckOptions::default()).await.map(drop).map_err(fault)
    }

    async fn close(self: Box<Self>) {
        self.connection.close().await;
    }
}

/// The exchange for retries of a queue of petisco, `<organization>.<service>.<version>.<event|command>.<name>.<subscriber>`.
fn petisco_retry_exchange(queue: &str) -> Option<String> {
    let parts: Vec<_> = queue.split('.').collect();
    let [organization, service, version, "event" | "command", _, _] = parts.as_slice() else { return None };
    version.parse::<u32>().is_ok().then(|| format!("retry.{organization}.{service}"))
}

fn fault(error: lapin::Error) -> DeadLettersError {
    DeadLettersError::Broker(error.into())
}

fn is_not_found(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => {
            matches!(amqp.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
        }
        _ => false,
    }
}

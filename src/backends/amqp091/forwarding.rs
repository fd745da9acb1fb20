//! Forwarding of failed messages: the address and the headers of retries and dead letters.

use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use uuid::Uuid;

use super::incoming::{DEATHS, Incoming, REDELIVERY_COUNT, is_of_broker};
use super::outgoing::Publish;
use super::subscription::{Amqp091Subscription, RetryBy};
use crate::message::FailedAttempt;
use crate::message::headers::{
    ATTEMPT, EXPIRY, FAILURES, LEFT_OUT, OWN, PRIORITY, QUEUE, REASON, TOPIC, start_of, write_failures,
};

/// The longest delay, which RabbitMQ's timers can hold: 23 days.
const LONGEST: u64 = 2_000_000_000;

/// The most bytes of its reason in a dead letter.
const REASON_LEN: usize = 2_000;

/// A message to forward, and the queue that must exist for it.
pub(super) struct Forward {
    pub(super) publish: Publish,
    pub(super) queue: Option<NeededQueue>,
}

/// A queue that is created if it is missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum NeededQueue {
    /// Messages wait in it for this many milliseconds, then return to their queue.
    Delay { ms: u64, back_to: String, is_quorum: bool },
    /// A durable queue without arguments.
    Durable(String),
}

impl NeededQueue {
    /// Quorum and classic queues of one delay have names of their own: a queue cannot become one of the other kind.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Delay { ms, back_to, is_quorum: true } => format!("{back_to}.retry.quorum.{ms}"),
            Self::Delay { ms, back_to, is_quorum: false } => format!("{back_to}.retry.{ms}"),
            Self::Durable(name) => name.clone(),
        }
    }

    /// Whether the broker deletes it unless it is declared again.
    pub(super) fn expires(&self) -> bool {
        matches!(self, Self::Delay { is_quorum: false, .. })
    }
}

/// Builds the retry or dead letter of one message.
pub(super) struct Forwarder<'a> {
    pub(super) subscription: &'a Amqp091Subscription,
    pub(super) incoming: &'a Incoming,
    pub(super) topic: String,
    /// The id of the message, if it could be read.
    pub(super) id: Option<Uuid>,
    /// Whether the broker supports quorum queues, as far as known.
    pub(super) has_quorum_queues: bool,
}

impl Forwarder<'_> {
    /// The retry, for the queue in which it waits.
    pub(super) fn retry(&self, after: Duration, reason: &str) -> Forward {
        let queue = &self.subscription.queue;
        let mut headers = self.headers(reason);
        match &self.subscription.retry {
            RetryBy::Delay => {
                let (ms, is_quorum) = (rounded_up(after), self.has_quorum_queues);
                let needed = NeededQueue::Delay { ms, back_to: queue.clone(), is_quorum };
                // RabbitMQ 4 lets nothing in a quorum queue expire behind a message of a higher priority.
                if let Some(priority) = self.incoming.priority() {
                    headers.insert(PRIORITY.into(), AMQPValue::LongInt(priority.into()));
                }
                let publish = self.publish(String::new(), needed.name(), headers, None);
                Forward { publish, queue: Some(needed) }
            }
            RetryBy::Petisco { organization, service } => {
                let service = service_of(queue, service);
                let publish = self.publish(
                    format!("retry.{organization}.{service}"),
                    format!("retry.{queue}"),
                    headers,
                    self.incoming.priority(),
                );
                Forward { publish, queue: None }
            }
        }
    }

    /// The dead letter.
    pub(super) fn dead_letter(&self, reason: &str) -> Forward {
        let subscription = self.subscription;
        let queue = &subscription.queue;
        let mut headers = self.headers(reason);
        let (exchange, routing_key) = match &subscription.retry {
            RetryBy::Delay => {
                headers.insert(REASON.into(), text(start_of(reason, REASON_LEN)));
                (String::new(), format!("{queue}.dead"))
            }
            RetryBy::Petisco { organization, service } => {
                let service = service_of(queue, service);
                (format!("dead_letter.{organization}.{service}"), format!("dead_letter.{queue}"))
            }
        };
        let exchange = subscription.dead_letter_exchange.clone().unwrap_or(exchange);
        let routing_key = subscription.dead_letter_routing_key.clone().unwrap_or(routing_key);
        let queue = exchange.is_empty().then(|| NeededQueue::Durable(routing_key.clone()));
        let publish = self.publish(exchange, routing_key, headers, self.incoming.priority());
        Forward { publish, queue }
    }

    /// The headers of the message, and those that one more failure adds.
    fn headers(&self, reason: &str) -> FieldTable {
        let incoming = self.incoming;
        let mut headers = FieldTable::default();
        let had = incoming.properties.headers().iter().flat_map(|headers| headers.inner());
        for (name, value) in had.filter(|(name, _)| goes_along(name.as_str())) {
            headers.insert(name.clone(), value.clone());
        }
        let failed = incoming.failed().saturating_add(1);
        let count = AMQPValue::LongInt(i32::try_from(failed).unwrap_or(i32::MAX));
        match &self.subscription.retry {
            RetryBy::Delay => {
                let mut failures = incoming.failures();
                failures.push(FailedAttempt::new(SystemTime::now(), reason.into()));
                headers.insert(TOPIC.into(), text(&self.topic));
                headers.insert(QUEUE.into(), text(&self.subscription.queue));
                headers.insert(ATTEMPT.into(), count);
                headers.insert(FAILURES.into(), text(&write_failures(&failures)));
                if let Some(expiry) = incoming.expiry() {
                    headers.insert(EXPIRY.into(), text(&expiry.to_string()));
                }
                if let Some(names) = incoming.own_header(LEFT_OUT) {
                    headers.insert(LEFT_OUT.into(), text(&names.to_string()));
                }
            }
            RetryBy::Petisco { .. } => {
                if let Some(deaths) = deaths_but_in(&self.subscription.queue, &incoming.properties) {
                    headers.insert(DEATHS.into(), deaths);
                }
                headers.insert(REDELIVERY_COUNT.into(), count);
                if !headers.contains_key("queue") {
                    headers.insert("queue".into(), text(&self.subscription.queue));
                }
            }
        }
        headers
    }

    fn publish(
        &self,
        exchange: String,
        routing_key: String,
        headers: FieldTable,
        priority: Option<u8>,
    ) -> Publish {
        let had = &self.incoming.properties;
        let mut properties = kept(had).with_headers(headers).with_delivery_mode(2);
        if let Some(priority) = priority {
            properties = properties.with_priority(priority);
        }
        if let (None, Some(id), RetryBy::Delay) = (had.message_id(), self.id, &self.subscription.retry) {
            properties = properties.with_message_id(id.to_string().into());
        }
        Publish { exchange, routing_key, mandatory: true, properties, body: self.incoming.body.clone() }
    }
}

/// The properties that a forwarded message keeps: neither the expiration, which would return a retry early or
/// delete a dead letter, nor the user id, which must be that of this client; and neither priority nor headers.
pub(super) fn kept(had: &BasicProperties) -> BasicProperties {
    let mut properties = BasicProperties::default();
    macro_rules! keep {
        ($($had:ident $with:ident),*) => {$(
            if let Some(value) = had.$had() {
                properties = properties.$with(value.clone());
            }
        )*};
    }
    keep!(
        content_type with_content_type, content_encoding with_content_encoding,
        correlation_id with_correlation_id, reply_to with_reply_to, message_id with_message_id,
        timestamp with_timestamp, kind with_type, app_id with_app_id
    );
    properties
}

/// The queue of all messages has exchanges of its own.
fn service_of<'a>(queue: &str, service: &'a str) -> &'a str {
    if queue == "store" { "store" } else { service }
}

/// Whether a forwarded message keeps a header: not one of ours, nor one of the broker.
///
/// `CC` would send copies to other queues. An `x-death` that is no list of tables crashes a queue that the message expires
/// in; and one that names the queue it returns to is a cycle for RabbitMQ, which drops the message silently.
pub(super) fn goes_along(name: &str) -> bool {
    !OWN.contains(&name) && !is_of_broker(name)
}

/// Where petisco sees a message expire, other than in its own queue: only what RabbitMQ can have written.
fn deaths_but_in(queue: &str, properties: &BasicProperties) -> Option<AMQPValue> {
    let Some(AMQPValue::FieldArray(deaths)) = properties.headers().as_ref()?.inner().get(DEATHS) else {
        return None;
    };
    let is_text = |value: &AMQPValue| matches!(value, AMQPValue::LongString(_));
    let is_death = |death: &&AMQPValue| {
        let AMQPValue::FieldTable(death) = death else { return false };
        let fields = death.inner();
        let mut names = ["queue", "reason", "exchange", "count", "routing-keys"].iter();
        names.all(|name| fields.contains_key(*name))
            && fields.iter().all(|(name, value)| match (name.as_str(), value) {
                ("queue", AMQPValue::LongString(name)) => name.as_bytes() != queue.as_bytes(),
                ("reason" | "exchange" | "original-expiration", AMQPValue::LongString(_))
                | ("count", AMQPValue::LongLongInt(1..))
                | ("time", AMQPValue::Timestamp(_)) => true,
                ("routing-keys", AMQPValue::FieldArray(keys)) => keys.as_slice().iter().all(is_text),
                _ => false,
            })
    };
    let deaths: Vec<_> = deaths.as_slice().iter().filter(is_death).cloned().collect();
    (!deaths.is_empty()).then(|| AMQPValue::FieldArray(FieldArray::from(deaths)))
}

/// Milliseconds, rounded up to the next of 1, 2, 5, 10, 20, 50 and so on: few queues, and each has one delay.
fn rounded_up(delay: Duration) -> u64 {
    let ms = u64::try_from(delay.as_micros().div_ceil(1_000)).unwrap_or(LONGEST);
    let steps = (0..10).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    steps.take_while(|step| *step <= LONGEST).find(|step| *step >= ms).unwrap_or(LONGEST)
}

pub(super) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.as_bytes().to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_rounded_up_to_few() {
        let rounded = |ms| rounded_up(Duration::from_millis(ms));
        assert_eq!(
            [0, 1, 2, 3, 5, 6, 10, 11, 999, 1_001, 60_000].map(rounded),
            [1, 1, 2, 5, 5, 10, 10, 20, 1_000, 2_000, 100_000]
        );
        assert_eq!(rounded_up(Duration::from_micros(1_001)), 2);
        assert_eq!([LONGEST, LONGEST + 1, u64::MAX].map(rounded), [LONGEST; 3]);
        assert_eq!(rounded_up(Duration::MAX), LONGEST);
    }
}

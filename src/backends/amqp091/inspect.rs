//! The exchange and the queues of an app as they are at the broker: findings of `tower-outbox check`.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use super::any_broker;
use super::connection::Connection;
use super::queue_kind::{QueueKind, queue_kind};
use super::settings::Amqp091Settings;
use super::subscription::{Amqp091Subscription, RetryBy};
use crate::util::error::Chain;

/// The condition of an exchange or a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Good,
    Doubtful,
    Bad,
}

/// A fact about the exchange, or about the queue of a consumer.
#[derive(Debug)]
pub(crate) struct Inspected {
    /// The name of the consumer; none for the exchange that messages go to.
    pub(crate) consumer: Option<String>,
    pub(crate) condition: Condition,
    pub(crate) text: String,
}

/// Looks at the first broker that responds, and creates nothing. The error is why none responds.
pub(crate) async fn inspect(
    settings: &Amqp091Settings,
    consumers: &[(String, Amqp091Subscription)],
) -> Result<Vec<Inspected>, String> {
    let connected = any_broker::connect(settings).await.map_err(|error| error.to_string())?;
    let (connection, settings) = connected?;
    let mut found = Vec::new();
    let exchange = settings.exchange.as_deref().unwrap_or("amq.topic");
    let (condition, text) = match exists(&connection, exchange).await {
        Ok(()) => (Condition::Good, format!("the exchange {exchange:?} exists")),
        Err(why) => (
            Condition::Bad,
            format!("the exchange {exchange:?} cannot be used: create it, or correct EXCHANGE ({why})"),
        ),
    };
    found.push(Inspected { consumer: None, condition, text });
    for (name, subscription) in consumers {
        let Ok(subscription) = subscription.filled(&settings) else { continue };
        let mut add =
            |condition, text| found.push(Inspected { consumer: Some(name.clone()), condition, text });
        queue(&connection, &subscription, &mut add).await;
        bindings(&connection, &subscription, &mut add).await;
        dead_letters(&connection, &subscription, &mut add).await;
    }
    connection.close().await;
    Ok(found)
}

async fn queue(
    connection: &Connection,
    subscription: &Amqp091Subscription,
    add: &mut impl FnMut(Condition, String),
) {
    let queue = &subscription.queue;
    let messages = match waiting(connection, queue).await {
        Ok(Some(messages)) => messages,
        Ok(None) => {
            let text = format!(
                "the queue {queue:?} does not exist yet: the consumer creates it, and messages sent before that do not get there"
            );
            return add(Condition::Doubtful, text);
        }
        Err(why) => return add(Condition::Bad, format!("the queue {queue:?} cannot be used: {why}")),
    };
    add(Condition::Good, format!("the queue {queue:?} exists; messages: {messages}"));
    let Ok(Some(kind)) = queue_kind(connection, queue).await else { return };
    let QueueKind { delivery_limit, dead_letters, is_durable, ttl, .. } = kind;
    if !is_durable {
        let text = format!(
            "the queue {queue:?} is not durable: a restart of the broker deletes it with its messages"
        );
        add(Condition::Doubtful, text);
    }
    if let Some(ttl) = ttl {
        let text = format!("the queue {queue:?} has a TTL: messages that wait for more than {ttl} ms expire");
        add(Condition::Doubtful, text);
    }
    if let (Some(limit), None) = (delivery_limit, dead_letters) {
        let text = format!(
            "the queue {queue:?} has the delivery limit {limit} and no dead-letter exchange: unless a policy sets one, \
             messages that fail more often are lost"
        );
        add(Condition::Doubtful, text);
    }
}

async fn bindings(
    connection: &Connection,
    subscription: &Amqp091Subscription,
    add: &mut impl FnMut(Condition, String),
) {
    let exchange = subscription.exchange.as_deref().unwrap_or_default();
    if !subscription.bindings.is_empty()
        && let Err(why) = exists(connection, exchange).await
    {
        add(Condition::Bad, format!("the exchange {exchange:?} of its bindings cannot be used ({why})"));
    }
}

async fn dead_letters(
    connection: &Connection,
    subscription: &Amqp091Subscription,
    add: &mut impl FnMut(Condition, String),
) {
    if matches!(subscription.retry, RetryBy::Petisco { .. }) {
        return;
    }
    let exchange = subscription.dead_letter_exchange.as_deref().unwrap_or_default();
    if !exchange.is_empty() {
        if let Err(why) = exists(connection, exchange).await {
            add(
                Condition::Bad,
                format!("the exchange {exchange:?} of its dead letters cannot be used ({why})"),
            );
        }
        return;
    }
    let queue = subscription.dead_letter_queue();
    match waiting(connection, &queue).await {
        Ok(Some(messages)) => {
            add(Condition::Good, format!("the queue {queue:?} of dead letters; messages: {messages}"))
        }
        Ok(None) => add(Condition::Good, format!("the first dead letter creates the queue {queue:?}")),
        Err(why) => add(Condition::Bad, format!("the queue {queue:?} of dead letters cannot be used: {why}")),
    }
}

/// How many messages wait in a queue; `None` if there is none of this name.
async fn waiting(connection: &Connection, queue: &str) -> Result<Option<u32>, String> {
    let text = |error: lapin::Error| Chain(&error).to_string();
    let channel = connection.new_channel().await.map_err(text)?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
    match declared {
        Ok(declared) => {
            let _ = channel.close(200, "done".into()).await;
            Ok(Some(declared.message_count()))
        }
        Err(error) => {
            let why = text(error);
            if why.contains("NOT_FOUND") || why.contains("NOT-FOUND") { Ok(None) } else { Err(why) }
        }
    }
}

async fn exists(connection: &Connection, exchange: &str) -> Result<(), String> {
    if exchange.is_empty() {
        return Ok(());
    }
    let text = |error: lapin::Error| Chain(&error).to_string();
    let channel = connection.new_channel().await.map_err(text)?;
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let declared =
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, passive, FieldTable::default()).await;
    declared.map_err(text)?;
    let _ = channel.close(200, "done".into()).await;
    Ok(())
}

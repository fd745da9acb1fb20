//! Declares the queues of a source: its own, and those that its forwarded messages need.

use lapin::ErrorKind;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};

use super::connection::Connection;
use super::forwarding::{NeededQueue, text};
use super::subscription::{Amqp091Subscription, QueueArgument};
use crate::util::error::BoxError;

/// The broker deletes a classic delay queue that was not declared for its delay and this many milliseconds.
const UNUSED: u64 = 3_600_000;

/// Declares a queue that forwarded messages need.
pub(super) async fn declare(connection: &Connection, queue: &NeededQueue) -> Result<(), BoxError> {
    match queue {
        NeededQueue::Durable(name) => ensure_durable(connection, name, FieldTable::default()).await,
        NeededQueue::Delay { ms, back_to, is_quorum } => {
            let number = |ms: u64| AMQPValue::LongLongInt(ms as i64);
            let mut arguments = FieldTable::default();
            arguments.insert("x-message-ttl".into(), number(*ms));
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(back_to));
            if *is_quorum {
                arguments.insert("x-queue-type".into(), text("quorum"));
                arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
                // RabbitMQ requires it for that strategy.
                arguments.insert("x-overflow".into(), text("reject-publish"));
            } else {
                arguments.insert("x-expires".into(), number(ms + UNUSED));
            }
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let channel = connection.new_channel().await?;
            let name = queue.name();
            channel.queue_declare(name.as_str().into(), options, arguments).await.map_err(|error| {
                if *is_quorum && is_quorum_unsupported(&error) {
                    return BoxError::from(QuorumQueuesUnsupported(error));
                }
                let cure = "cannot be created; allow it, or delete the existing one";
                format!("the retry queue {name:?} {cure}: {error}").into()
            })?;
            let _ = channel.close(200, "done".into()).await;
            Ok(())
        }
    }
}

/// The arguments with which a source creates its queue.
pub(super) fn arguments(subscription: &Amqp091Subscription) -> FieldTable {
    let mut arguments = FieldTable::default();
    // The broker deletes the queue when it has no consumers for so long.
    if let Some(expires) = subscription.expires {
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(expires.as_millis() as i64));
    }
    if let Some(queue_type) = subscription.queue_type {
        arguments.insert("x-queue-type".into(), text(queue_type.as_str()));
    }
    for (name, value) in &subscription.queue_arguments {
        let value = match value {
            QueueArgument::Bool(value) => AMQPValue::Boolean(*value),
            QueueArgument::Int(value) => AMQPValue::LongLongInt(*value),
            QueueArgument::String(value) => text(value),
        };
        arguments.insert(name.as_str().into(), value);
    }
    arguments
}

/// Creates a durable queue unless one of this name exists.
pub(super) async fn ensure_durable(
    connection: &Connection,
    name: &str,
    arguments: FieldTable,
) -> Result<(), BoxError> {
    let channel = connection.new_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name.into(), passive, FieldTable::default()).await {
        Ok(_) => {
            let _ = channel.close(200, "done".into()).await;
            return Ok(());
        }
        Err(error) if soft(&error) == Some(AMQPSoftError::NOTFOUND) => {}
        Err(error) => return Err(error.into()),
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let channel = connection.new_channel().await?;
    channel.queue_declare(name.into(), durable, arguments).await?;
    let _ = channel.close(200, "done".into()).await;
    tracing::info!(queue = name, "created the queue");
    Ok(())
}

/// The broker has no quorum queues, or none with a TTL, like RabbitMQ before 3.10.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct QuorumQueuesUnsupported(lapin::Error);

/// Whether the broker does not support the quorum queue; not whether a permission is missing, or another queue has its name.
fn is_quorum_unsupported(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(amqp) = error.kind() else { return false };
    match amqp.kind() {
        // "the corresponding feature flag is disabled"
        AMQPErrorKind::Hard(hard) => {
            matches!(hard, AMQPHardError::INTERNALERROR | AMQPHardError::NOTIMPLEMENTED)
        }
        AMQPErrorKind::Soft(soft) => {
            *soft == AMQPSoftError::PRECONDITIONFAILED && error.to_string().contains("invalid arg")
        }
    }
}

/// The reply code with which the broker closed a channel.
fn soft(error: &lapin::Error) -> Option<AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// Whether an error is permanent: a rejection by the broker, or an error of ours with a cure. Any other may pass.
pub(super) fn is_permanent(error: &BoxError) -> bool {
    let Some(error) = error.downcast_ref::<lapin::Error>() else { return true };
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            matches!(error.kind(), AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED))
        }
        _ => false,
    }
}

//! Finding out of which kind a queue is, and how it was declared.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use super::connection::Connection;
use super::outgoing::text;
use crate::error::BoxError;

/// More arguments than a queue has.
const ARGUMENTS: usize = 20;

/// What can be seen of a queue; policies cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Whether it counts the deliveries that were not acknowledged.
    pub(super) is_quorum: bool,
    /// After how many of them it gives a message up.
    pub(super) delivery_limit: Option<String>,
    pub(super) has_dead_letter_exchange: bool,
}

/// Asks RabbitMQ for a queue that exists as if it were a quorum queue: the broker either agrees, or says which argument
/// is another, and how it is.
pub(super) async fn kind(connection: &Connection, queue: &str) -> Result<Option<Kind>, BoxError> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    for _ in 0..ARGUMENTS {
        let channel = connection.new_channel().await?;
        let is_quorum = match channel.queue_declare(queue.into(), options, arguments.clone()).await {
            Ok(_) => {
                let _ = channel.close(200, "done".into()).await;
                true
            }
            Err(error) => match differing(&error.to_string()) {
                Some((name, _)) if name == "x-queue-type" => false,
                Some((name, Some(value))) => {
                    arguments.insert(name.into(), value);
                    continue;
                }
                _ => return Ok(None),
            },
        };
        let given = arguments.inner();
        let delivery_limit = given.get("x-delivery-limit").map(|limit| match limit {
            AMQPValue::LongLongInt(limit) => limit.to_string(),
            _ => "some".to_owned(),
        });
        let has_dead_letter_exchange = given.contains_key("x-dead-letter-exchange");
        return Ok(Some(Kind { is_quorum, delivery_limit, has_dead_letter_exchange }));
    }
    Ok(None)
}

/// The argument that differs, and its value, as RabbitMQ says it.
fn differing(text_of_error: &str) -> Option<(String, Option<AMQPValue>)> {
    let (name, rest) = text_of_error.split_once("inequivalent arg '")?.1.split_once('\'')?;
    let value = rest.rsplit_once("current is the value '").and_then(|(_, value)| {
        let (value, kind) = value.rsplit_once("' of type '")?;
        match kind.split_once('\'')?.0 {
            "longstr" => Some(text(value)),
            "bool" => Some(AMQPValue::Boolean(value == "true")),
            _ => value.parse().ok().map(AMQPValue::LongLongInt),
        }
    });
    Some((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_that_differs_is_read() {
        let said = |current: &str| {
            differing(&format!(
                "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'a' in vhost '/': received none but {current}"
            ))
        };
        let name = || "x-delivery-limit".to_owned();
        assert_eq!(
            said("current is the value '3' of type 'signedint'"),
            Some((name(), Some(AMQPValue::LongLongInt(3))))
        );
        assert_eq!(said("current is the value 'it's' of type 'longstr'"), Some((name(), Some(text("it's")))));
        assert_eq!(said("current is none"), Some((name(), None)));
        assert_eq!(differing("NOT_FOUND - no queue 'a' in vhost '/'"), None);
    }
}

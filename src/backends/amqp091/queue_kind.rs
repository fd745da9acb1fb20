//! The kind of an existing queue, and the arguments it was declared with.

use std::collections::BTreeMap;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, ShortString};

use super::connection::Connection;
use super::forwarding::text;
use crate::util::error::BoxError;

/// More arguments than a queue has.
const ARGUMENTS: usize = 20;

/// The visible properties of a queue; policies are invisible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueKind {
    /// Whether it counts the deliveries that were not acknowledged.
    pub(super) is_quorum: bool,
    /// After how many of them it gives a message up.
    pub(super) delivery_limit: Option<String>,
    /// Whether it survives a restart of the broker.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the command line shows it"))]
    pub(super) is_durable: bool,
    /// How many milliseconds messages may wait in it.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the command line shows it"))]
    pub(super) ttl: Option<String>,
    /// The exchange that gets what is rejected, and the routing key if it is another than before.
    pub(super) dead_letters: Option<(String, Option<String>)>,
}

/// Declares an existing queue as a quorum queue: RabbitMQ either agrees, or names an argument that differs, and its
/// value.
pub(super) async fn queue_kind(connection: &Connection, queue: &str) -> Result<Option<QueueKind>, BoxError> {
    let mut options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = BTreeMap::from([(ShortString::from("x-queue-type"), text("quorum"))]);
    let mut is_quorum = true;
    for _ in 0..ARGUMENTS {
        let channel = connection.new_channel().await?;
        let declared = channel.queue_declare(queue.into(), options, arguments.clone().into()).await;
        if let Err(error) = declared {
            let Some((name, value)) = differing(&error.to_string()) else { return Ok(None) };
            match name.as_str() {
                "durable" if options.durable => {
                    options.durable = false;
                    continue;
                }
                "auto_delete" if !options.auto_delete => {
                    options.auto_delete = true;
                    continue;
                }
                _ => {}
            }
            is_quorum &= name != "x-queue-type";
            match value {
                Some(value) => drop(arguments.insert(name.into(), value)),
                None if arguments.remove(name.as_str()).is_some() => {}
                None => return Ok(None),
            }
            continue;
        }
        let _ = channel.close(200, "done".into()).await;
        let string = |name| match arguments.get(name) {
            Some(AMQPValue::LongString(text)) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            _ => None,
        };
        let number = |name| {
            arguments.get(name).map(|number| match number {
                AMQPValue::LongLongInt(number) => number.to_string(),
                _ => "some".to_owned(),
            })
        };
        let (delivery_limit, ttl) = (number("x-delivery-limit"), number("x-message-ttl"));
        let exchange = string("x-dead-letter-exchange");
        let dead_letters = exchange.map(|exchange| (exchange, string("x-dead-letter-routing-key")));
        let is_durable = options.durable;
        return Ok(Some(QueueKind { is_quorum, delivery_limit, is_durable, ttl, dead_letters }));
    }
    Ok(None)
}

/// The argument that differs, and its value, in the text of RabbitMQ.
fn differing(text_of_error: &str) -> Option<(String, Option<AMQPValue>)> {
    let (name, rest) = text_of_error.split_once("inequivalent arg '")?.1.split_once('\'')?;
    let value = match rest.rsplit_once("current is the value '") {
        Some((_, value)) => {
            value.rsplit_once("' of type '").and_then(|(value, kind)| match kind.split_once('\'')?.0 {
                "longstr" => Some(text(value)),
                "bool" => Some(AMQPValue::Boolean(value == "true")),
                _ => value.parse().ok().map(AMQPValue::LongLongInt),
            })
        }
        None => {
            let value = rest.rsplit_once("current is '").and_then(|(_, value)| value.split_once('\''));
            value.filter(|_| name == "x-queue-type").map(|(kind, _)| text(kind))
        }
    };
    Some((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_that_differs_is_read() {
        let parsed = |current: &str| {
            differing(&format!(
                "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'a' in vhost '/': received none but {current}"
            ))
        };
        let name = || "x-delivery-limit".to_owned();
        assert_eq!(
            parsed("current is the value '3' of type 'signedint'"),
            Some((name(), Some(AMQPValue::LongLongInt(3))))
        );
        assert_eq!(
            parsed("current is the value 'it's' of type 'longstr'"),
            Some((name(), Some(text("it's"))))
        );
        assert_eq!(parsed("current is none"), Some((name(), None)));
        let kind = "inequivalent arg 'x-queue-type' for queue 'a' in vhost '/': received 'quorum' but current is 'classic'";
        assert_eq!(differing(kind), Some(("x-queue-type".to_owned(), Some(text("classic")))));
        let durable =
            "inequivalent arg 'durable' for queue 'a' in vhost '/': received 'true' but current is 'false'";
        assert_eq!(differing(durable), Some(("durable".to_owned(), None)));
        assert_eq!(differing("NOT_FOUND - no queue 'a' in vhost '/'"), None);
    }
}

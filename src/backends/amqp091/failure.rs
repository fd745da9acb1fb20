//! The failure of a published message: whether it is worth another try, and which message is at fault.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Confirmation, ErrorKind};

use super::limits::CannotCarry;
use super::outgoing::Publish;
use crate::backends::brokers::ConnectionEnded;
use crate::messenger::Failure;

/// The outcome of each message of a batch, in its order.
pub(super) type Results = Vec<Result<(), Failure>>;

pub(super) fn outcome(confirmation: lapin::Result<Confirmation>, publish: &Publish) -> Result<(), Failure> {
    match confirmation {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
            let (code, text) = (returned.reply_code, returned.reply_text);
            let id = returned.delivery.properties.message_id().as_ref().map(ToString::to_string);
            Err(Failure::rejected(Returned {
                id,
                why: format!("{code} {text}"),
                routing_key: publish.routing_key.clone(),
            }))
        }
        Ok(Confirmation::Nack(None)) => Err(Failure::transient(
            "the broker did not accept it (basic.nack): a queue is full, or the broker has an internal error",
        )),
        Ok(Confirmation::NotRequested) => Err(Failure::transient("the broker does not confirm")),
        Err(error) => Err(failure(&error, publish)),
    }
}

/// A closed channel or connection fails every message on it. Only a fault of the exchange, or one
/// that names the routing key, is certainly about this message.
pub(super) fn failure(error: &lapin::Error, publish: &Publish) -> Failure {
    let ErrorKind::ProtocolError(amqp) = error.kind() else {
        return match error.kind() {
            ErrorKind::InvalidChannelState(..) => Failure::transient(ChannelLost(error.to_string())),
            _ => Failure::transient(error.clone()),
        };
    };
    use AMQPSoftError::{ACCESSREFUSED, NOTFOUND};
    let text = amqp.get_message().as_str();
    match amqp.kind() {
        AMQPErrorKind::Soft(ACCESSREFUSED | NOTFOUND) => match topic_in(text) {
            // RabbitMQ's topic authorisation names the one routing key it refuses.
            Some(topic) if topic == publish.routing_key => Failure::rejected(format!(
                "the broker rejects it ({text}): check the write permissions of this client"
            )),
            Some(_) => Failure::transient(ChannelLost(text.to_owned())),
            None if names_exchange(text, &publish.exchange) => {
                Failure::rejected(ExchangeRejected(text.to_owned()))
            }
            None => Failure::transient(ChannelClosed(text.to_owned())),
        },
        AMQPErrorKind::Soft(_) => Failure::transient(ChannelClosed(text.to_owned())),
        AMQPErrorKind::Hard(hard) if blames_us(hard) => Failure::transient(ConnectionEnded(text.to_owned())),
        AMQPErrorKind::Hard(_) => Failure::transient(error.clone()),
    }
}

/// The routing key in "access to topic 'a.b' in exchange ..."; no topic has a blank in it.
fn topic_in(text: &str) -> Option<&str> {
    Some(text.split_once("to topic '")?.1.split_once("' in exchange '")?.0)
}

fn names_exchange(text: &str, exchange: &str) -> bool {
    let exchange = if exchange.is_empty() { "amq.default" } else { exchange };
    text.contains(&format!("exchange '{exchange}'"))
}

/// Whether a broker closes a connection so over something that we sent, and not over its own state, its operator, the
/// virtual host or the user (AMQP 0-9-1, 1.2).
fn blames_us(hard: &AMQPHardError) -> bool {
    use AMQPHardError::{CONNECTIONFORCED, INVALIDPATH, NOTALLOWED, RESOURCEERROR};
    !matches!(hard, CONNECTIONFORCED | INVALIDPATH | NOTALLOWED | RESOURCEERROR)
}

/// Whether the broker closed the connection over something that was sent on it.
pub(super) fn ends_connection(failure: &Failure) -> bool {
    failure.cause().is::<ConnectionEnded>()
}

pub(super) fn is_of_closed_channel(result: &Result<(), Failure>) -> bool {
    result.as_ref().is_err_and(|failure| failure.cause().is::<ChannelClosed>())
}

/// Whether the broker closes every channel because of this one message, or announced that limit before.
pub(super) fn is_at_fault(failure: &Failure) -> bool {
    failure.cause().is::<AtFault>() || failure.cause().is::<CannotCarry>()
}

/// Assigns each returned message to the message of the batch with its id.
pub(super) fn give_returns_to_their_owners(batch: &[Publish], results: &mut Results) {
    let mut returned = Vec::new();
    for (index, result) in results.iter_mut().enumerate() {
        if let Err(failure) = result
            && let Some(Returned { id, why, .. }) = failure.cause().downcast_ref::<Returned>()
        {
            returned.push((index, id.clone(), why.clone()));
            *result = Ok(());
        }
    }
    for (handed_to, id, why) in returned {
        let is_owner = |index: &usize| {
            let own = batch[*index].properties.message_id().as_ref().map(ToString::to_string);
            id.is_some() && own == id && results[*index].is_ok()
        };
        let index = (0..batch.len()).find(is_owner).unwrap_or(handed_to);
        let routing_key = batch[index].routing_key.clone();
        results[index] = Err(Failure::rejected(Returned { id, why, routing_key }));
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the broker returned it ({why}): no queue is bound for {routing_key:?}")]
struct Returned {
    id: Option<String>,
    why: String,
    routing_key: String,
}

/// The channel was lost before the message was sent, or because of another message.
#[derive(Debug, thiserror::Error)]
#[error("the channel was lost: {0}")]
pub(super) struct ChannelLost(String);

/// The broker closed the channel because of one of the messages on it.
#[derive(Debug, thiserror::Error)]
#[error("the broker closed the channel ({0})")]
pub(super) struct ChannelClosed(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the broker closes the channel over this message ({0})")]
pub(super) struct AtFault(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the broker rejects it ({0}): check EXCHANGE and the write permissions of this client")]
pub(super) struct ExchangeRejected(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_topic_is_read_whole() {
        let text = |key: &str| {
            format!(
                "ACCESS_REFUSED - access to topic '{key}' in exchange 'amq.topic' in vhost '/' refused for user 'x'"
            )
        };
        assert_eq!(topic_in(&text("a.b")), Some("a.b"));
        assert_eq!(topic_in(&text("b'a'c")), Some("b'a'c"));
        assert_eq!(topic_in("NOT_FOUND - no exchange 'a' in vhost '/'"), None);
    }

    #[test]
    fn an_exchange_is_known_by_its_whole_name() {
        let text = "NOT_FOUND - no exchange 'orders' in vhost '/'";
        assert!(names_exchange(text, "orders"));
        assert!(!names_exchange(text, "order") && !names_exchange(text, ""));
    }
}

//! The contract of queues of dead letters, as `tower-outbox dead-letters` uses them.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::Serialize;

use crate::message::{FailedAttempt, Message};
use crate::util::error::BoxError;

/// The dead letters in a queue of a broker.
///
/// Messages are taken one by one, and none is settled by that: those that are neither requeued nor removed stay, at their position, also
/// when this process is killed.
#[async_trait]
pub(crate) trait DeadLetterQueue: Send {
    /// Returns the number of messages that are left of those at the start; `None` if the broker does not report it.
    fn left(&self) -> Option<u64>;

    /// Returns what the broker counts when a message is looked at, for people to know.
    fn caution(&self) -> Option<String>;

    /// Takes the next of the messages at the start, which is the current one then.
    async fn next(&mut self) -> Result<Option<DeadLetter>, DeadLettersError>;

    /// Returns where the current message came from. Anyone may have written that into its headers: it counts only if it belongs to
    /// this queue, or is one of `also`.
    fn target(&self, also: &[String]) -> Result<Target, DeadLettersError>;

    /// Returns the target with this name.
    fn named(&self, to: &str) -> Target;

    /// Sends the current message there without its failed attempts, and removes it after the confirm.
    async fn requeue(&mut self, target: Target) -> Result<(), DeadLettersError>;

    /// Removes the current message.
    async fn remove(&mut self) -> Result<(), DeadLettersError>;

    /// Returns the other messages.
    async fn close(self: Box<Self>);
}

/// A dead letter, as far as it can be read.
#[derive(Debug)]
#[cfg_attr(
    not(any(
        feature = "amqp091",
        feature = "amqp10",
        feature = "channels",
        feature = "kubemq-client",
        feature = "nats"
    )),
    allow(dead_code, reason = "backends make them")
)]
pub(crate) struct DeadLetter {
    /// The message, or why it cannot be read.
    pub(crate) message: Result<Message, String>,
    /// The reason for which it became a dead letter.
    pub(crate) reason: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) failures: Vec<FailedAttempt>,
    /// All headers, as texts.
    pub(crate) headers: BTreeMap<String, String>,
}

/// Where a dead letter is sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[cfg_attr(
    not(all(feature = "amqp091", feature = "amqp10", feature = "channels", feature = "nats")),
    allow(dead_code, reason = "each protocol makes its own")
)]
pub(crate) enum Target {
    /// In AMQP 0-9-1.
    Exchange { exchange: String, routing_key: String },
    /// In AMQP 1.0.
    Address { address: String },
    /// In channels and KubeMQ.
    Queue { queue: String },
    /// In NATS, where only this stream may take it.
    Subject {
        subject: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream: Option<String>,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { exchange, routing_key } if exchange.is_empty() => {
                write!(f, "the queue {routing_key:?}")
            }
            Self::Exchange { exchange, routing_key } => {
                write!(f, "the exchange {exchange:?} with the routing key {routing_key:?}")
            }
            Self::Address { address } => write!(f, "the address {address:?}"),
            Self::Queue { queue } => write!(f, "the queue {queue:?}"),
            Self::Subject { subject, stream: Some(stream) } => {
                write!(f, "the subject {subject:?} of the stream {stream:?}")
            }
            Self::Subject { subject, stream: None } => write!(f, "the subject {subject:?}"),
        }
    }
}

/// Why dead letters cannot be taken or requeued.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(
    not(all(feature = "amqp091", feature = "channels")),
    allow(dead_code, reason = "each backend makes its own")
)]
pub(crate) enum DeadLettersError {
    #[error("no broker can be reached: {0}")]
    Unreachable(String),
    #[error("the folder of the channels cannot be opened: {0}")]
    Closed(String),
    #[error("there is no queue {0:?}")]
    NoQueue(String),
    #[error("the original queue of a message is unknown: give --to")]
    NoTarget,
    #[error(
        "a message names the original queue {0:?}, which does not belong to this dead-letter queue: if it is yours, give \
         --back-to {0:?}"
    )]
    Foreign(String),
    #[error("{target} did not accept a message: {reason}")]
    NotTaken { target: Target, reason: String },
    #[error("the broker reported an error")]
    Broker(#[source] BoxError),
}

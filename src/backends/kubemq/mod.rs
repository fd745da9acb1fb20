//! KubeMQ as the broker: a messenger and a source for queues, events and the event store, over gRPC.
//!
//! # Sending
//! [`Kubemq`] sends to queues through one stream (QueuesUpstream) of a kept connection. Batches are pipelined; replies are
//! matched by the ids of their requests, and results by the ids of their messages. A server handles the requests of a stream
//! side by side, so a large batch goes out in requests one after the other. Events go through a stream for each batch.
//!
//! | outcome | result |
//! |---|---|
//! | a result without an error | confirmed |
//! | `Error 1NN: ..`, a fault of the message | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | another error, none within `SEND_TIMEOUT`, a lost connection | [`Transient`](crate::messenger::Failure::Transient), after the other brokers were tried |
//! | the broker ends the stream over a message (too large, no permission) | the messages in flight are sent one by one; the one at fault is [`Rejected`](crate::messenger::Failure::Rejected) |
//!
//! # Receiving
//! [`KubemqSource`] receives from a queue by transactions (QueuesDownstream) of one message each. KubeMQ replies to no successful
//! settlement, so each is followed by a request that it always answers, and is confirmed by that answer.
//!
//! | settlement | sent to the broker |
//! |---|---|
//! | `ack` | `AckAll` |
//! | dropped | `CloseByClient`: the message goes back to its place, and the attempt does not count |
//! | `retry` | `NAckAll`, after the delay: the message goes to the end of the queue, and KubeMQ counts the attempt. Until then it stays in its transaction. More than 1,000 delayed messages use places of `PREFETCH` |
//! | `reject` | the message goes to `DEAD_LETTER_QUEUE` with the [headers](crate::message::headers) `REASON`, `ATTEMPT`, `FAILURES`, `QUEUE` and `TOPIC` as tags, and `AckAll` follows its confirm. If the broker rejects that, `ReQueueAll` moves the message without them |
//!
//! KubeMQ does not tell a message that came back after a lost connection from a new one, so
//! [`redelivered`](crate::source::delivery::Delivery::redelivered) is always true. Reasons of failed attempts are kept in memory,
//! for the last 10,000 messages that failed.
//!
//! Events cannot be settled. They wait for their next attempt in memory, and are lost if the process ends. The broker counts a
//! stored event as delivered once it has sent it; missing ones are found by their sequence numbers and fetched again.
//!
//! # Requests
//! [`KubemqRequester`] sends queries, and a source of commands or queries replies to them. The reply carries status and headers in
//! tags, so a command's caller gets them too, though no body. To a client of KubeMQ's own an error status is `Executed = false`;
//! its reply to us is 200, or 500 with its error. KubeMQ delivers a request once, and does not tell whether there is a responder.
//!
//! The source ignores our own headers (`ATTEMPT`, `FAILURES`, `EXPIRY`, ..) in a received message, because no retry sends a
//! message again. The page `docs/kubemq-broker.md` has the keys, the shape of messages, and what can be lost.

mod connection;
#[cfg(feature = "admin")]
mod dead_letter_queue;
mod dead_letters;
mod event_link;
mod event_receiver;
mod event_settle;
mod failure;
mod incoming;
mod link;
mod messenger;
mod outgoing;
mod prefetched;
mod queue_receiver;
mod receiver_link;
mod replies;
mod request_receiver;
mod requester;
mod sender_link;
mod settings;
mod settle;
mod source;
mod source_context;
mod source_worker;
mod subscription;
mod units;

#[cfg(feature = "admin")]
pub(crate) use self::dead_letter_queue::KubemqDeadLetters;
pub use self::messenger::Kubemq;
pub use self::requester::KubemqRequester;
pub use self::settings::{KubemqSettings, Pattern, Token};
pub use self::source::KubemqSource;
pub use self::subscription::{KubemqSubscription, Start};
pub use crate::backends::brokers::{BrokerSettings, BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

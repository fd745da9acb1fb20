//! AMQP 1.0 (OASIS, 2012): a messenger for any broker, one for the messages of python-rhmsg, and a source for both.
//!
//! # Sending
//! [`Amqp10`] and [`RhMsg`] share one transport: connections that are kept open, a window of unsettled
//! deliveries on each link, and fail-over between brokers. They differ in envelope and addresses.
//!
//! | outcome of a delivery | result |
//! |---|---|
//! | `accepted` | confirmed |
//! | `rejected` | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | `released`, `modified`, a lost link or connection, none within `SEND_TIMEOUT` | [`Transient`](crate::messenger::Failure::Transient), after the other brokers were tried |
//! | the broker rejects the address: not found, not allowed, invalid | [`Rejected`](crate::messenger::Failure::Rejected) |
//!
//! When a broker ends a session for another reason than its address (`close_all_connections` of RabbitMQ 3.10), the
//! message is sent once more over a new connection, as after a lost connection. A message can then arrive twice.
//!
//! The first message of a topic attaches a link to its address. A connection keeps up to 64 links.
//!
//! # Receiving
//! [`Amqp10Source`] keeps one link at one of the brokers, and attaches another one when it is lost.
//!
//! | settlement | sent to the broker |
//! |---|---|
//! | `ack` | `accepted` |
//! | dropped | `released`: the broker delivers the message again, and the attempt does not count |
//! | `retry` | `modified` with `delivery-failed`, after the delay. Until then the message stays here unsettled, without using credit. With more than 1,000 delayed messages it is sent at once |
//! | `reject` | with `DEAD_LETTER_ADDRESS`: `accepted`, once the broker has confirmed the message there. The dead letter is unchanged except that it is durable, has no expiry, and has the [headers](crate::message::headers) `REASON`, `ATTEMPT`, `FAILURES`, `QUEUE` and `TOPIC`. If it cannot be sent, the broker delivers the message again |
//! | | without: `rejected`, with the reason as its description |
//!
//! **Set `DEAD_LETTER_ADDRESS`**: otherwise the broker decides what happens to a rejected message, and often drops it.
//!
//! | | ActiveMQ 5.17 | RabbitMQ 3.10 |
//! |---|---|---|
//! | a rejected message | is moved to the queue `ActiveMQ.DLQ` without the reason; is dropped if it is not durable (those of rhmsg are not) | is sent to the dead-letter exchange of the queue without the reason; is dropped if there is none |
//! | counting of attempts | as long as the link lasts | none; `modified` is not supported, so the source sends `released` |
//! | marks redeliveries | no: [`redelivered`](crate::source::delivery::Delivery::redelivered) is always true | yes |
//! | a released message | delivered again over the same link; other consumers get it once the link is closed | any consumer gets it |
//! | selectors | yes | no: the source returns an error |
//! | a delay of more than 30 min | | ends the link by its `consumer_timeout`: delayed messages are delivered again |
//!
//! The source also counts attempts itself, for the last 10,000 messages that failed. A record belongs to one message. A
//! redelivered message takes one record with the same properties, application properties and body, so messages without an id,
//! or with the same id, are never counted together. A paused source closes its link once all its messages are settled.
//!
//! The body must be data, or a string or binary as amqp-value. The topic is the first of these that is a topic, without
//! `TOPIC_PREFIX`:
//! 1. the annotation `x-routing-key` of RabbitMQ 4 (unless `x-exchange` is the default exchange, whose routing keys are names of queues);
//! 2. the subject;
//! 3. `to`;
//! 4. the name in the address of the subscription, without scheme, `Consumer.NAME.` and wildcards. (rhmsg sets neither
//!    subject nor `to`: behind a wildcard its topics are known only if the broker sets `to`.)
//!
//! The source ignores our own [headers](crate::message::headers) (`TOPIC`, `ATTEMPT`, `FAILURES`, `KEY`, ..) in a received
//! message, because no retry uses a queue here. For a dead letter of another address
//! [`failures`](crate::source::delivery::Delivery::failures) shows the history written in it, which anyone may have written; no
//! decision depends on it. A dead letter without a subject gets its topic as subject, so that it keeps it when it is sent back.
//! The message id is the id, and the group-id is the key. A message that cannot be read is a poison delivery. A message that
//! cannot be decoded is sent to `DEAD_LETTER_ADDRESS` as one data section with its original bytes.
//!
//! # Requests
//! [`Amqp10Requester`] sends requests, with a dynamic node of the broker as reply-to address and a random correlation-id. A message whose
//! reply-to address begins like one of [`reply_addresses`](Amqp10Subscription::reply_addresses) is a request. The reply has the
//! correlation-id of its request, or else the message-id; its status is the application property
//! [`tower-outbox-status`](crate::message::headers::STATUS), its headers are the others.
//!
//! # Both protocols on one queue of RabbitMQ
//! | from, to | RabbitMQ 3.10 | RabbitMQ 4 |
//! |---|---|---|
//! | 0-9-1, 1.0 | headers are lost: the key, `traceparent`, and binary CloudEvents, which become dead letters (structured ones are read) | all but the key, a header of ours |
//! | 1.0, 0-9-1 | headers are lost in `x-amqp-1.0-app-properties`, undecoded; the key in `x-amqp-1.0-properties`. A body as amqp-value stays encoded | all but the key |
//!
//! RabbitMQ 3.10 takes seconds of 0-9-1 for milliseconds of 1.0, and the reverse. Both sources correct such times: from
//! RabbitMQ 3.10 a time of 1.0 before 1973 is in seconds, and a time of 0-9-1 after the year 5138 in milliseconds.
//!
//! # Hostile messages
//! The bytes of a message are checked before they are decoded: known sections, in order and at most once, values nested at most
//! 64 deep, at most 65,536 values, true sizes and counts, texts in UTF-8. Arrays of lists, maps, arrays or described values
//! are rejected. A performative that breaks these rules ends the connection, not the process. A frame holds at most 256 KiB.
//! At most twice `PREFETCH_BYTES` of messages, and one more, are in memory. A further message is released unread, and credit
//! is granted by the largest recent message size. Of a message over 128 MiB the rest is discarded as it arrives, and the
//! message is `rejected`.
//!
//! The client library needs these checks (fe2o3-amqp 0.18.4, serde_amqp 0.18.0). It decodes by unbounded recursion, so that 15 kB
//! of nested values overflow the stack and abort the process. It takes the element type of an empty array for the next value,
//! and keeps the element type of an array while it reads maps in it. It decodes messages before the application sees them.
//!
//! # RabbitMQ 3.10 and 4
//! All tests of this backend run on both (3.10.8 and 4.0.5). They differ in:
//!
//! | | RabbitMQ 3.10 | RabbitMQ 4 |
//! |---|---|---|
//! | no queue is bound for the topic | accepted and dropped | released: transient, the message is sent again |
//! | addresses `/exchanges/..`, `/queues/..` (v2) | rejected | accepted, as are `/exchange/..`, `/topic/..`, `/amq/queue/..` |
//! | memory alarm | no effect: messages are accepted | no outcome until it is over: transient after `SEND_TIMEOUT` |
//! | largest message by default | 128 MiB | 16 MiB |
//! | `modified` | not supported | supported; quorum queues count it, classic ones do not |
//! | a quorum queue gives a message up | with `x-delivery-limit` | after 20 deliveries by default |
//! | published over 0-9-1 with the type `amqp-1.0` but no AMQP 1.0 in it | a dead letter | ends the session at each delivery: remove the message over 0-9-1 |

mod connection;
mod credit;
#[cfg(feature = "admin")]
mod dead_letter_queue;
mod dead_letters;
mod delayed;
mod failure;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod guard;
mod incoming;
mod lifeline;
mod messenger;
mod original;
mod outgoing;
mod prefetched;
mod replies;
mod requester;
mod rhmsg;
mod sasl;
mod sender_link;
mod settings;
mod settle;
mod source;
mod source_context;
mod source_link;
mod source_worker;
mod subscription;

#[cfg(feature = "admin")]
pub(crate) use self::dead_letter_queue::Amqp10DeadLetters;
pub use self::messenger::{Amqp10, RhMsg};
pub use self::requester::Amqp10Requester;
pub use self::settings::Amqp10Settings;
pub use self::source::Amqp10Source;
pub use self::subscription::Amqp10Subscription;
pub use crate::backends::brokers::{BrokerSettings, BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

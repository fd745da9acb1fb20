//! AMQP 1.0 (OASIS, 2012): a messenger for any broker, one that speaks as rhmsg does, and a source for both.
//!
//! # Sending
//! [`Amqp10`] and [`RhMsg`] share one transport: kept connections, a window of unsettled
//! deliveries on each link, fail-over between brokers. They differ in envelope and addresses.
//!
//! | outcome of a delivery | result |
//! |---|---|
//! | `accepted` | confirmed |
//! | `rejected` | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | `released`, `modified`, lost link or connection, none within `SEND_TIMEOUT` | [`Transient`](crate::messenger::Failure::Transient), after the other brokers were tried |
//! | the address is refused: not found, not allowed, invalid | [`Rejected`](crate::messenger::Failure::Rejected) |
//!
//! A session that the broker ends over no fault of an address (`close_all_connections` of RabbitMQ 3.10) is followed by one more try
//! over a new connection, as a connection that is lost is: at least once, a message may come twice then.
//!
//! The first message of a topic attaches a link to its address; up to 64 links are kept on a connection.
//!
//! # Receiving
//! [`Amqp10Source`] keeps one link at one of the brokers, and finds another when it is lost.
//!
//! | answer | what the broker is told |
//! |---|---|
//! | `ack` | `accepted` |
//! | dropped | `released`: it comes again, and the attempt does not count |
//! | `retry` | once the wait is over `modified`, `delivery-failed`; until then it stays here, unsettled, without holding credit. Beyond 1,000 that wait it is told at once |
//! | `reject` | with `DEAD_LETTER_ADDRESS`: `accepted`, once the message is confirmed there. It is as it was, but durable, without expiry, and with the [headers](crate::message::headers) `REASON`, `ATTEMPT`, `FAILURES`, `QUEUE` and `TOPIC`. If it cannot be sent, it comes again |
//! | | without: `rejected`, with the reason as its description |
//!
//! **Set `DEAD_LETTER_ADDRESS`**: what becomes of a rejected message is else up to the broker, and is often its end.
//!
//! | | ActiveMQ 5.17 | RabbitMQ 3.10 |
//! |---|---|---|
//! | rejected | to the queue `ActiveMQ.DLQ`, without the reason; dropped if it is not durable (rhmsg's are not) | to the queue's dead-letter exchange, without the reason; dropped if it has none |
//! | counts attempts | as long as the link lasts | no, and knows no `modified`: it is told `released` |
//! | says whether it was given out before | no: [`redelivered`](crate::source::delivery::Delivery::redelivered) is always true | yes |
//! | released | comes again over the same link; others get it once that is closed | anyone gets it |
//! | selectors | yes | none: the source says so |
//! | a wait of more than 30 min | | ends the link by its `consumer_timeout`: what waits comes again |
//!
//! Attempts are also counted here, for the last 10,000 messages that failed. A record of them belongs to one message: one that
//! comes again takes one record of the same properties, application properties and body, so that ids that are not unique and messages
//! without one are never counted together. A paused source closes its link once everything it gave out is answered.
//!
//! A body is data, or a text or binary as amqp-value. The topic is the annotation `x-routing-key`, which RabbitMQ 4 sets (not where
//! `x-exchange` is the default exchange, whose keys are names of queues), or else the subject, or else `to`, or else the name in the
//! address of the subscription, without scheme, `Consumer.NAME.` and wildcards; all without `TOPIC_PREFIX`. (rhmsg sets neither
//! subject nor `to`: behind a wildcard its topics can be told only if the broker sets `to`.)
//! Of what arrives, our own [headers](crate::message::headers) (`TOPIC`, `ATTEMPT`, `FAILURES`, `KEY`, ..) are not believed: no retry goes
//! through a queue here. Of a dead letter of another address [`failures`](crate::source::delivery::Delivery::failures) shows what is written there,
//! by whomever, and nothing is decided by it. A dead letter without a subject gets its topic as one, so that it is known by it when it is sent back.
//! The id is the message-id, key the group-id. What cannot be read is a poison delivery; what cannot even be decoded goes to
//! `DEAD_LETTER_ADDRESS` as one data section, its bytes as they came.
//!
//! # Both protocols on one queue of RabbitMQ
//! | from, to | RabbitMQ 3.10 | RabbitMQ 4 |
//! |---|---|---|
//! | 0-9-1, 1.0 | headers are lost: with them the key, `traceparent`, and binary CloudEvents, which are dead letters (structured ones are read) | all but the key, a header of ours |
//! | 1.0, 0-9-1 | headers are lost in `x-amqp-1.0-app-properties`, undecoded; the key in `x-amqp-1.0-properties`. A body as amqp-value comes undecoded | all but the key |
//!
//! RabbitMQ 3.10 takes seconds of 0-9-1 for milliseconds of 1.0, and the other way round. Both sources read such times right: from
//! it, those of 1.0 before 1973 are seconds, and those of 0-9-1 after the year 5138 milliseconds.
//!
//! # Hostile messages
//! A message is decoded only once its bytes were checked: sections that are known, in their order and not twice, values not
//! more than 64 deep in each other, at most 65,536 values, sizes and counts that are true, texts that are UTF-8. An array of lists,
//! maps, arrays or described values is refused. A performative that breaks this costs the connection, not the process. A frame may
//! hold 256 KiB. At most twice `PREFETCH_BYTES` of messages, and one more, are here at a time; a message beyond is handed back
//! unread, and more come as there is room for those of the largest size of late. Of a message over 128 MiB the rest is dropped as it arrives, and it is `rejected`.
//!
//! The client library needs this (fe2o3-amqp 0.18.4, serde_amqp 0.18.0): it decodes by recursion without a limit, so that 15 kB of
//! values in each other overflow the stack and end the process; it takes the element type of an empty array for the next value,
//! and keeps the element type of an array while it reads maps in it; it decodes messages before they can be looked at.
//!
//! # RabbitMQ 3.10 and 4
//! All tests of this backend run on both (3.10.8 and 4.0.5). These differ:
//!
//! | | RabbitMQ 3.10 | RabbitMQ 4 |
//! |---|---|---|
//! | nothing is bound for the topic | accepted and dropped | released: transient, it is tried again |
//! | addresses `/exchanges/..`, `/queues/..` (v2) | refused | taken, as are `/exchange/..`, `/topic/..`, `/amq/queue/..` |
//! | memory alarm | is not told, and accepts | answers once it is over: transient after `SEND_TIMEOUT` |
//! | largest message by default | 128 MiB | 16 MiB |
//! | `modified` | not known | known; quorum queues count it, classic ones do not |
//! | a quorum queue gives a message up | with `x-delivery-limit` | after 20 deliveries by default |
//! | published over 0-9-1 with the type `amqp-1.0`, and no AMQP 1.0 | a dead letter | ends the session at the broker, each time: take it out over 0-9-1 |

mod attempts;
mod connection;
mod credit;
mod dead_letters;
mod delayed;
mod failure;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod guard;
mod incoming;
mod lifeline;
mod messenger;
mod outgoing;
mod prefetched;
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

pub use self::messenger::{Amqp10, RhMsg};
pub use self::settings::Amqp10Settings;
pub use self::source::Amqp10Source;
pub use self::subscription::Amqp10Subscription;
pub use crate::backends::brokers::{BrokerSettings, BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

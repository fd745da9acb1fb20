//! AMQP 0-9-1: a messenger for any broker, and one for Fedora Messaging.
//!
//! [`Amqp091`] and [`Fedmsg`] share one transport: kept connections, publisher confirms with a window,
//! fail-over between brokers. They differ in envelope. Neither declares an exchange.
//!
//! | what the broker answers | result |
//! |---|---|
//! | `basic.ack` | confirmed |
//! | `basic.return` (with `MANDATORY`: no queue is bound) | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | `basic.nack` (a full queue, an internal error) | [`Transient`](crate::messenger::Failure::Transient) |
//! | channel closed (403, 404) over the exchange, or over the routing key it names | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | channel closed otherwise, such as 406 over a body larger than `max_message_size` | all that were on it go out again over a channel that no others use, alone if need be: the one it is closed over again is [`Rejected`](crate::messenger::Failure::Rejected) |
//! | connection closed over a fault of ours (501 to 505, 540, 541), or two lost within ten minutes with messages out | these go out again over a connection that no others use, each alone: the one over which the broker closes that twice is [`Rejected`](crate::messenger::Failure::Rejected), and one with which it is lost otherwise is [`Transient`](crate::messenger::Failure::Transient) |
//! | connection lost or closed otherwise, no confirm within `SEND_TIMEOUT`, publishers blocked by an alarm | [`Transient`](crate::messenger::Failure::Transient), after the other brokers were tried |
//!
//! # Receiving
//! [`Amqp091Source`] consumes a queue of RabbitMQ. It makes the queue when it is missing, and binds it.
//!
//! | answer | what the broker is told |
//! |---|---|
//! | [`ack`](crate::source::Unsettled::ack) | `basic.ack` |
//! | dropped unanswered, or handed back by a pause | `basic.nack` with requeue: it comes again at once, in its old place if it can |
//! | [`retry`](crate::source::Unsettled::retry) | published, mandatory, to the queue `<queue>.retry.quorum.<ms>`, whose TTL brings it back; once that is confirmed, `basic.ack` |
//! | [`reject`](crate::source::Unsettled::reject) | published, mandatory, to `<queue>.dead` or where [`Amqp091Subscription`] says; once that is confirmed, `basic.ack` |
//!
//! What is published in answer goes over a connection of its own, persistent, with the properties and headers it had and
//! those of [`headers`](crate::message::headers); without its `expiration`, which would bring it back early and delete dead
//! letters, without `user_id`, which must be our own, in a retry queue without its `priority`, which the header
//! [`PRIORITY`](crate::message::headers::PRIORITY) has, and without `CC`, `BCC` and `x-death`, which RabbitMQ acts on (petisco gets the entries of an `x-death` that RabbitMQ can have written). Headers that leave no room in
//! a frame, or over which the broker refuses it, are left out, the largest first:
//! [`LEFT_OUT`](crate::message::headers::LEFT_OUT) names them. If it is not confirmed, the message is handed
//! back after a second; if the broker refuses it, that counts as an attempt, so that no handler gets it after `MAX_ATTEMPTS`. A
//! body over a `max_message_size` that was lowered cannot be published again: it is rejected where the queue was declared with
//! an `x-dead-letter-exchange` that is there, and the broker brings it there; otherwise it stays in its queue.
//! Between the confirm and the `basic.ack` a crash doubles it.
//!
//! | what is received | of the message |
//! |---|---|
//! | the routing key without `TOPIC_PREFIX`, or the queue's name if it is empty; header [`TOPIC`](crate::message::headers::TOPIC) of ours | topic; one that is not makes it a dead letter |
//! | `message_id`: a UUID, or the name of one (UUIDv5); none: a new one | id |
//! | `timestamp`; with [`fedora`](Amqp091Source::fedora) the header `sent-at` | time |
//! | `content_type`, `priority`, `expiration`, header [`KEY`](crate::message::headers::KEY) | content type, priority, expiry, key |
//! | headers that are not tables, arrays or bytes, nor say how it travelled | headers |
//! | `content_encoding` (not a character set), `correlation_id`, `reply_to`, `type`, `app_id` | headers `content-encoding`, `correlation-id`, `reply-to`, `type`, `app-id` |
//! | headers [`ATTEMPT`](crate::message::headers::ATTEMPT) and [`FAILURES`](crate::message::headers::FAILURES) of ours; `redelivery_count` of what came back by petisco's retry queue | attempt, failures |
//! | `x-delivery-count` of what is delivered again by a quorum queue, which counts there what ended without an answer | attempt |
//!
//! # Whose headers are believed
//! A header of ours but [`KEY`](crate::message::headers::KEY), which is a hint for the order, counts only on a message that came by the
//! default exchange with the name of the queue as its routing key, as our retries, dead letters and requeues do, and that did
//! not expire on its way in a queue other than ours for retries. From anyone else it is ignored, and not sent on. So this holds
//! against everyone who may not write to the default exchange (`amq.default` in the permissions of RabbitMQ). Those who may
//! write there can put a message of any topic into any queue: give that right to nobody but the consumers. Dead letters that go
//! through a `DEAD_LETTER_EXCHANGE` are read like those of a stranger: their topic is the routing key, without a history.
//!
//! With an `ENVELOPE` of CloudEvents or petisco the topic is what the event itself says: whoever may publish to the queue
//! chooses it.
//!
//! # Hostile messages
//! All that a broker sends is looked at before the client library sees it. Bytes that are no UTF-8 become `?` in routing key,
//! properties and names of headers; a header that is nested more than 64 deep, or holds what cannot be read, becomes plain
//! bytes; what cannot be told apart is cut out, as are all properties if they are larger than a frame. Such a message is a
//! poison delivery whose reason names the first fault: one dead letter, with all that could be read of it. A method, frame or
//! header that no broker may send costs the connection, with an error that names it. Frames hold at most 128 KiB, which
//! brokers are told.
//!
//! At most `PREFETCH_BYTES` of bodies are here unanswered, or one that is larger. The broker knows no such limit: it sends
//! `PREFETCH` messages, and a body for which there is no room is dropped as it arrives. Its message keeps its place in
//! `PREFETCH`, and is handed back when there is room, the first one first: it is delivered twice. A quorum queue counts that;
//! it is no attempt here, unless another consumer gets it. A quorum queue without an `x-delivery-limit` puts it at its end: then
//! those behind it come first. Where most bodies are large, set `PREFETCH` so that they have room.
//!
//! The client library needs this (lapin 4.12.3, amq-protocol 10.6.3): it ends the connection over a short string that is
//! no UTF-8, as the message comes again, without end; it parses tables and arrays by recursion without a limit, so that 25 kB of
//! arrays in each other overflow the stack and end the process; and it makes room for 32 frames of whatever size the broker says.
//!
//! # Quorum queues
//! They count deliveries that were not acknowledged, whatever for: a handler that ended its process, a connection that was
//! lost, and also messages that were only fetched when their consumer ended, or were handed back. Each is an attempt here. So
//! keep `PREFETCH` near `CONCURRENCY`. A pause hands nothing back to them, but for what was fetched beyond `PREFETCH`: it is given out
//! first when the consumer goes on. Pause for less than RabbitMQ's `consumer_timeout` (30 minutes), or it comes again.
//!
//! With an `x-delivery-limit` RabbitMQ drops a message after so many deliveries, if the queue has no dead-letter exchange:
//! give it one, and a limit above `MAX_ATTEMPTS`, by `x-dead-letter-exchange` or by a policy. A limit that the queue was declared with
//! is logged at start; policies, and RabbitMQ 4's default of 20, cannot be seen. To see it, the queue is declared
//! as a quorum queue once, and again for each argument it has, which RabbitMQ logs as refused; who may not declare it cannot
//! count deliveries either.
//!
//! # Retry queues
//! They are quorum queues with at-least-once dead-lettering (<https://www.rabbitmq.com/docs/quorum-queues#dead-lettering>): a
//! message stays in its retry queue until the queue it goes back to has confirmed it, whenever RabbitMQ is killed. If that
//! queue is gone or full, or the retry queue starts before it, RabbitMQ tries again every three minutes. They cost a tenth to
//! a half of the rate at which waits end: 11,000 to 12,000 messages a second on RabbitMQ 3.10, of 14,000 to 16,000 out of
//! classic queues; 6,000 to 11,000 of 12,000 to 19,000 on RabbitMQ 4.
//!
//! RabbitMQ deletes a quorum queue that `x-expires` ends with what is in it, and to declare it again does not count as use. So
//! they stay: at most 29 for a queue, one for each delay. Delete them with the queue; let no policy with `expires` match them.
//!
//! RabbitMQ may forget a queue, of any kind, that was made less than three seconds before it was killed, with all that it has
//! confirmed. So what is sent on to a retry or dead-letter queue is acknowledged no sooner than four seconds after the connection
//! has first made or found that queue; until then it fills places of `PREFETCH`. A queue that others publish to is safe once it
//! is as old.
//!
//! A quorum queue that RabbitMQ has half forgotten so (seen on 3.10.8 and 4.0.5, killed within 0.2 seconds) is listed without counts and
//! confirms nothing, also after a restart. A warning then says of each retry of that delay that it could not be sent on, and the
//! message comes again, uncounted. Delete that queue: it is made anew.
//!
//! | the broker | retries |
//! |---|---|
//! | refuses quorum queues, or those with a TTL: RabbitMQ 3.8 and 3.9, or without the feature flag `quorum_queue` | go to classic queues `<queue>.retry.<ms>`; a warning says so |
//! | takes them for other queues: RabbitMQ before 3.8, which knows no such arguments | the same, without a warning |
//! | has not the feature flag `stream_queue` | go to quorum queues, which it empties without confirms, as its log says |
//!
//! In these cases, and in the retry queues of petisco, which are as petisco makes them, a message may be lost
//! when RabbitMQ is killed as its wait ends (<https://www.rabbitmq.com/docs/dlx#safety>). Classic retry queues that an earlier
//! version has made bring their messages back, and are deleted an hour after that.
//!
//! # RabbitMQ 3.10 and 4
//! All tests of this backend run on both (3.10.8 and 4.0.5). These differ:
//!
//! | | RabbitMQ 3.10 | RabbitMQ 4 |
//! |---|---|---|
//! | largest message by default | 128 MiB | 16 MiB |
//! | a quorum queue gives a message up | with `x-delivery-limit` | after 20 deliveries by default |
//! | in a quorum queue a message expires | whatever is in front of it | behind those of a higher priority: so those that wait have none |
//! | a queue declared without `x-queue-type` | is listed without it | may be listed as `classic`, which is no difference to a plan |

mod any_broker;
mod attempts;
mod connection;
#[cfg(feature = "cli")]
mod dead_letters;
mod failure;
mod fedora;
mod fedora_config;
mod fit;
mod forwarding;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod guard;
mod incoming;
mod json_lines;
mod limits;
mod messenger;
mod outgoing;
mod queue_kind;
mod queues;
mod sender_link;
mod settings;
mod settle;
mod source;
mod source_context;
mod source_link;
mod source_session;
mod subscription;
mod topology;

#[cfg(feature = "cli")]
pub(crate) use self::dead_letters::{DeadLetter, DeadLetters, DeadLettersError};
pub use self::fedora::{FedoraMessage, Severity};
#[cfg(feature = "settings")]
pub(crate) use self::fedora_config::fill as fill_from_fedora_config;
pub use self::json_lines::{JsonLineError, from_json_line, to_json_line};
pub use self::messenger::{Amqp091, Fedmsg};
pub use self::settings::Amqp091Settings;
pub use self::source::Amqp091Source;
pub use self::subscription::{Amqp091Subscription, RetryBy};
pub use self::topology::{
    Binding, Exchange, ExchangeKind, PetiscoSubscriber, PetiscoTopology, PetiscoTtl, Plan, Queue, Topology,
    TopologyError,
};
pub use crate::backends::brokers::{BrokerSettings, BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

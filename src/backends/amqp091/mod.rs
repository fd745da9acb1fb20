//! AMQP 0-9-1: a messenger for any broker, one for Fedora Messaging, and a source for RabbitMQ.
//!
//! # Sending
//! [`Amqp091`] and [`Fedmsg`] share one transport: connections that are kept open, publisher confirms with a window, and
//! fail-over between brokers. They differ in envelope. Neither declares an exchange.
//!
//! | response of the broker | result |
//! |---|---|
//! | `basic.ack` | confirmed |
//! | `basic.return` (with `MANDATORY`: no queue is bound) | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | `basic.nack` (a full queue, an internal error) | [`Transient`](crate::messenger::Failure::Transient) |
//! | channel closed (403, 404) because of the exchange, or of the routing key it names | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | channel closed for another reason, such as 406 for a body larger than `max_message_size` | the messages on it are sent again over a channel of their own, if necessary one by one: the one for which the broker closes the channel again is [`Rejected`](crate::messenger::Failure::Rejected) |
//! | connection closed for a fault of ours (501 to 505, 540, 541), or two connections lost within ten minutes with messages in flight | these messages are sent again one by one over a connection of their own: the one for which the broker closes it twice is [`Rejected`](crate::messenger::Failure::Rejected), and one with which it is lost for another reason is [`Transient`](crate::messenger::Failure::Transient) |
//! | connection lost or closed for another reason, no confirm within `SEND_TIMEOUT`, publishers blocked by an alarm | [`Transient`](crate::messenger::Failure::Transient), after the other brokers were tried |
//!
//! # Receiving
//! [`Amqp091Source`] consumes a queue of RabbitMQ. It creates the queue if it is missing, and binds it.
//!
//! | settlement | sent to the broker |
//! |---|---|
//! | [`ack`](crate::source::Unsettled::ack) | `basic.ack` |
//! | dropped, or returned by a pause | `basic.nack` with requeue: the broker delivers the message again at once, in its original position if possible |
//! | [`retry`](crate::source::Unsettled::retry) | the message, mandatory, to the queue `<queue>.retry.quorum.<ms>`, whose TTL returns it; then, after the confirm, `basic.ack` |
//! | [`reject`](crate::source::Unsettled::reject) | the message, mandatory, to `<queue>.dead` or to the address in [`Amqp091Subscription`]; then, after the confirm, `basic.ack` |
//!
//! Retries and dead letters are forwarded over a connection of their own. A forwarded message is persistent, and keeps its
//! properties and headers, with these exceptions:
//! - it has the [`headers`](crate::message::headers) of ours;
//! - it has no `expiration`, which would return it early and delete dead letters;
//! - it has no `user_id`, which must be that of this client;
//! - in a retry queue it has no `priority`, which is in the header [`PRIORITY`](crate::message::headers::PRIORITY);
//! - it has no `CC`, `BCC` and `x-death`, to which RabbitMQ reacts (petisco gets the entries of an `x-death` that RabbitMQ can have written).
//!
//! Headers that do not fit into a frame, or for which the broker rejects the message, are left out, the largest first; the
//! header [`LEFT_OUT`](crate::message::headers::LEFT_OUT) names them. Without a confirm the source returns the message to the
//! queue after a second. If the broker rejects a forwarded message, that counts as an attempt, so that no handler gets it after
//! `MAX_ATTEMPTS`. A body over a `max_message_size` that was lowered cannot be published again: the source rejects the message if the
//! queue was declared with an existing `x-dead-letter-exchange`, to which the broker then moves it; otherwise it stays in its queue.
//! A crash between the confirm and the `basic.ack` duplicates the message.
//!
//! | received | part of the message |
//! |---|---|
//! | the routing key without `TOPIC_PREFIX`, or the name of the queue if the key is empty; header [`TOPIC`](crate::message::headers::TOPIC) of ours | topic; an invalid topic makes a dead letter |
//! | `message_id`: a UUID, or any text (as a UUIDv5); without one a new id | id |
//! | `timestamp`; with [`fedora`](Amqp091Source::fedora) the header `sent-at` | time |
//! | `content_type`, `priority`, `expiration`, header [`KEY`](crate::message::headers::KEY) | content type, priority, expiry, key |
//! | headers, except tables, arrays, bytes, and headers about its way | headers |
//! | `content_encoding` (not a character set), `correlation_id`, `reply_to`, `type`, `app_id` | headers `content-encoding`, `correlation-id`, `reply-to`, `type`, `app-id` |
//! | headers [`ATTEMPT`](crate::message::headers::ATTEMPT) and [`FAILURES`](crate::message::headers::FAILURES) of ours; `redelivery_count` of a message from petisco's retry queue | attempt, failures |
//! | `x-delivery-count` of a message that a quorum queue delivers again, which counts deliveries without a settlement | attempt |
//!
//! # Requests
//! [`Amqp091Requester`] publishes requests with RabbitMQ's direct reply-to, and every source replies to them. The status of a reply is in the
//! header [`STATUS`](crate::message::headers::STATUS). A message with another reply address gets no reply: whoever publishes names it.
//!
//! # Trusted headers
//! The source trusts our own headers only in a message that came through the default exchange with the name of the queue as its
//! routing key, as our retries, dead letters and requeues do, and that did not expire in a foreign queue on its way. In other
//! messages it ignores them and does not forward them. The exception is [`KEY`](crate::message::headers::KEY), which only affects
//! the order. This protects against everyone without write permission for the default exchange (`amq.default` in the permissions of
//! RabbitMQ). Clients with that permission can put a message of any topic into any queue: grant it to consumers only. Dead
//! letters that go through a `DEAD_LETTER_EXCHANGE` are read like foreign messages: their topic is the routing key, and they have no history.
//!
//! With an `ENVELOPE` of CloudEvents or petisco the topic is in the event itself: everyone who may publish to the queue chooses it.
//!
//! # Hostile messages
//! All bytes from a broker are checked before the client library reads them. Bytes that are not UTF-8 become `?` in routing key,
//! properties and names of headers. A header that is nested more than 64 deep, or that cannot be read, becomes plain bytes.
//! Unreadable parts are cut out, as are all properties if they are larger than a frame. Such a message is a poison delivery whose
//! reason names the first fault: one dead letter, with all that could be read. A method, frame or header that no broker may
//! send ends the connection with an error that names it. Frames hold at most 128 KiB, which the source negotiates.
//!
//! At most `PREFETCH_BYTES` of bodies are in memory unsettled, or one larger body. The broker does not know this limit: it sends
//! `PREFETCH` messages, and the source discards a body that does not fit as it arrives. Its message keeps its place in
//! `PREFETCH`, and is returned to the queue when there is space, the first one first: it is delivered twice. A quorum queue
//! counts that as a delivery; the source does not count it as an attempt, unless another consumer gets the message. A quorum queue without an
//! `x-delivery-limit` puts the message at its end, so later messages overtake it. If most bodies are large, choose
//! `PREFETCH` so that they fit.
//!
//! The client library needs these checks (lapin 4.12.3, amq-protocol 10.6.3). It ends the connection over a short string that is
//! not UTF-8, and the message is delivered again, forever. It parses tables and arrays by unbounded recursion, so that 25 kB of
//! nested arrays overflow the stack and abort the process. It allocates 32 frames of any size that the broker asks for.
//!
//! # Quorum queues
//! A quorum queue counts every delivery that was not acknowledged: a handler that ended its process, a lost connection, and also
//! messages that were only prefetched when their consumer ended, or were returned. Each counts as an attempt. So
//! keep `PREFETCH` near `CONCURRENCY`. A pause returns nothing to a quorum queue except messages beyond `PREFETCH`: the source
//! keeps its prefetched messages and delivers them first when it resumes. Pause for less than RabbitMQ's `consumer_timeout` (30
//! minutes), or the broker delivers them again.
//!
//! With an `x-delivery-limit` RabbitMQ drops a message after so many deliveries if the queue has no dead-letter exchange:
//! set one, and a limit above `MAX_ATTEMPTS`, by `x-dead-letter-exchange` or by a policy. The source logs a limit that the queue was
//! declared with; policies, and RabbitMQ 4's default of 20, are invisible to it. To read the limit it declares the queue
//! as a quorum queue once, and again for each argument of the queue, which RabbitMQ logs as refused. A client without the
//! permission to declare the queue cannot count deliveries.
//!
//! # Retry queues
//! Retry queues are quorum queues with at-least-once dead-lettering (<https://www.rabbitmq.com/docs/quorum-queues#dead-lettering>): a
//! message stays in its retry queue until the original queue has confirmed it, even if RabbitMQ is killed. If the original
//! queue is missing or full, or becomes available later, RabbitMQ tries again every three minutes. This costs a tenth to
//! a half of the rate at which delays end: 11,000 to 12,000 messages a second on RabbitMQ 3.10, compared with 14,000 to 16,000 from
//! classic queues; 6,000 to 11,000 compared with 12,000 to 19,000 on RabbitMQ 4.
//!
//! RabbitMQ deletes an expired quorum queue (`x-expires`) with its messages, and declaring it again does not count as use. So
//! retry queues stay: at most 29 for a queue, one for each delay. Delete them with the queue; let no policy with `expires` match them.
//!
//! RabbitMQ may forget a queue of any kind that was created less than three seconds before RabbitMQ was killed, with all confirmed
//! messages. So a forwarded message is acknowledged no sooner than four seconds after the connection first created or found the
//! retry or dead-letter queue; until then it occupies places of `PREFETCH`. A queue that other clients publish to is safe
//! at the same age.
//!
//! RabbitMQ (seen with 3.10.8 and 4.0.5, killed within 0.2 seconds) may half forget such a quorum queue: it is listed without counts and
//! confirms nothing, even after a restart. Each retry with that delay then logs a warning, and the
//! message is delivered again, uncounted. Delete that queue: the source creates it again.
//!
//! | the broker | retries |
//! |---|---|
//! | rejects quorum queues, or those with a TTL: RabbitMQ 3.8 and 3.9, or without the feature flag `quorum_queue` | go to classic queues `<queue>.retry.<ms>`; a warning is logged |
//! | ignores the arguments: RabbitMQ before 3.8 | the same, without a warning |
//! | lacks the feature flag `stream_queue` | are sent to quorum queues, which it empties without confirms; it logs this |
//!
//! In these cases, and in the retry queues of petisco, which are declared as petisco does, a message may be lost
//! when RabbitMQ is killed at the end of a delay (<https://www.rabbitmq.com/docs/dlx#safety>).
//!
//! # RabbitMQ 3.10 and 4
//! All tests of this backend run on both (3.10.8 and 4.0.5). They differ in:
//!
//! | | RabbitMQ 3.10 | RabbitMQ 4 |
//! |---|---|---|
//! | largest message by default | 128 MiB | 16 MiB |
//! | a quorum queue gives a message up | with `x-delivery-limit` | after 20 deliveries by default |
//! | a message in a quorum queue expires | in any position | not behind a message of a higher priority: so delayed messages have none |
//! | a queue declared without `x-queue-type` | is listed without it | may be listed as `classic`, which a plan does not count as a difference |

mod any_broker;
mod attempts;
mod connection;
#[cfg(feature = "admin")]
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
#[cfg(feature = "cli")]
pub(crate) mod inspect;
mod json_lines;
mod limits;
mod messenger;
mod outgoing;
mod queue_kind;
mod queues;
mod quiet;
mod replies;
mod requester;
mod sender_link;
mod settings;
mod settle;
mod source;
mod source_context;
mod source_link;
mod source_session;
mod subscription;
mod topology;

#[cfg(feature = "admin")]
pub(crate) use self::dead_letters::Amqp091DeadLetters;
pub use self::fedora::{FedoraMessage, Severity};
#[cfg(feature = "settings")]
pub(crate) use self::fedora_config::fill as fill_from_fedora_config;
pub use self::json_lines::{JsonLineError, from_json_line, to_json_line};
pub use self::messenger::{Amqp091, Fedmsg};
pub use self::requester::Amqp091Requester;
pub use self::settings::Amqp091Settings;
pub use self::source::Amqp091Source;
pub use self::subscription::{Amqp091Subscription, QueueArgument, QueueType, RetryBy};
pub use self::topology::{
    Binding, Exchange, ExchangeKind, PetiscoSubscriber, PetiscoTopology, PetiscoTtl, Plan, Queue, Topology,
    TopologyError,
};
pub use crate::backends::brokers::{BrokerSettings, BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

//! NATS: a messenger and a source for a server or cluster, by default with JetStream.
//!
//! # Sending
//! [`Nats`] publishes over a connection that is kept open, with a window of messages that await their confirm, and with fail-over
//! between the servers in `URLS`. A confirm is the answer of JetStream, when the stream has stored the message. The subject is the
//! topic, with `TOPIC_PREFIX` before it.
//!
//! ```
//! use tower_outbox::nats::{Nats, NatsSettings};
//! use tower_outbox::{Message, Messenger};
//!
//! # async fn example() -> Result<(), tower_outbox::BoxError> {
//! let messenger = Nats::new(&NatsSettings::new(["tls://user:password@nats.example.com"]))?;
//! messenger.send(vec![Message::json("order.created", &7)?]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | answer of the server | result |
//! |---|---|
//! | stored, or known as a duplicate | confirmed |
//! | no stream takes the subject | [`Rejected`](crate::messenger::Failure::Rejected), naming the cure |
//! | no leader of the stream, JetStream does not answer, the stream is full | [`Transient`](crate::messenger::Failure::Transient) |
//! | larger than `max_payload` or `max_msg_size`, no permission, another stream than `EXPECTED_STREAM` | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | a delay or expiry that the stream does not allow, or that the server is too old for | [`Rejected`](crate::messenger::Failure::Rejected), at `enqueue` once the version is known |
//! | connection lost, no confirm within `SEND_TIMEOUT` | [`Transient`](crate::messenger::Failure::Transient), after the other servers were tried |
//!
//! - **A message is stored once**: its id is its `Nats-Msg-Id`, by which a stream drops duplicates within its duplicate window, 2
//!   minutes by default. A warning is logged for a stream whose window is shorter than messages may be tried again. Longer outages than
//!   the window make duplicates.
//! - **Nothing is sent after it was given back**: the client library sends what it still has after a reconnect, so each connection has
//!   a client of its own, which ends with it. One exception: when a server is silent for `SEND_TIMEOUT`, but not for
//!   `IDLE_TIMEOUT`, what waits in the buffers of the connection may still arrive; the duplicate window drops its second copy.
//! - **`PATTERN = "events"`** publishes to those who subscribe now, without JetStream. The server confirms that it has read the
//!   messages, not that anybody got them.
//! - **Delay** needs NATS 2.12, a stream with `allow_msg_schedules`, and `DELAY_SUBJECT`, which the same stream takes. **Expiry** needs
//!   NATS 2.11 and `allow_msg_ttl`; it is rounded up to seconds. Older servers would ignore both, so such messages are refused.
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `PATTERN` | `streams`, or `events` | `streams` |
//! | `EXPECTED_STREAM` | the stream that must store the messages | any |
//! | `DELAY_SUBJECT` | the beginning of the subjects at which delayed messages wait | none: they are refused |
//! | `DOMAIN` | the domain of JetStream | none |
//! | `CLIENT_NAME` | the name that operators see | `tower-outbox` |
//! | `TOKEN` | a token for all servers | none |
//! | `NKEY_FILE`, `CREDENTIALS_FILE` | files with the seed of an nkey, or with a JWT and a seed | none |
//! | `IDLE_TIMEOUT` | how long a server may be silent; three pings are sent in it | 30 s |
//!
//! | on the wire | part of a message |
//! |---|---|
//! | subject, payload, header `Content-Type` | topic, body, content type |
//! | headers `Nats-Msg-Id` and `tower-outbox-id`, `tower-outbox-time` (RFC 3339) | id, time |
//! | other headers | headers, as texts; names are visible ASCII without a colon, and do not begin with `Nats-` |
//! | header `tower-outbox-types` | the types of headers that are no plain texts, as JSON: `{"number": "int"}` |
//! | headers `tower-outbox-key`, `tower-outbox-priority` | key, priority; NATS has no priorities |
//! | header `Nats-TTL` | expiry, or `TTL` |
//!
//! With `ENVELOPE = "cloudevents"` the attributes of an event are headers that begin with `ce-`, as the NATS binding of CloudEvents
//! says.
//!
//! # Receiving
//! [`NatsSource`] pulls from a durable consumer. All processes with its name share the messages.
//!
//! | settlement | sent to the server, which confirms it |
//! |---|---|
//! | [`ack`](crate::source::Unsettled::ack) | `+ACK` |
//! | [`retry`](crate::source::Unsettled::retry) | `-NAK` with the delay: the server delivers the message again, to any process |
//! | dropped, or [`release`](crate::source::Unsettled::release) | nothing: the message is the next one here |
//! | [`reject`](crate::source::Unsettled::reject) | the message with its reason to `DEAD_LETTER_SUBJECT`; then, after the confirm, `+TERM` |
//!
//! | key of a consumer | meaning | default |
//! |---|---|---|
//! | `STREAM` | the stream; created with `SUBJECTS` if it is missing | – |
//! | `DURABLE` | the name of the consumer; created if it is missing | – |
//! | `SUBJECTS` | subjects, after `TOPIC_PREFIX` | all of the stream |
//! | `ONLY_NEW` | a created consumer begins with the messages that come after it | false |
//! | `PREFETCH`, `PREFETCH_BYTES` | how much may be unsettled here | 64 or `MAX_ACK_PENDING`, 64 MiB |
//! | `ACK_WAIT` | when the server delivers the messages of a process that is gone again | 30 s |
//! | `MAX_ACK_PENDING` | how many messages may be unsettled or wait for a retry, in all processes | 10,000 |
//! | `DEAD_LETTER_SUBJECT` | where dead letters go; a stream is created for it if none takes it | `dead.<stream>.<durable>` |
//! | `REPLICAS` | the replicas of created streams | 1 |
//!
//! - **The server counts attempts**: each delivery is one, also one to a process that died. What a closing process returns untried
//!   counts for other processes. The reasons of failures are known in the process of the failed attempt only.
//! - **A message stays ours while it is handled**: this process reports it three times within `ACK_WAIT`. When a process dies, its
//!   messages come again after `ACK_WAIT`; when a connection is lost, they are settled over the next one. A process that is stopped for
//!   longer than `ACK_WAIT` handles them twice.
//! - **The server knows no keys.** In one process messages of one key are handled in order, except one that waits for its retry. Several processes
//!   share the messages whatever their keys. With `MAX_ACK_PENDING = 1` the server delivers a message when the one before is settled: all are
//!   handled in order, in any number of processes, over retries too.
//! - **A consumer with `max_deliver` is refused**: the server would leave its messages in the stream, neither delivered nor dead
//!   letters. Use `MAX_ATTEMPTS` of the consumer here.
//! - **A message that is settled does not come again**: the server confirms each settlement. Only when its confirm is lost with the
//!   connection and no other one is made within `SEND_TIMEOUT`, an error says that it may come again. A server on its own that is killed
//!   forgets the settlements of its last moments, which it writes to its disk a few times a second; with replicas another server knows them.
//! - **A message that the client library cannot read becomes one dead letter**, without its headers: such as one with header bytes
//!   that are no UTF-8. The library ends the connection over it. Over the next one this process looks at the messages that are delivered and
//!   not settled, and finds it.
//! - **A dead letter that is too large with its reason** is published without the headers of its message, and at last without the reason,
//!   which is logged.
//! - An existing consumer is used unchanged; other subjects than `SUBJECTS` are logged.
//!
//! # Streams and consumers
//! A source creates what is missing. [`NatsTopology`] shows before what it would create, and where existing streams and consumers differ from
//! the settings; `tower-outbox check` does so too.
//!
//! # Requests
//! [`NatsRequester`] sends requests, and a source of [`NatsSubscription::requests`] replies to them. No stream stores either.
//!
//! | key of a consumer with `PATTERN = "requests"` | meaning | default |
//! |---|---|---|
//! | `SUBJECTS` | subjects, after `TOPIC_PREFIX` | – |
//! | `GROUP` | the queue group, whose members share the requests | named as the subjects |
//! | `REPLY_SUBJECTS` | where replies may go | `_INBOX.>` |
//! | `PREFETCH`, `PREFETCH_BYTES` | how many requests may be here; the callers of further ones get 503 | 10,000, 64 MiB |
//!
//! The status of a reply is in the header `tower-outbox-status`; its other headers are headers. A retried request waits in this process.
//!
//! # Trusted headers
//! The headers of ours that count attempts and explain dead letters are not believed in received messages. The topic of a message
//! is its subject, for which the server checked the permission of its publisher; with an `ENVELOPE` of CloudEvents or petisco it is in
//! the event itself: everyone who may publish chooses it.

mod ack_subject;
mod calls;
mod client;
mod confirm;
mod connection;
#[cfg(feature = "admin")]
mod dead_letter_queue;
mod failure;
mod inbox;
mod incoming;
mod link;
mod messenger;
mod names;
mod outgoing;
mod quarantine;
mod replies;
mod request;
mod request_context;
mod request_settle;
mod request_source;
mod request_worker;
mod requester;
mod settings;
mod settle;
mod setup;
mod source;
mod source_context;
mod source_worker;
mod stream_source;
mod subscription;
mod topology;
mod windows;

#[cfg(feature = "admin")]
pub(crate) use self::dead_letter_queue::NatsDeadLetters;
pub use self::messenger::Nats;
pub use self::requester::NatsRequester;
pub use self::settings::{NatsSettings, Pattern};
pub use self::source::NatsSource;
pub use self::subscription::{NatsSubscription, SubscriptionPattern};
pub use self::topology::{NatsPlan, NatsTopology, NatsTopologyError};
pub use crate::backends::brokers::{BrokerSettings, BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

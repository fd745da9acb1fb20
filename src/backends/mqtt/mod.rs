//! MQTT 5, and MQTT 3.1.1 by setting: a messenger and a source for any broker, such as mosquitto.
//!
//! # Sending
//! [`Mqtt`] publishes over connections that are kept open, with a window of messages that await their confirm, and with
//! fail-over between brokers. A confirm is the PUBACK of the broker. `order.created` is published to `order/created`: `SEPARATOR`
//! replaces each dot, and `TOPIC_PREFIX` precedes the topic. [`retain`] marks a message as the last value of its topic.
//!
//! ```
//! use tower_outbox::mqtt::{Mqtt, MqttSettings};
//! use tower_outbox::{Message, Messenger, mqtt};
//!
//! # async fn example() -> Result<(), tower_outbox::BoxError> {
//! let messenger = Mqtt::new(&MqttSettings::new(["mqtts://user:password@broker.example.com"]))?;
//! let temperature = Message::json("sensor.1.temperature", &21.5)?;
//! messenger.send(vec![mqtt::retain(temperature)]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | answer of the broker | result |
//! |---|---|
//! | PUBACK, success | confirmed |
//! | PUBACK, no matching subscribers | confirmed, or with `MANDATORY` [`Rejected`](crate::messenger::Failure::Rejected) |
//! | not authorized, topic name invalid, payload format invalid | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | quota exceeded, unspecified or implementation specific error, packet identifier in use | [`Transient`](crate::messenger::Failure::Transient) |
//! | the packet is larger than its maximum packet size, it keeps no retained messages | [`Rejected`](crate::messenger::Failure::Rejected), before the message is sent |
//! | DISCONNECT over a message (malformed packet, protocol error, topic name invalid, packet too large and the like), or two connections lost within ten minutes with messages in flight | these messages are sent again one by one over a connection of their own: the one for which the broker closes it twice is [`Rejected`](crate::messenger::Failure::Rejected) |
//! | connection lost, no confirm within `SEND_TIMEOUT` | [`Transient`](crate::messenger::Failure::Transient), after the other brokers were tried |
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `VERSION` | `5`, or `3.1.1`: see [below](#mqtt-311) | `5` |
//! | `QOS` | 0: no confirm; a message counts as sent once it is written to the connection, and may be lost. 1: the broker confirms. 2: it confirms too, but does not say whether anybody subscribes | 1 |
//! | `MANDATORY` | a message that nobody subscribes to is rejected; needs `QOS = 1` | false |
//! | `SEPARATOR` | what is in an MQTT topic name for each dot of a topic | `/` |
//! | `CLIENT_ID` | the beginning of client ids | `tower-outbox` |
//! | `WINDOW` | how many messages may await their confirm on a connection | 256 |
//! | `IDLE_TIMEOUT` | how long a broker may be silent; pings are sent at half of it, in whole seconds | 30 s |
//!
//! A broker confirms a message before it stores it: mosquitto writes its database at intervals (`autosave_interval`), and loses
//! what it confirmed since then when it is killed. It also drops messages, without a word, beyond `max_queued_messages` (1,000) for a
//! subscriber that is away. Nothing is confirmed to subscribers that come later, except retained messages.
//!
//! | on the wire | part of a message |
//! |---|---|
//! | topic name | topic |
//! | payload, content type | body, content type |
//! | user properties | headers, as texts |
//! | user properties `tower-outbox-id`, `tower-outbox-time` (RFC 3339) | id, time |
//! | user properties `tower-outbox-key`, `tower-outbox-priority` | key, priority; MQTT has no priorities |
//! | user property `tower-outbox-types` | the types of headers that are no texts, as JSON: `{"number": "int"}` |
//! | message expiry interval, in whole seconds | expiry, or `TTL` |
//! | response topic, correlation data | headers `reply-to`, `correlation-id`; with `REPLY_TOPICS` also [`reply_address`](crate::source::delivery::Delivery::reply_address) |
//! | retain flag | [`is_retained`] |
//!
//! With `ENVELOPE = "cloudevents"` the attributes of an event are user properties without a prefix, as the MQTT binding of
//! CloudEvents says, and a received property is an attribute if its name is one (lower-case letters and digits). Texts with control
//! characters or noncharacters are refused at `enqueue`, since brokers close the connection over them.
//!
//! # Receiving
//! [`MqttSource`] subscribes at one of the brokers at a time. The broker keeps the session of its client id, with the messages
//! in it, for `SESSION_EXPIRY`.
//!
//! | settlement | sent to the broker |
//! |---|---|
//! | [`ack`](crate::source::Unsettled::ack) | PUBACK |
//! | [`retry`](crate::source::Unsettled::retry) | nothing: the message waits here, unacknowledged |
//! | dropped, or [`release`](crate::source::Unsettled::release) | nothing: the message is the next one here |
//! | [`reject`](crate::source::Unsettled::reject) | the message with its reason to `DEAD_LETTER_TOPIC`; then, after the confirm, PUBACK |
//!
//! | key of a consumer | meaning | default |
//! |---|---|---|
//! | `TOPICS` | topic filters of MQTT, after `TOPIC_PREFIX` | – |
//! | `GROUP` | a shared subscription: each message goes to one process of the group | none: each process gets all |
//! | `CLIENT_ID` | the session; one process at a time may use it | made of `CLIENT_ID` of the backend, host name and topics |
//! | `SESSION_EXPIRY` | how long the broker keeps the session of a process that is away | 1 day |
//! | `CLEAN_START` | begins without the kept messages when the process starts | false |
//! | `QOS` | 1, or 0: the broker sends each message once and forgets it | 1 |
//! | `PREFETCH` | how many messages may be unsettled | 64 |
//! | `PREFETCH_BYTES` | how many bytes of messages, waiting retries included, may be in memory; also the largest packet | 64 MiB |
//! | `REPLY_TOPICS` | topic filters of response topics to which responses are published as replies | none |
//! | `DEAD_LETTER_TOPIC` | where dead letters are published | none: they are logged and dropped |
//!
//! - **Retries wait in this process**, at most 1,000 at a time: MQTT cannot return a message. They take no place of `PREFETCH`: the
//!   receive maximum is `PREFETCH` and 1,000, and the source stops to read when `PREFETCH` are unsettled.
//! - **Attempts are counted in this process.** A restart forgets them: after it every unacknowledged message is at its first
//!   attempt. A lost connection forgets none, except attempts that fail while it is lost.
//! - **An acknowledgement belongs to its connection.** MQTT uses packet identifiers again, so one that comes after a reconnect is an error,
//!   and the broker delivers the message again.
//! - **Somebody must subscribe to `DEAD_LETTER_TOPIC`.** As long as nobody does, a rejected message stays unacknowledged, is delivered
//!   again after a second, and a warning is logged.
//! - **A message larger than `PREFETCH_BYTES` never arrives**: MQTT brokers drop it for this client, without a word.
//! - With several processes on a host, set `CLIENT_ID` for each of them; else they take over the session from each other, which is
//!   logged and reported as an error.
//! - Several `URLS` are the addresses of one cluster, whose nodes share sessions. A source checks it when it first connects: a cluster
//!   closes the connection of a client id that connects to another node. Of separate brokers it warns; messages in the session at the
//!   other broker wait until the source connects there again.
//! - A source that finds no session after a reconnect logs a warning: the broker kept nothing of the time without a connection.
//! - **mosquitto 2.0.21 confirms and drops messages after its restart** for a session that it read from its file, until the client
//!   of the session has connected again.
//! - mosquitto accepts a subscription for which its ACL file gives no permission to read, and then sends nothing, without a word.
//! - Retained messages come when a topic is first subscribed to, not after each reconnect.
//!
//! # MQTT 3.1.1
//! With `VERSION = "3.1.1"` packets are translated for brokers that do not speak MQTT 5. User properties, content type, message expiry,
//! reason codes, shared subscriptions and response topics do not exist there: headers, id, key and time of a message are lost, unless an
//! `ENVELOPE` carries them in the body (`cloudevents_structured`, `petisco`, `mqfactory`). Settings and messages that would mean something
//! else without them are refused: `MANDATORY`, `GROUP`, `CLEAN_START`, `REPLY_TOPICS`, `ENVELOPE = "cloudevents"`, and messages with the headers
//! `signature`, `ack`, `confirm` or `reply-to`. A dead letter is the bare payload. A session is kept as the broker says, unless
//! `SESSION_EXPIRY` is 0.
//!
//! # Trusted properties
//! The headers of ours that count attempts and explain dead letters are not believed in received messages. The topic of a message
//! is the topic name, for which the broker checked the permission of its publisher; with an `ENVELOPE` of CloudEvents or petisco it
//! is in the event itself: everyone who may publish chooses it.

mod client;
mod connection;
mod failure;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod gate;
mod inbox;
mod incoming;
mod messenger;
mod names;
mod one_cluster;
mod outgoing;
mod replies;
mod requester;
mod retain;
mod session;
mod settings;
mod settle;
mod source;
mod source_context;
mod source_worker;
mod subscription;
mod translate;
mod translated;

pub use self::messenger::Mqtt;
pub use self::requester::MqttRequester;
pub use self::retain::{is_retained, retain};
pub use self::settings::{MqttSettings, MqttVersion};
pub use self::source::MqttSource;
pub use self::subscription::MqttSubscription;
pub use crate::backends::brokers::{BrokerSettings, BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

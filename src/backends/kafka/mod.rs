//! Kafka: a messenger and a source for a cluster.
//!
//! The feature `kafka` needs Rust 1.95, as its client library does.
//!
//! # Sending
//! [`Kafka`] publishes with an idempotent producer and `acks=all`, with a window of messages that await their confirm. The name at Kafka
//! is the topic, with `TOPIC_PREFIX` before it. `URLS` are brokers of one cluster, from which the client learns the others.
//!
//! ```
//! use tower_outbox::kafka::{Kafka, KafkaSettings};
//! use tower_outbox::{Message, Messenger};
//!
//! # async fn example() -> Result<(), tower_outbox::BoxError> {
//! let messenger = Kafka::new(&KafkaSettings::new(["kafkas://user:password@kafka.example.com"]))?;
//! messenger.send(vec![Message::json("order.created", &7)?.with_key("order-7")]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | answer of the cluster | result |
//! |---|---|
//! | all replicas in sync have it, or had it before | confirmed |
//! | the topic is missing, and was not created | [`Rejected`](crate::messenger::Failure::Rejected), naming the cure |
//! | too large, its time too far away, against the rules of the topic, no permission | [`Rejected`](crate::messenger::Failure::Rejected) |
//! | too few replicas in sync, no leader, no answer within `SEND_TIMEOUT` | [`Transient`](crate::messenger::Failure::Transient) |
//!
//! - **The key chooses the partition**, by the hash of Kafka's own clients: messages with the same key are in one partition, in order.
//!   Messages without a key go to any, so that those of a topic with several partitions have no order.
//! - **A lost or late answer makes no duplicate** within `SEND_TIMEOUT`: the client sends again, and the brokers know the message. After
//!   that it is unknown whether the message is stored. Then the producer ends, and what waited in it is not sent. A request that is on its way at that
//!   moment may still arrive, half of `SEND_TIMEOUT` later at most: the message is there twice then.
//! - **A refusal blames one message**: when the brokers refuse a batch of records, each of them is sent again alone.
//! - **Kafka delays and expires no single messages**: such ones are rejected at `enqueue`, and so are those with a topic that is no name
//!   for Kafka (ASCII letters, digits, `.`, `_`, `-`; at most 249 bytes) or more than `MAX_MESSAGE_BYTES`.
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `SASL_MECHANISM` | `plain`, `scram-sha-256` or `scram-sha-512`, for user and password in `URLS` | `plain` |
//! | `MAX_MESSAGE_BYTES` | the largest message that the brokers take (`message.max.bytes`) | 1,048,588 |
//! | `COMPRESSION` | `none`, `gzip`, `snappy` or `lz4` | `none` |
//! | `AUTO_CREATE_TOPICS` | whether the brokers are asked to create missing topics | true |
//! | `CLIENT_ID` | the name that operators see | `tower-outbox` |
//!
//! | on the wire | part of a message |
//! |---|---|
//! | topic, key, value, timestamp (milliseconds) | topic, key, body, time |
//! | header `content-type` | content type |
//! | headers `tower-outbox-id`, `tower-outbox-time` (RFC 3339) | id, time |
//! | other headers | headers, as texts |
//! | header `tower-outbox-types` | the types of headers that are no texts, as JSON: `{"number": "int"}` |
//! | header `tower-outbox-priority` | priority; Kafka has no priorities |
//!
//! With `ENVELOPE = "cloudevents"` the attributes of an event are headers that begin with `ce_`, as the Kafka binding of CloudEvents says.
//!
//! # Receiving
//! [`KafkaSource`] is a member of a consumer group, whose members share the partitions.
//!
//! | settlement | effect |
//! |---|---|
//! | [`ack`](crate::source::Unsettled::ack) | the offset is settled |
//! | [`retry`](crate::source::Unsettled::retry) | the message waits here; with `RETRY_TOPIC` it is published there, and then its offset is settled |
//! | dropped, or [`release`](crate::source::Unsettled::release) | the message is the next one here |
//! | [`reject`](crate::source::Unsettled::reject) | the message is published to `DEAD_LETTER_TOPIC` with its reason; after the confirm its offset is settled |
//!
//! | key of a consumer | meaning | default |
//! |---|---|---|
//! | `GROUP` | the consumer group | – |
//! | `TOPICS` | topics, after `TOPIC_PREFIX` | – |
//! | `ONLY_NEW` | a group without offsets begins with the messages that come after it | false |
//! | `ORDERED` | a message is given when the one before it in its partition is settled | false |
//! | `PREFETCH`, `PREFETCH_BYTES` | how much may be unsettled here | 6,000, 64 MiB |
//! | `RETRY_TOPIC` | where retries go, such as `{topic}.retry` | none: they wait here |
//! | `DEAD_LETTER_TOPIC` | where dead letters go | `{topic}.dead` |
//! | `MAX_UNCOMMITTED` | how far a partition is read beyond its first unsettled message | 10,000 |
//! | `COMMIT_INTERVAL` | how long after a settlement its offset is committed | 200 ms |
//! | `SESSION_TIMEOUT` | when the partitions of a process that is gone go to others | 30 s |
//!
//! - **Kafka knows one offset of a partition**: it is committed up to the first message that is not settled. A process that takes a
//!   partition over receives again what comes after that offset: the unsettled messages, those after them, at most
//!   `MAX_UNCOMMITTED` of a partition, and what was settled within `COMMIT_INTERVAL`.
//! - **A partition that goes to another process** is given after the handlers of its messages have ended, for at most 5 seconds, and the
//!   offset is committed before. Later settlements of these messages fail, as they are received there.
//! - **Attempts are counted in this process**, with `RETRY_TOPIC` in the message. After a restart a message that waited here begins with
//!   its first attempt.
//! - **A message that waits for its retry does not delay others**, up to 1,000 of them and `PREFETCH_BYTES`; with `ORDERED` it delays those of
//!   its partition.
//! - **A batch of records that the client library cannot read** becomes one dead letter with its place, its reason and without content.
//!   It is read three times before, as it may be damaged on its way, while other partitions go on. One whose header claims to have
//!   billions of records is passed too.
//! - **A record with more than 1,000 headers** becomes a dead letter with the first 1,000 of them.
//! - **Messages of transactions** are received after their commit, and never when they are aborted. A transaction that stays open delays
//!   the messages after it in its partitions.
//! - **Every group with a `RETRY_TOPIC`** needs topics of its own there, or reads and skips the retries of other groups.
//! - A key or a value of a header that is not UTF-8 is given in base64. Of several headers with one name the first counts. A record
//!   without a value has an empty body.
//!
//! # Requests
//! Kafka has none: a client of the bus is refused at the start.
//!
//! # Trusted headers
//! The headers of ours that count attempts and explain dead letters are not believed in received messages, but for those in the
//! topic of the group's own retries: give nobody else the right to write there.

mod client;
mod connection;
mod failure;
mod inbox;
mod inbox_state;
mod incoming;
mod letter;
mod messenger;
mod names;
mod offsets;
mod outgoing;
mod revoking;
mod sasl_mechanism;
mod scalars;
mod security;
mod settings;
mod settle;
mod source;
mod source_context;
mod source_worker;
mod subscription;
mod unreadable;

pub use self::messenger::Kafka;
pub use self::sasl_mechanism::SaslMechanism;
pub use self::settings::{Compression, KafkaSettings};
pub use self::source::KafkaSource;
pub use self::subscription::KafkaSubscription;
pub use crate::backends::brokers::{BrokerSettings, BrokersError, Sasl, UrlError};
pub use crate::tls::TlsError;

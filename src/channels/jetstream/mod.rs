//! The engine on NATS with JetStream, which several processes share. It needs NATS 2.12 or newer.
//!
//! - **A queue** is a stream with one durable consumer. Each message has a subject of its own. The engine deletes a message that is settled;
//!   a rejected one is stored again at its subject, and so replaces itself at the tail, if it is still there.
//! - **A receive** requests messages from the consumer. Who holds which message is known here; the server hears every few seconds that this
//!   engine still has them, and delivers those of an engine that is silent for `ACK_WAIT` again.
//! - **Delayed messages** are schedules in a stream of their own, which the engines send to their queues when they are due.
//! - **A stream** is a stream, and a subscription a consumer of it.
//! - **Events and requests** are messages that no stream keeps, with queue groups and inboxes.
//!
//! | module | content |
//! |---|---|
//! | `engine`, `settings`, `error` | the engine and its administration, its settings and errors |
//! | `connection` | requests that are made again when their connection is lost |
//! | `parts`, `opening`, `in_use`, `info` | what handles and tasks share, and the channels in use |
//! | `queues`, `receiving`, `settling`, `held`, `message`, `raw` | queues |
//! | `delayed` | delayed messages |
//! | `quarantine`, `suspects` | messages that the client library cannot read |
//! | `forgotten` | messages that the server forgot to deliver |
//! | `streams`, `subscription`, `consumer`, `outstanding`, `sharing` | streams |
//! | `lease`, `leases` | durable names in use |
//! | `live`, `requests`, `responders`, `answering` | events and requests |
//! | `pull`, `returning`, `keeper` | requests for messages, their return, and the signs that they are here |
//! | `names`, `wire` | names of channels and fields of messages as NATS has them |

mod answering;
mod connection;
mod consumer;
mod delayed;
mod engine;
mod error;
mod forgotten;
mod held;
mod in_use;
mod info;
mod keeper;
mod lease;
mod leases;
mod live;
mod message;
mod names;
mod opening;
mod outstanding;
mod parts;
mod pull;
mod quarantine;
mod queues;
mod raw;
mod receiving;
mod requests;
mod responders;
mod returning;
mod settings;
mod settling;
mod sharing;
mod streams;
mod subscription;
mod suspects;
mod wire;

pub use self::engine::JetstreamEngine;
pub use self::error::JetstreamError;
pub use self::settings::JetstreamEngineSettings;
pub use crate::backends::brokers::{BrokerSettings, BrokersError, UrlError};

//! KubeMQ's gRPC interface over channels: unmodified KubeMQ SDKs use an [`Engine`](crate::channels::Engine) as their server.
//!
//! [`Kubemq::into_router`] gives an axum `Router` to merge into an app; [`Kubemq::serve`] serves it alone. The command
//! `tower-outbox serve --kubemq 127.0.0.1:50000 --data DIR` does that with the embedded engine.
//!
//! # Security
//! TLS with client certificates, and bearer tokens, prove the name of a client; grants say which channels that name may use. A
//! listener that other machines can reach does not start without one of these, unless the settings allow it.
//!
//! # Differences from the real server
//! Error codes, texts and defaults are those of KubeMQ Community 2.4.0, but for these differences:
//!
//! | call | KubeMQ 2.4.0 | here |
//! |---|---|---|
//! | receive, peek, ack all | wait the whole time unless as many messages as wanted are there | return when there is one; `WHOLE_WAITS` brings the whole wait back |
//! | `MD5OfBody` | empty | filled |
//! | queries with a cache key | never cached | cached for their TTL, up to 64 MiB |
//! | reject, resend, modify, dead letter | two steps, between which a crash loses the message | one record |
//! | an open transaction with room | swallows new messages | takes no new messages |
//! | what an open transaction holds, after a restart | lost to all | back at its place |
//! | QueuesUpstream, many requests | stored and answered in any order | stored and answered in their order |
//! | NAckAll, ReQueueAll | copies in any order | copies in the order of the messages |
//! | a slow subscriber of an event store | loses events after 2 s | is paced |
//! | start at a time | nanoseconds | nanoseconds, or what newer SDKs send: seconds |
//! | an unknown store type | delivers nothing | Error 111 |
//! | create, list and delete channels | time out | done |
//! | MaxItems, and a list of messages | without a limit | 1,024 messages a receive, 16,384 a batch |
//! | ids, metadata, tags | without a limit | 1,024 bytes, 1 MiB, 1,024 tags |

mod access;
mod cache;
mod check;
mod convert;
mod counters;
mod downstream;
mod error;
mod events;
mod extras;
mod face;
mod fault;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod kinds;
mod limits;
mod listener;
mod management;
mod peer;
mod pending;
mod queues;
mod report;
mod requests;
mod router;
mod service;
mod settings;
mod streams;
mod tokens;
mod transactions;
mod upstream;
mod visibility;
mod worked;

pub use self::error::KubemqError;
pub use self::router::Kubemq;
pub use self::settings::{Grant, Settings, TokenAlgorithm};
pub use crate::tls::TlsError;

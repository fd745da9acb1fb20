//! KubeMQ's gRPC interface: messages, client and server, generated from `proto/kubemq.proto`.
//!
//! A test writes the code anew and compares, so that users of the crate compile no generator. Not for users.
#![allow(
    clippy::pedantic,
    clippy::nursery,
    clippy::or_fun_call,
    clippy::use_self,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    reason = "generated"
)]

pub mod bounded;
#[rustfmt::skip]
mod generated;
mod shapes;

pub use self::generated::*;

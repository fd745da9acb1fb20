//! NATS with JetStream against nats-server.
//!
//! Those that need brokers are ignored by default; `scripts/test` starts the brokers and runs all.

pub mod cluster;
mod cluster_failover;
mod delays;
mod failover;
pub mod old_server;
mod on_their_way;
mod order;
pub mod raw;
pub mod receiving;
mod refused;
mod requests;
mod settings;
mod strangers;
mod topology;
mod wire;

//! Kafka against Tansu, a broker with its protocol that each test starts for itself.
//!
//! Tansu keeps its data in memory: what a test needs after a fault is not in a broker that was killed. Those that need brokers are
//! ignored by default; `scripts/test` installs Tansu and runs all.

mod batch;
mod chaos;
mod failover;
mod faults;
mod groups;
mod proxy;
pub mod raw;
mod receiving;
mod refused;
pub mod server;
mod settings;
mod transactions;
mod unreadable;
mod wire;

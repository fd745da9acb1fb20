//! MQTT 5 against mosquitto.
//!
//! Those that need brokers are ignored by default; `scripts/test` starts the brokers and runs all.

mod failover;
mod generations;
mod hostile;
pub mod raw;
mod receiving;
mod refused;
mod replies;
mod settings;
mod wire;

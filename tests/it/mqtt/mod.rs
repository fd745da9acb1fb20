//! MQTT 5 against mosquitto, and MQTT 3.1.1.
//!
//! Tests that need brokers are ignored by default; `scripts/test` starts the brokers and runs all.

mod calls;
mod failover;
mod generations;
mod hostile;
mod older;
pub mod raw;
mod receiving;
mod refused;
mod replies;
mod settings;
mod wire;

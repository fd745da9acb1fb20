//! AMQP 0-9-1 against RabbitMQ, and Fedora Messaging against its own consumer, publisher and recorder.
//!
//! Tests that need brokers are ignored by default; `scripts/test` starts the brokers and runs all.

mod fedora;
pub mod receiving;
mod refused;
mod requests;
mod settings;
mod wire;

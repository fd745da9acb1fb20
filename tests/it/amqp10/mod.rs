//! AMQP 1.0 against real brokers, and against a Proton peer for what a broker cannot be made to do.
//!
//! These tests need brokers and are ignored by default; `scripts/test` starts the brokers and runs all.

mod arrival;
mod outcomes;
mod receiving;
mod refused;
mod requests;
mod sasl;
mod settings;
mod tls;
mod unreachable;
mod wire;

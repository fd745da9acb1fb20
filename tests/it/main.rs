//! Behaviour through the public API.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod amqp10;
mod background;
mod bus;
mod cancellation;
mod conformance;
mod examples;
mod layer;
mod queue;
mod settings_example;
mod support;
mod telemetry;
mod tower_stacks;
mod types;

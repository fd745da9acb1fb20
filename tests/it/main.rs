//! Behaviour through the public API.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod admin;
mod amqp091;
mod amqp10;
mod background;
mod bus;
mod cancellation;
mod chaos;
mod cli;
mod cloudevents;
mod conformance;
mod corpora;
mod crash;
mod databases;
mod examples;
mod failover;
mod fallback;
mod faults;
mod hostile;
mod layer;
mod manifest;
mod migrations;
mod outbox;
mod peers;
mod petisco;
mod queue;
mod relays;
mod settings_example;
mod sources;
mod stores;
mod support;
mod telemetry;
mod tower_stacks;
mod tx;
mod types;

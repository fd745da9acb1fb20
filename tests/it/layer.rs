//! The promises of [`tower_outbox::MessagingLayer`], row by row.

mod admission;
mod always;
mod enrich;
mod failures;
mod nesting;
mod order;
mod outcomes;
mod sending;

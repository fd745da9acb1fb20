//! What [`tower_outbox::MessagingLayer`] promises, row by row.

mod admission;
mod always;
mod enrich;
mod failures;
mod nesting;
mod outcomes;
mod sending;

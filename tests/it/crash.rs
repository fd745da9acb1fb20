//! Processes that die at any moment: what was acknowledged leaves all the same.

mod app;
mod chaos;
mod consumer;
pub mod ledger;
mod load;
mod points;
mod queue;
pub mod random;
mod session;

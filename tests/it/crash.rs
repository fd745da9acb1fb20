//! Processes that die at any moment: what was acknowledged leaves all the same.

mod app;
mod chaos;
mod consumer;
mod ledger;
mod load;
mod points;
mod queue;
mod random;

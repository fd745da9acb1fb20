//! Messages in the app's own SQLite file.

mod inbox;
mod insert;
mod leases;
mod migrations;
mod own_pool;
mod statements;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod watcher;
mod writers;

pub use self::store::SqliteStore;

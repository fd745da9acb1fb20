//! Messages in the app's own SQLite file.

mod dialect;
mod insert;
mod listener;
mod membership;
mod own_pool;
mod statements;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod write_permit;

pub use self::store::SqliteStore;

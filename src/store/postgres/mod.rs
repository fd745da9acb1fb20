//! Messages in the app's own Postgres.

mod dialect;
mod encoding;
mod insert;
mod listener;
mod mark;
mod membership;
mod notifier;
mod own_pool;
mod pooler;
mod read_only;
mod statements;
mod store;
mod tables;

pub use self::store::PostgresStore;

//! Messages in the app's own Postgres.

mod encoding;
mod inbox;
mod insert;
mod leases;
mod listener;
mod migrations;
mod own_pool;
mod pooler;
mod shedder;
mod statements;
mod store;
mod tables;
mod teller;

pub use self::store::PostgresStore;

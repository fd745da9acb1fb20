//! The databases that have transactions for requests.

use std::any::Any;

use sqlx::Database;

use crate::store::{Dialect, SqlStore, Store};

/// A database that has transactions for requests: `sqlx::Postgres` and `sqlx::Sqlite`.
#[allow(private_bounds, reason = "no other crate can add a database")]
pub trait TxDatabase: Database + Dialect {}

impl<DB: Dialect> TxDatabase for DB {}

/// Returns the store of an outbox, if it is in this database.
pub(super) fn find<DB: Dialect>(store: &dyn Store) -> Option<SqlStore<DB>> {
    let any: &dyn Any = store;
    any.downcast_ref().cloned()
}

/// Whether another try may pass.
pub(super) fn is_transient<DB: Dialect>(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| DB::is_transient(&code)),
        _ => false,
    }
}

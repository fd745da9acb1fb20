//! The databases that have transactions for requests.

use std::any::Any;
use std::future::Future;

use sqlx::{Database, Pool};
use uuid::Uuid;

use crate::message::Message;
use crate::store::Store;
use crate::store::{Inserted, Turn};

/// A database that has transactions for requests: `sqlx::Postgres` and `sqlx::Sqlite`.
#[allow(private_bounds, reason = "nobody else implements it")]
pub trait TxDatabase: Database + Sealed {}

impl<DB: Sealed> TxDatabase for DB {}

/// What differs between the databases.
pub(crate) trait Sealed: Database {
    const NAME: &'static str;
    type Store: Clone + Send + Sync + 'static;

    fn pool(store: &Self::Store) -> &Pool<Self>;

    /// The turn to write, where there is one writer at a time; it is held until the transaction is over.
    fn turn(store: &Self::Store) -> impl Future<Output = Result<Turn, sqlx::Error>> + Send;

    /// The statement that begins a transaction.
    fn begin() -> sqlx::SqlStr;

    /// Whether the database has ended the transaction by itself; one that is empty is then in its place.
    fn is_over(connection: &mut Self::Connection) -> impl Future<Output = bool> + Send;

    /// Puts messages into the outbox; fails if the transaction cannot be committed any more. Removes those that were
    /// stored by an earlier try of the request.
    fn insert(
        store: &Self::Store,
        connection: &mut Self::Connection,
        messages: &mut Vec<Message>,
    ) -> impl Future<Output = Result<Option<Inserted>, sqlx::Error>> + Send;

    /// Records that a message is handled; false when it was before.
    fn record(
        store: &Self::Store,
        connection: &mut Self::Connection,
        source: &str,
        id: Uuid,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// The transaction was rolled back: its connection may lead to a server that cannot be written any more.
    fn rolled_back(_: &Self::Store) {}

    /// Whether an error of the database with this code may pass.
    fn passes(code: &str) -> bool;

    /// The store of an outbox, if it is one of this database.
    fn find(store: &dyn Store) -> Option<Self::Store> {
        let any: &dyn Any = store;
        any.downcast_ref().cloned()
    }
}

/// Whether another try may pass.
pub(super) fn is_transient<DB: Sealed>(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| DB::passes(&code)),
        _ => false,
    }
}

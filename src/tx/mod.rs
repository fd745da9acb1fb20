//! The transaction of a request, in the app's own database.

mod database;
mod open;
mod persist;
mod rejection;

use std::fmt;
use std::ops::{Deref, DerefMut};

use axum_core::extract::FromRequestParts;
use http::request::Parts;

pub use self::database::TxDatabase;
use self::database::find;
use self::open::Open;
pub use self::persist::PersistError;
#[cfg(feature = "settings")]
pub(crate) use self::persist::persist;
pub use self::rejection::TxRejection;
use crate::queue::MessageQueue;
use crate::queue::transaction::TransactionSlot;
use crate::source::delivery::Delivery;
use crate::store::Dialect;
use crate::telemetry;

/// The database transaction of a request, an extractor: the rows that a handler writes through it and the messages
/// that it enqueues are committed together, by one COMMIT, before the client gets the head of the response.
///
/// It begins when it is first extracted, on the pool of the [`PostgresStore`](crate::store::PostgresStore) or
/// [`SqliteStore`](crate::store::SqliteStore) of the app's [`Outbox`](crate::outbox::Outbox), and belongs to the request: later
/// extractions, for example by a middleware and then by the handler, return the same one. It derefs to the connection.
/// [`MessagingLayer`](crate::layer::MessagingLayer) ends it:
///
/// | case | rows and messages |
/// |---|---|
/// | a response that is a success, by [`with_success`](crate::layer::MessagingLayer::with_success) | the messages are put into the outbox in this transaction, which is committed; then the client gets the head |
/// | storing the messages or COMMIT fails | neither; the client gets 503 with `Retry-After` when another try may succeed (connection lost, read-only or shutting down, time limit, serialization failure, deadlock, SQLite busy), else 500 |
/// | any other response, an error, a panic, a timeout outside, the client gone before the handler is done | neither: ROLLBACK |
/// | the client gone while it is committed | both: COMMIT continues in a task that shutdown waits for; the connections of the pool limit the number of such tasks |
/// | a `Tx` is still alive when a response that is a success is ready, in a spawned task or a streaming body | neither; the client gets 500, and an error with the cure is logged |
/// | the connection is lost during COMMIT, or COMMIT takes more than 30 seconds | both or neither; the client gets 503 |
/// | begun in a call of an inner layer that fails, while the outer one answers with a success | neither; another call, for example of a retry layer between the two, begins a new one |
/// | used in such a call and outside of it | neither; the client gets 500, and an error with the cure is logged |
/// | enqueued through [`always`](MessageQueue::always) | these messages are sent in any case, if necessary after the ROLLBACK |
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use axum::{Router, http::StatusCode, routing::post};
/// use sqlx::sqlite::{Sqlite, SqlitePool};
/// use tower_outbox::store::{SqlStoreSettings, SqliteStore};
/// use tower_outbox::dummy::Dummy;
/// use tower_outbox::outbox::{Outbox, RelaySettings};
/// use tower_outbox::{Message, MessageQueue, MessagingLayer, Tx};
///
/// async fn create_user(mut tx: Tx<Sqlite>, queue: MessageQueue, name: String) -> StatusCode {
///     let inserted = sqlx::query("INSERT INTO users (name) VALUES (?)").bind(&name).execute(&mut *tx).await;
///     if inserted.is_err() {
///         return StatusCode::CONFLICT; // neither the row nor the event
///     }
///     match Message::json("user.created", &name).map(|message| queue.enqueue(message)) {
///         Ok(Ok(_)) => StatusCode::CREATED, // both
///         _ => StatusCode::INTERNAL_SERVER_ERROR, // neither
///     }
/// }
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("app.db")).create_if_missing(true);
/// let pool: SqlitePool = // ..
/// #     SqlitePool::connect_with(options).await?;
/// # sqlx::query("CREATE TABLE users (name TEXT UNIQUE)").execute(&pool).await?;
/// let settings = SqlStoreSettings::default();
/// SqliteStore::migrate(&pool, &settings).await?;
/// let store = SqliteStore::open(pool, &settings).await?;
/// let (outbox, relay) = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default());
/// // .. run the relay ..
/// # drop(relay);
/// let app: Router = Router::new().route("/users", post(create_user)).layer(MessagingLayer::new(outbox));
/// # use tower::ServiceExt;
/// # for status in [201, 409] {
/// #     let request = axum::http::Request::post("/users").body("Jo".to_owned()).unwrap();
/// #     assert_eq!(app.clone().oneshot(request).await?.status(), status);
/// # }
/// # Ok::<(), tower_outbox::BoxError>(())
/// # }).unwrap();
/// ```
///
/// # What it is begun with
/// Postgres: `BEGIN`, and `SET LOCAL tower_outbox.tx = 'on'` in the same round trip; the setting ends with the transaction, and
/// shows that it is over. For another isolation level, make `SET TRANSACTION ISOLATION LEVEL ..` the first statement; in a
/// handler of a consumer, where something was written before, set `default_transaction_isolation` in the options of the pool.
/// SQLite: `BEGIN IMMEDIATE`, since one connection writes at a time: a request that holds a `Tx` keeps other writers
/// waiting, those of this crate for at most the pool's `acquire_timeout`, first come, first served. So a handler that has a
/// `Tx` should not wait for something else that writes, as for a message that it sends past its queue: that fails when the
/// time is over.
///
/// Do not end it by hand, with `COMMIT` or `ROLLBACK`; savepoints (`sqlx::Acquire::begin`) are fine. Such an end is found: the
/// messages do not leave, the client gets 500, and an error is logged that says the cure. In Postgres a statement that fails
/// spoils the transaction: with a response that is a success all the same, the client gets 500.
///
/// # A message that is delivered again
/// In a request made by a [`Consumer`](crate::consumer::Consumer) the id of the message is recorded in the same transaction. When it
/// was handled before, the handler does not run: the extractor answers 200, and the message is acknowledged. A message is the
/// same if it came from the same queue, with the same id, and with the same `source` of CloudEvents and `app-id`, where it has
/// these; an id that is no UUID counts for its topic and `app-id` (0-9-1) or `user-id` (1.0) only. So publishers that number
/// their messages from 1 do not hide each other's. But a publisher that may write to the queue can send the id and source of
/// another: where you do not trust them all, give each a queue or exchange of its own. Of two
/// deliveries at the same time one waits for the other. Ids are remembered for
/// [`inbox_retention`](crate::store::SqlStoreSettings::inbox_retention).
pub struct Tx<DB: TxDatabase> {
    /// None only while it is dropped.
    open: Option<Box<Open<DB>>>,
    queue: MessageQueue,
}

impl<DB: TxDatabase> Tx<DB> {
    async fn of(parts: &Parts) -> Result<Self, TxRejection> {
        let queue: MessageQueue = parts.extensions.get().cloned().ok_or(TxRejection::MissingLayer)?;
        let store = queue.outbox().and_then(|outbox| find::<DB>(&**outbox.store()));
        let store = store.ok_or(TxRejection::NoOutbox { database: <DB as Dialect>::NAME })?;
        let taken = match queue.take_transaction().ok_or(TxRejection::Closed)? {
            TransactionSlot::Empty => None,
            TransactionSlot::Idle(transaction) => Some(transaction),
            TransactionSlot::InUse => return Err(TxRejection::Held),
            TransactionSlot::AlreadyHandled => return Err(TxRejection::AlreadyHandled),
        };
        let mut guard = SlotGuard { queue: &queue, slot: TransactionSlot::Empty };
        let open = match taken {
            Some(transaction) => {
                let transaction: Box<dyn std::any::Any> = transaction;
                // One outbox has one database, so the transaction is of this kind.
                transaction
                    .downcast()
                    .map_err(|_| TxRejection::NoOutbox { database: <DB as Dialect>::NAME })?
            }
            None => {
                let mut open = Open::begin(store).await.map_err(TxRejection::of::<DB>)?;
                if let Some(delivery) = parts.extensions.get::<Delivery>()
                    && !open.record(delivery).await.map_err(TxRejection::of::<DB>)?
                {
                    telemetry::already_handled(delivery.message(), delivery.source());
                    guard.slot = TransactionSlot::AlreadyHandled;
                    drop(queue.in_flight().try_spawn(open.undo()));
                    return Err(TxRejection::AlreadyHandled);
                }
                Box::new(open)
            }
        };
        std::mem::forget(guard);
        Ok(Self { open: Some(open), queue })
    }
}

/// Puts the slot back when no transaction was begun.
struct SlotGuard<'a> {
    queue: &'a MessageQueue,
    slot: TransactionSlot,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.queue.put_back(std::mem::take(&mut self.slot));
    }
}

impl<S: Sync, DB: TxDatabase> FromRequestParts<S> for Tx<DB> {
    type Rejection = TxRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::of(parts).await
    }
}

impl<DB: TxDatabase> Deref for Tx<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        self.open.as_ref().expect("it is not dropped").connection()
    }
}

impl<DB: TxDatabase> DerefMut for Tx<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.open.as_mut().expect("it is not dropped").connection_mut()
    }
}

impl<DB: TxDatabase> Drop for Tx<DB> {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.queue.put_back(TransactionSlot::Idle(open));
        }
    }
}

impl<DB: TxDatabase> fmt::Debug for Tx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("database", &<DB as Dialect>::NAME).finish_non_exhaustive()
    }
}

//! Storing messages in a transaction that the app began itself.

use axum_core::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use sqlx::Connection;

use super::database::{TxDatabase, find, is_transient};
use crate::message::Message;
#[cfg(feature = "settings")]
use crate::messenger::Messenger;
use crate::messenger::OutboxStore;
use crate::queue::MessageQueue;
use crate::store::{Dialect, PendingInsert, SqlStore};
use crate::telemetry;
#[cfg(feature = "settings")]
use crate::trace;
use crate::util::error::{BoxError, Chain, debug_as_display};

impl MessageQueue {
    /// Puts the messages enqueued so far into the outbox, in the transaction of this connection, for apps that begin and
    /// commit their transactions themselves; returns how many messages are stored. They are sent when that transaction is
    /// committed, whatever the response is, and not if it is rolled back.
    ///
    /// The outbox counts these messages against its limits some seconds later, so it may hold more than its limits until
    /// then.
    ///
    /// Inside two nested layers these are the messages of the inner call. Messages enqueued through
    /// [`always`](Self::always) stay in the queue, since they are sent also when the transaction is rolled back. The hook
    /// [`with_enrich`](crate::layer::MessagingLayer::with_enrich) does not see persisted messages.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # mod example {
    /// use sqlx::PgPool;
    /// use tower_outbox::{BoxError, Message, MessageQueue};
    ///
    /// async fn create_user(pool: PgPool, queue: MessageQueue, name: String) -> Result<(), BoxError> {
    ///     let mut transaction = pool.begin().await?;
    ///     sqlx::query("INSERT INTO users (name) VALUES ($1)").bind(&name).execute(&mut *transaction).await?;
    ///     queue.enqueue(Message::json("user.created", &name)?)?;
    ///     queue.persist(&mut *transaction).await?;
    ///     transaction.commit().await?;
    ///     Ok(())
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PersistError`]; the messages are in the queue again.
    ///
    /// # Cancel safety
    /// Dropping the future puts the messages back into the queue, and some may be in the transaction too: roll it back, or
    /// they are sent twice, with the same ids.
    pub async fn persist<C>(&self, connection: &mut C) -> Result<usize, PersistError>
    where
        C: Connection<Database: TxDatabase<Connection = C>>,
    {
        let store = check(self.outbox(), connection)?;
        let messages = self.take_messages().ok_or(PersistError::Closed)?;
        let mut returned = Returned { queue: self, messages };
        let mut new = returned.messages.clone();
        let inserted = insert(&store, connection, &mut new, false).await?;
        returned.messages.clear();
        if let Some(inserted) = inserted {
            self.keep_until_decided(Box::new(Undecided(Some(inserted))));
        }
        Ok(new.len())
    }
}

/// Puts messages into the outbox in the transaction of this connection, outside a request; returns how many are stored.
#[cfg(feature = "settings")]
pub(crate) async fn persist<C>(
    messenger: &dyn Messenger,
    connection: &mut C,
    mut messages: Vec<Message>,
) -> Result<usize, PersistError>
where
    C: Connection<Database: TxDatabase<Connection = C>>,
{
    let store = check(messenger.capabilities().outbox.as_ref(), connection)?;
    messages.iter_mut().for_each(trace::attach);
    messages.iter().try_for_each(|message| messenger.check(message)).map_err(PersistError::Rejected)?;
    // The database notifies the relays of the COMMIT.
    if let Some(inserted) = insert(&store, connection, &mut messages, true).await? {
        inserted.unknown();
    }
    Ok(messages.len())
}

/// Returns the store of the outbox, if it is in the database of this connection, which is in a transaction.
fn check<C>(outbox: Option<&OutboxStore>, connection: &C) -> Result<SqlStore<C::Database>, PersistError>
where
    C: Connection<Database: TxDatabase<Connection = C>>,
{
    let store = outbox.and_then(|outbox| find::<C::Database>(&**outbox.store()));
    let store = store.ok_or(PersistError::NoOutbox { database: <C::Database as Dialect>::NAME })?;
    if connection.is_in_transaction() { Ok(store) } else { Err(PersistError::NoTransaction) }
}

/// Stores the messages, and removes those that an earlier try stored. With `notify`, the COMMIT notifies the relays.
async fn insert<C>(
    store: &SqlStore<C::Database>,
    connection: &mut C,
    messages: &mut Vec<Message>,
    notify: bool,
) -> Result<Option<PendingInsert>, PersistError>
where
    C: Connection<Database: TxDatabase<Connection = C>>,
{
    if messages.is_empty() {
        return Ok(None);
    }
    let inserted = async {
        store.prepare(connection, notify).await?;
        store.insert(connection, messages).await
    };
    inserted.await.map_err(|error| match is_transient::<C::Database>(&error) {
        true => PersistError::Unavailable(error.into()),
        false => PersistError::Failed(error.into()),
    })
}

/// Messages that are committed by the app, or not, before the response is decided.
struct Undecided(Option<PendingInsert>);

impl Drop for Undecided {
    fn drop(&mut self) {
        if let Some(inserted) = self.0.take() {
            inserted.unknown();
        }
    }
}

/// Messages that return to their queue when this is dropped.
struct Returned<'a> {
    queue: &'a MessageQueue,
    messages: Vec<Message>,
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        let late = self.queue.put_back_messages(std::mem::take(&mut self.messages));
        if !late.is_empty() {
            telemetry::dropped(late.len(), "persist");
        }
    }
}

/// Why messages were not put into the outbox by [`MessageQueue::persist`] or `Bus::persist`. As a response it is a 503 with `Retry-After`
/// when another try may pass, else a 500; the body does not give the details.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PersistError {
    /// The response is decided.
    #[error("the queue is closed: the response is already decided; persist before the handler returns")]
    Closed,
    /// The connection is in no transaction.
    #[error("the connection is in no transaction: begin one with sqlx, and commit it after persist")]
    NoTransaction,
    /// The messages of the layer do not go through an outbox in this database.
    #[error(
        "the messenger of MessagingLayer is no outbox in {database}: set DELIVERY = \"transactional\" with this database, or give the layer an Outbox with a {database}Store"
    )]
    NoOutbox {
        /// Of which database the connection is.
        database: &'static str,
    },
    /// The broker can never accept one of the messages.
    #[error("a message can never be sent; no message was stored")]
    Rejected(#[source] BoxError),
    /// The database cannot store now, and may the next time: roll the transaction back.
    #[error("the messages cannot be stored now; roll the transaction back")]
    Unavailable(#[source] BoxError),
    /// The database refused: roll the transaction back.
    #[error("the messages could not be stored; roll the transaction back")]
    Failed(#[source] BoxError),
}

debug_as_display!(PersistError);

impl IntoResponse for PersistError {
    fn into_response(self) -> Response {
        if let Self::Unavailable(_) = &self {
            tracing::warn!(error = %Chain(&self), "messages not stored");
            let after = [(RETRY_AFTER, HeaderValue::from_static("5"))];
            return (StatusCode::SERVICE_UNAVAILABLE, after).into_response();
        }
        tracing::error!(error = %Chain(&self), "messages not stored");
        (StatusCode::INTERNAL_SERVER_ERROR, "the events of this request could not be stored").into_response()
    }
}

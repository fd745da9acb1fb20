//! Storing messages in a transaction that the app has begun itself.

use axum_core::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use sqlx::Connection;

use super::database::{Sealed, TxDatabase, is_transient};
use crate::message::Message;
use crate::queue::MessageQueue;
use crate::store::Inserted;
use crate::telemetry;
use crate::util::error::{BoxError, Chain, debug_as_display};

impl MessageQueue {
    /// Puts what is enqueued so far into the outbox, in the transaction of this connection, for apps that begin and commit
    /// their transactions themselves; gives how many messages that are. They leave when that transaction is committed,
    /// whatever the response is, and not if it is rolled back.
    ///
    /// Only the app knows whether that is committed, so the limits of the outbox know of these messages when it has counted
    /// them, some seconds later: until then there may be more than it is to hold.
    ///
    /// Inside of two nested layers these are the messages of the inner call. Messages enqueued through
    /// [`always`](Self::always) stay in the queue, as they leave also when the transaction is rolled back. What completes messages by the response ([`with_enrich`](crate::layer::MessagingLayer::with_enrich)) does not
    /// see these.
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
    /// Dropped, the messages are in the queue again, and some may be in the transaction too: roll it back, or they leave
    /// twice, with the same ids.
    pub async fn persist<C>(&self, connection: &mut C) -> Result<usize, PersistError>
    where
        C: Connection<Database: TxDatabase<Connection = C>>,
    {
        let store = self.outbox().and_then(|outbox| C::Database::find(&**outbox.store()));
        let store = store.ok_or(PersistError::NoOutbox { database: <C::Database as Sealed>::NAME })?;
        if !connection.is_in_transaction() {
            return Err(PersistError::NoTransaction);
        }
        let messages = self.take_messages().ok_or(PersistError::Closed)?;
        if messages.is_empty() {
            return Ok(0);
        }
        let mut taken = Returned { queue: self, messages };
        let mut new = taken.messages.clone();
        let inserted = C::Database::insert(&store, connection, &mut new).await;
        let inserted = inserted.map_err(|error| match is_transient::<C::Database>(&error) {
            true => PersistError::Unavailable(error.into()),
            false => PersistError::Failed(error.into()),
        })?;
        taken.messages.clear();
        if let Some(inserted) = inserted {
            self.hold(Box::new(Undecided(Some(inserted))));
        }
        Ok(new.len())
    }
}

/// Messages of which only the app knows whether they are committed, and that are so when the response is decided.
struct Undecided(Option<Inserted>);

impl Drop for Undecided {
    fn drop(&mut self) {
        if let Some(inserted) = self.0.take() {
            inserted.look();
        }
    }
}

/// Messages that go back to their queue.
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

/// Why messages were not put into the outbox by [`MessageQueue::persist`]. As a response it is a 503 with `Retry-After`
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

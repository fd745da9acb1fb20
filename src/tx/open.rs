//! A transaction that was begun, and not yet ended.

use std::io;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::{SqlSafeStr, Transaction as SqlTransaction};
use tokio::runtime::Handle;
use tokio::time::timeout;
use uuid::Uuid;

use super::database::{TxDatabase, is_transient};
use crate::message::Message;
use crate::messenger::Failure;
use crate::queue::transaction::Transaction;
use crate::source::delivery::Delivery;
use crate::store::{SqlStore, WritePermit};
use crate::telemetry;
use crate::util::error::Chain;

/// How long storing the messages and COMMIT may take before nobody waits for them any more.
const COMMIT: Duration = Duration::from_secs(30);

/// How long a ROLLBACK may.
const ROLLBACK: Duration = Duration::from_secs(10);

/// How far a transaction is.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Open,
    Committing,
    /// Its end is counted.
    Ended,
}

pub(super) struct Open<DB: TxDatabase> {
    /// None when it is ended.
    transaction: Option<SqlTransaction<'static, DB>>,
    store: SqlStore<DB>,
    phase: Phase,
    /// The runtime whose tasks return connections to the pool.
    runtime: Handle,
    begun: Instant,
    /// Given up after the transaction.
    _permit: WritePermit,
}

impl<DB: TxDatabase> Open<DB> {
    /// # Cancel safety
    /// Dropped, nothing is begun.
    pub(super) async fn begin(store: SqlStore<DB>) -> Result<Self, sqlx::Error> {
        let permit = store.write_permit().await?;
        let connection = store.pool().acquire().await?;
        // In a task: sqlx forgets a BEGIN that is dropped before its answer, and gives the connection to the next one as it is.
        let begin = tokio::spawn(async move {
            let transaction = SqlTransaction::begin(connection, Some(DB::BEGIN.into_sql_str())).await?;
            Ok::<_, sqlx::Error>((transaction, permit))
        });
        let (transaction, permit) = begin.await.map_err(|error| sqlx::Error::Io(error.into()))??;
        let (runtime, begun) = (Handle::current(), Instant::now());
        Ok(Self {
            transaction: Some(transaction),
            store,
            phase: Phase::Open,
            runtime,
            begun,
            _permit: permit,
        })
    }

    /// Records that the message is handled; false when it was before.
    pub(super) async fn record(&mut self, delivery: &Delivery) -> Result<bool, sqlx::Error> {
        let store = self.store.clone();
        store.record_handled(self.connection_mut(), delivery.source(), inbox_id(delivery.message())).await
    }

    pub(super) fn connection(&self) -> &DB::Connection {
        self.transaction.as_ref().expect("it is not ended")
    }

    pub(super) fn connection_mut(&mut self) -> &mut DB::Connection {
        self.transaction.as_mut().expect("it is not ended")
    }

    async fn store_and_commit(&mut self, mut messages: Vec<Message>) -> Result<usize, sqlx::Error> {
        let store = self.store.clone();
        let inserted = store.insert(self.connection_mut(), &mut messages).await?;
        if let Some(transaction) = self.transaction.take() {
            transaction.commit().await?;
        }
        let stored = messages.len();
        if let Some(inserted) = inserted {
            inserted.committed(messages);
        }
        Ok(stored)
    }

    /// Rolls back what is counted already.
    pub(super) async fn undo(mut self) {
        self.phase = Phase::Ended;
        let Some(mut transaction) = self.transaction.take() else { return };
        let undone = timeout(ROLLBACK, async move {
            DB::is_over(&mut transaction).await;
            transaction.rollback().await
        });
        let undone = undone.await;
        self.store.rolled_back();
        match undone {
            Ok(Ok(())) => {}
            // A connection that is gone takes its transaction along.
            Ok(Err(error)) => tracing::debug!(error = %Chain(&error), "ROLLBACK was not answered"),
            Err(_) => tracing::warn!("ROLLBACK takes too long: nobody waits for it any more"),
        }
    }
}

/// Returns the identity of a message in its queue: its id, and its publisher if a header names it. A message of another
/// publisher with the same id is another message. A hash of the headers always fits an index.
fn inbox_id(message: &Message) -> Uuid {
    let publishers =
        ["ce-source", "app-id"].into_iter().filter_map(|name| Some((name, message.header(name)?.as_str()?)));
    publishers.fold(message.id(), |id, (name, publisher)| {
        Uuid::new_v5(&id, format!("{name} {publisher}").as_bytes())
    })
}

#[async_trait]
impl<DB: TxDatabase> Transaction for Open<DB> {
    async fn commit(mut self: Box<Self>, messages: Vec<Message>) -> Result<usize, Failure> {
        self.phase = Phase::Committing;
        let committed = match timeout(COMMIT, self.store_and_commit(messages)).await {
            Ok(committed) => committed,
            Err(_) => Err(sqlx::Error::Io(io::Error::new(
                io::ErrorKind::TimedOut,
                "the database does not answer: rows and messages are both there, or neither",
            ))),
        };
        self.phase = Phase::Ended;
        match committed {
            Ok(stored) => {
                telemetry::committed(stored, self.begun.elapsed());
                Ok(stored)
            }
            Err(error) => {
                telemetry::commit_failed(&Chain(&error));
                let transient = is_transient::<DB>(&error);
                self.undo().await;
                Err(if transient { Failure::transient(error) } else { Failure::rejected(error) })
            }
        }
    }

    async fn roll_back(self: Box<Self>, reason: &'static str) {
        telemetry::rolled_back(reason);
        self.undo().await;
    }
}

impl<DB: TxDatabase> Drop for Open<DB> {
    fn drop(&mut self) {
        match self.phase {
            Phase::Ended => {}
            Phase::Open => telemetry::rolled_back("dropped"),
            Phase::Committing => telemetry::commit_failed(
                &"it was dropped meanwhile, by a panic, or as there is no runtime any more: rows and messages are both there, or neither",
            ),
        }
        let _runtime = self.runtime.enter();
        if let Some(transaction) = self.transaction.take() {
            drop(transaction);
            self.store.rolled_back();
        }
    }
}

//! Transactions in SQLite.

use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};
use sqlx::{SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::database::Sealed;
use crate::message::Message;
use crate::store::{Inserted, SqliteStore, Turn};

/// Why a transaction that is over cannot be committed.
const OVER: &str = "the transaction is over: the handler ended it by COMMIT or ROLLBACK, or SQLite rolled it back (RAISE(ROLLBACK), \
    a full disk); leave the end of a Tx to MessagingLayer, and use savepoints (sqlx::Acquire::begin) inside it";

impl Sealed for Sqlite {
    const NAME: &'static str = "Sqlite";
    type Store = SqliteStore;

    fn pool(store: &SqliteStore) -> &SqlitePool {
        store.pool()
    }

    async fn turn(store: &SqliteStore) -> Result<Turn, sqlx::Error> {
        store.turn().await
    }

    /// It takes the lock at once: a transaction that first reads could not write later.
    fn begin() -> SqlStr {
        "BEGIN IMMEDIATE".into_sql_str()
    }

    /// Some errors end the transaction, as `RAISE(ROLLBACK)` and a full disk; what is written then stands alone.
    async fn is_over(connection: &mut SqliteConnection) -> bool {
        sqlx::raw_sql("BEGIN").execute(connection).await.is_ok()
    }

    async fn insert(
        store: &SqliteStore,
        connection: &mut SqliteConnection,
        messages: &mut Vec<Message>,
    ) -> Result<Option<Inserted>, sqlx::Error> {
        if Self::is_over(connection).await {
            return Err(sqlx::Error::InvalidArgument(OVER.to_owned()));
        }
        store.inbox().retain_new(connection, messages).await?;
        if messages.is_empty() { Ok(None) } else { store.insert(connection, messages).await.map(Some) }
    }

    async fn record(
        store: &SqliteStore,
        connection: &mut SqliteConnection,
        source: &str,
        id: Uuid,
    ) -> Result<bool, sqlx::Error> {
        store.inbox().record(connection, source, id).await
    }

    /// `SQLITE_BUSY`, `SQLITE_LOCKED`, `SQLITE_READONLY`, `SQLITE_INTERRUPT`, `SQLITE_IOERR`, `SQLITE_FULL`, `SQLITE_CANTOPEN` and
    /// `SQLITE_PROTOCOL`, with their extensions in the higher bits.
    fn passes(code: &str) -> bool {
        code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 9 | 10 | 13 | 14 | 15))
    }
}

//! Transactions in Postgres.

use sqlx::postgres::{PgConnection, PgPool, Postgres};
use sqlx::{SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::database::Sealed;
use crate::message::Message;
use crate::store::{Inserted, PostgresStore, Turn};

impl Sealed for Postgres {
    const NAME: &'static str = "Postgres";
    type Store = PostgresStore;

    fn pool(store: &PostgresStore) -> &PgPool {
        store.pool()
    }

    async fn turn(_: &PostgresStore) -> Result<Turn, sqlx::Error> {
        Ok(None)
    }

    fn begin() -> SqlStr {
        "BEGIN".into_sql_str()
    }

    /// A transaction in which a statement has failed stays until it is rolled back.
    async fn is_over(_: &mut PgConnection) -> bool {
        false
    }

    async fn insert(
        store: &PostgresStore,
        connection: &mut PgConnection,
        messages: &mut Vec<Message>,
    ) -> Result<Option<Inserted>, sqlx::Error> {
        if messages.is_empty() {
            // COMMIT of a transaction in which a statement has failed is a ROLLBACK, and no error.
            sqlx::raw_sql("SELECT 1").execute(connection).await?;
            return Ok(None);
        }
        store.inbox().retain_new(connection, messages).await?;
        if messages.is_empty() { Ok(None) } else { store.insert(connection, messages).await.map(Some) }
    }

    async fn record(
        store: &PostgresStore,
        connection: &mut PgConnection,
        source: &str,
        id: Uuid,
    ) -> Result<bool, sqlx::Error> {
        store.inbox().record(connection, source, id).await
    }

    fn rolled_back(store: &PostgresStore) {
        store.shedder().look();
    }

    /// Connection lost, transaction rolled back by the database, read-only since a fail-over, a time limit, no resources, lock not
    /// available, shutdown, fault of the system (Postgres, appendix A).
    fn passes(code: &str) -> bool {
        matches!(code, "25006" | "25P03" | "25P04" | "40001" | "40003" | "40P01" | "55P03" | "57014")
            || ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_told_from_what_does_not() {
        for code in [
            "08006", "25006", "25P03", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "58030",
        ] {
            assert!(Postgres::passes(code), "{code}");
        }
        for code in ["22021", "22P05", "23505", "28P01", "3D000", "42501", "42P01", "54000", "XX001", ""] {
            assert!(!Postgres::passes(code), "{code}");
        }
    }
}

//! The table of trusted keys, beside the tables of an outbox.

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr};

use super::dialect::Dialect;
use super::migrate::check;
use super::settings::SqlStoreSettings;
use crate::util::error::BoxError;

/// The most keys that are read.
const MOST: usize = 10_000;

/// Public keys in PEM form by their origin, a row for each key.
#[async_trait]
pub(crate) trait KeyTable: Send + Sync + 'static {
    /// Returns origins and keys, sorted.
    async fn read(&self) -> Result<Vec<(String, String)>, BoxError>;

    /// Adds a key, unless it is there.
    async fn insert(&self, origin: &str, pem: &str) -> Result<(), BoxError>;

    /// Removes a key, if it is there.
    async fn delete(&self, origin: &str, pem: &str) -> Result<(), BoxError>;
}

struct Statements<DB: Dialect> {
    pool: Pool<DB>,
    read: SqlStr,
    insert: SqlStr,
    delete: SqlStr,
}

/// Returns the table that these settings name. It must have been made by a migration.
pub(crate) async fn key_table<DB: Dialect>(
    pool: Pool<DB>,
    settings: &SqlStoreSettings,
) -> Result<Box<dyn KeyTable>, BoxError> {
    let schema = settings.checked_schema()?;
    check::<DB>(&pool, schema).await?;
    let table = DB::KEY_TABLE.replace("{schema}", &DB::quoted(schema));
    let statement = |text: String| AssertSqlSafe(text).into_sql_str();
    Ok(Box::new(Statements {
        pool,
        read: statement(format!(
            "SELECT origin, pem FROM {table} ORDER BY origin, added_at DESC, pem LIMIT {}",
            MOST + 1
        )),
        insert: statement(format!(
            "INSERT INTO {table} (origin, pem) VALUES ($1, $2) ON CONFLICT DO NOTHING"
        )),
        delete: statement(format!("DELETE FROM {table} WHERE origin = $1 AND pem = $2")),
    }))
}

#[async_trait]
impl<DB: Dialect> KeyTable for Statements<DB> {
    async fn read(&self) -> Result<Vec<(String, String)>, BoxError> {
        let rows = DB::pairs(&self.pool, self.read.clone(), None).await?;
        match rows.len() {
            0..=MOST => Ok(rows),
            _ => Err(format!("the table of trusted keys has more than {MOST} rows: delete old ones").into()),
        }
    }

    async fn insert(&self, origin: &str, pem: &str) -> Result<(), BoxError> {
        DB::pairs(&self.pool, self.insert.clone(), Some([origin, pem])).await?;
        Ok(())
    }

    async fn delete(&self, origin: &str, pem: &str) -> Result<(), BoxError> {
        DB::pairs(&self.pool, self.delete.clone(), Some([origin, pem])).await?;
        Ok(())
    }
}

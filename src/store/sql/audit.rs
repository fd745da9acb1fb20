//! The table of what operators did, beside the tables of an outbox.

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr};

use super::dialect::Dialect;
use crate::store::OperationRecord;
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// How many records are kept.
const KEPT: u64 = 10_000;

/// The statements of the table.
#[derive(Debug)]
pub(super) struct AuditTable {
    insert: SqlStr,
    forget: SqlStr,
    read: SqlStr,
}

impl AuditTable {
    pub(super) fn new<DB: Dialect>(schema: &str) -> Self {
        let table = DB::AUDIT_TABLE.replace("{schema}", &DB::quoted(schema));
        let statement = |text: String| AssertSqlSafe(text).into_sql_str();
        Self {
            insert: statement(format!("INSERT INTO {table} (done_at, record) VALUES ($1, $2)")),
            forget: statement(format!(
                "DELETE FROM {table} WHERE position <= (SELECT max(position) FROM {table}) - {KEPT}"
            )),
            read: statement(format!(
                "SELECT done_at, record FROM {table} ORDER BY position DESC LIMIT {KEPT}"
            )),
        }
    }

    pub(super) async fn insert<DB: Dialect>(
        &self,
        pool: &Pool<DB>,
        record: &OperationRecord,
    ) -> Result<(), BoxError> {
        let (at, text) = (rfc3339::write(record.at)?, serde_json::to_string(record)?);
        DB::pairs(pool, self.insert.clone(), Some([&at, &text])).await?;
        DB::pairs(pool, self.forget.clone(), None).await?;
        Ok(())
    }

    /// Returns the last records, the last one first.
    pub(super) async fn read<DB: Dialect>(
        &self,
        pool: &Pool<DB>,
        limit: usize,
    ) -> Result<Vec<OperationRecord>, BoxError> {
        let rows = DB::pairs(pool, self.read.clone(), None).await?;
        // A record of a later version may not be readable.
        let records = rows.iter().filter_map(|(_, record)| serde_json::from_str(record).ok());
        Ok(records.take(limit).collect())
    }
}

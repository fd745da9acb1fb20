//! Tables for operators beside the messages of an outbox: their operations, and the instances.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr};

use super::dialect::Dialect;
use crate::store::{Instance, OperationRecord};
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// How many records are kept.
const KEPT: u64 = 10_000;

/// The statements.
#[derive(Debug)]
pub(super) struct AuditTable {
    insert: SqlStr,
    forget: SqlStr,
    read: SqlStr,
    instances: SqlStr,
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
            instances: statement(DB::INSTANCES.replace("{schema}", &DB::quoted(schema))),
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

    /// Returns the instances that share the database, which have not expired.
    pub(super) async fn instances<DB: Dialect>(&self, pool: &Pool<DB>) -> Result<Vec<Instance>, BoxError> {
        let rows = DB::pairs(pool, self.instances.clone(), None).await?;
        let instance = |(id, numbers): (String, String)| {
            let (expires_in, partitions) = numbers.split_once(' ')?;
            let expires_in = Duration::from_millis(expires_in.parse().ok()?);
            Some(Instance::new(id, expires_in, partitions.parse().ok()?))
        };
        Ok(rows.into_iter().filter_map(instance).collect())
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

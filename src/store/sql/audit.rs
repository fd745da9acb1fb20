//! Tables for operators beside the messages of an outbox: their operations, and the instances.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
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

/// An instance as the database has it. Earlier versions wrote less.
#[derive(Deserialize)]
struct Member {
    name: Option<String>,
    version: Option<String>,
    age: Option<i64>,
    heartbeat_age: Option<i64>,
    expires_in: i64,
    partitions: u64,
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
        let instance = |(id, text): (String, String)| {
            let member: Member = serde_json::from_str(&text).ok()?;
            let millis = |millis: i64| Duration::from_millis(millis.max(0) as u64);
            let mut instance = Instance::new(id, member.partitions);
            (instance.name, instance.version) = (member.name, member.version);
            instance.since = member.age.and_then(|age| SystemTime::now().checked_sub(millis(age)));
            instance.heartbeat_age = member.heartbeat_age.map(millis);
            // An expired one is there until another removes it.
            instance.expires_in = u64::try_from(member.expires_in).ok().map(Duration::from_millis);
            instance.expires_in.is_some().then_some(instance)
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

//! What was handled, or is to be stored once: the ids, for a while.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::writers::Writers;
use crate::message::Message;
use crate::store::sql::{FORGET_AT_ONCE, Record, Sweep, retain_new};

#[derive(Debug)]
pub(crate) struct Inbox {
    pool: SqlitePool,
    writers: Writers,
    record: SqlStr,
    forget: SqlStr,
    retention: Duration,
    sweep: Sweep,
}

impl Inbox {
    pub(super) fn new(pool: SqlitePool, writers: Writers, schema: &str, retention: Duration) -> Self {
        let record = format!("INSERT INTO {schema}_inbox (source, id) VALUES (?, ?) ON CONFLICT DO NOTHING");
        let forget = format!(
            "DELETE FROM {schema}_inbox WHERE (source, id) IN ( \
             SELECT source, id FROM {schema}_inbox WHERE handled_at < unixepoch() - ? \
             ORDER BY handled_at LIMIT {FORGET_AT_ONCE})"
        );
        let sql = |sql: String| AssertSqlSafe(sql).into_sql_str();
        Self { pool, writers, record: sql(record), forget: sql(forget), retention, sweep: Sweep::default() }
    }

    /// Records that a message is handled; false when it was before.
    pub(crate) async fn record(
        &self,
        connection: &mut SqliteConnection,
        source: &str,
        id: Uuid,
    ) -> Result<bool, sqlx::Error> {
        Ok(!InboxOf(self, connection).record(source, &[id]).await?.is_empty())
    }

    /// Removes messages that are to be stored once, and were.
    pub(crate) async fn retain_new(
        &self,
        connection: &mut SqliteConnection,
        messages: &mut Vec<Message>,
    ) -> Result<(), sqlx::Error> {
        retain_new(InboxOf(self, connection), messages).await
    }

    /// Forgets, now and then and in the background, what is older than the retention.
    fn forget_handled(&self) {
        let (forget, pool, writers) = (self.forget.clone(), self.pool.clone(), self.writers.clone());
        let retention = i64::try_from(self.retention.as_secs()).unwrap_or(i64::MAX);
        self.sweep.begin(move || {
            let (forget, pool, writers) = (forget.clone(), pool.clone(), writers.clone());
            async move {
                let _turn = writers.turn().await?;
                Ok(sqlx::query(forget).bind(retention).execute(&pool).await?.rows_affected())
            }
        });
    }
}

struct InboxOf<'a>(&'a Inbox, &'a mut SqliteConnection);

impl Record for InboxOf<'_> {
    async fn record(&mut self, source: &str, ids: &[Uuid]) -> Result<HashSet<Uuid>, sqlx::Error> {
        self.0.forget_handled();
        let mut new = HashSet::new();
        for id in ids {
            let query = sqlx::query(self.0.record.clone()).bind(source).bind(*id);
            if query.execute(&mut *self.1).await?.rows_affected() > 0 {
                new.insert(*id);
            }
        }
        Ok(new)
    }
}

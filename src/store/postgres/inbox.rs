//! What was handled, or is to be stored once: the ids, for a while.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use uuid::Uuid;

use crate::message::Message;
use crate::store::sql::{FORGET_AT_ONCE, Record, Sweep, retain_new};

#[derive(Debug)]
pub(crate) struct Inbox {
    pool: PgPool,
    record: SqlStr,
    forget: SqlStr,
    retention: Duration,
    sweep: Sweep,
}

impl Inbox {
    pub(super) fn new(pool: PgPool, schema: &str, retention: Duration) -> Self {
        let record = format!(
            "INSERT INTO {schema}.inbox (source, id) SELECT $1, * FROM unnest($2::uuid[]) \
             ON CONFLICT DO NOTHING RETURNING id"
        );
        let forget = format!(
            "DELETE FROM {schema}.inbox WHERE ctid = ANY (ARRAY( \
             SELECT ctid FROM {schema}.inbox WHERE handled_at < now() - make_interval(secs => $1) \
             ORDER BY handled_at LIMIT {FORGET_AT_ONCE} FOR UPDATE SKIP LOCKED))"
        );
        let sql = |sql: String| AssertSqlSafe(sql).into_sql_str();
        Self { pool, record: sql(record), forget: sql(forget), retention, sweep: Sweep::default() }
    }

    /// Records that a message is handled; false when it was before. Waits for others that record the same.
    pub(crate) async fn record(
        &self,
        connection: &mut PgConnection,
        source: &str,
        id: Uuid,
    ) -> Result<bool, sqlx::Error> {
        Ok(!InboxOf(self, connection).record(source, &[id]).await?.is_empty())
    }

    /// Removes messages that are to be stored once, and were.
    pub(crate) async fn retain_new(
        &self,
        connection: &mut PgConnection,
        messages: &mut Vec<Message>,
    ) -> Result<(), sqlx::Error> {
        retain_new(InboxOf(self, connection), messages).await
    }

    /// Forgets, now and then and in the background, what is older than the retention.
    fn forget_handled(&self) {
        let (forget, retention, pool) =
            (self.forget.clone(), self.retention.as_secs_f64().min(1e10), self.pool.clone());
        self.sweep.begin(move || {
            let (forget, pool) = (forget.clone(), pool.clone());
            async move { Ok(sqlx::query(forget).bind(retention).execute(&pool).await?.rows_affected()) }
        });
    }
}

struct InboxOf<'a>(&'a Inbox, &'a mut PgConnection);

impl Record for InboxOf<'_> {
    async fn record(&mut self, source: &str, ids: &[Uuid]) -> Result<HashSet<Uuid>, sqlx::Error> {
        self.0.forget_handled();
        let new = sqlx::query_scalar(self.0.record.clone()).bind(source).bind(ids).fetch_all(&mut *self.1);
        Ok(new.await?.into_iter().collect())
    }
}

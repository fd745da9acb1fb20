//! The statements of the engine in Postgres.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgPool, Postgres};
use sqlx::{SqlSafeStr, SqlStr, Transaction};
use uuid::Uuid;

use super::insert::Insert;
use super::mark::{BEGIN, MARK, mark_and_notify};
use super::read_only::ReadOnlyConnections;
use super::statements::{Statements, quoted};
use crate::message::Message;
use crate::store::sql::{
    Conditions, DUE, FailedMessage, Listed, Read, Requeued, Row, SCANNED, SettleBatch, SqlStoreSettings,
    Tables, WritePermit, counts_of, is_search, listed, micros, signed,
};
use crate::store::{Counts, EntryState, Filter};

#[derive(Debug)]
pub(crate) struct PostgresTables {
    pool: PgPool,
    schema: String,
    insert: Insert,
    mark_and_notify: SqlStr,
    statements: Statements,
    read_only: ReadOnlyConnections,
}

impl PostgresTables {
    pub(super) fn new(pool: PgPool, settings: &SqlStoreSettings) -> Self {
        let schema = quoted(&settings.schema);
        let (insert, statements) = (Insert::new(&schema), Statements::new(&schema));
        let read_only = ReadOnlyConnections::new(pool.clone());
        let mark_and_notify = mark_and_notify(&settings.schema);
        Self { pool, schema: settings.schema.clone(), insert, mark_and_notify, statements, read_only }
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }
}

#[async_trait]
impl Tables for PostgresTables {
    type Database = Postgres;

    fn pool(&self) -> &PgPool {
        &self.pool
    }

    fn location(&self) -> String {
        let options = self.pool.connect_options();
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        format!("postgres://{}:{}/{database}, schema {}", options.get_host(), options.get_port(), self.schema)
    }

    async fn write_permit(&self) -> Result<WritePermit, sqlx::Error> {
        Ok(None)
    }

    async fn begin(&self) -> Result<(WritePermit, Transaction<'static, Postgres>), sqlx::Error> {
        Ok((None, self.pool.begin_with(BEGIN).await?))
    }

    /// Its connection may lead to a server that has become read-only.
    fn rolled_back(&self) {
        self.read_only.search();
    }

    async fn prepare(&self, connection: &mut PgConnection, notify: bool) -> Result<(), sqlx::Error> {
        let statements = if notify { self.mark_and_notify.clone() } else { MARK.into_sql_str() };
        sqlx::raw_sql(statements).execute(connection).await.map(drop)
    }

    async fn insert(
        &self,
        connection: &mut PgConnection,
        messages: &[Message],
        own: &[i16],
    ) -> Result<Vec<(u64, i16)>, sqlx::Error> {
        self.insert.run(connection, messages, own).await.inspect_err(|error| self.read_only.on_error(error))
    }

    async fn record(
        &self,
        connection: &mut PgConnection,
        source: &str,
        ids: &[Uuid],
    ) -> Result<HashSet<Uuid>, sqlx::Error> {
        let record = sqlx::query_scalar(self.statements.record.clone()).bind(source).bind(ids);
        Ok(record.fetch_all(connection).await?.into_iter().collect())
    }

    async fn forget(&self, retention: Duration) -> Result<u64, sqlx::Error> {
        let forget = sqlx::query(self.statements.forget.clone()).bind(retention.as_secs_f64());
        Ok(forget.execute(&self.pool).await?.rows_affected())
    }

    async fn read(&self, read: &Read) -> Result<(Vec<Row>, bool), sqlx::Error> {
        let rows: Vec<Row> = sqlx::query_as(self.statements.read.clone())
            .bind(signed(read.after))
            .bind(signed(read.until))
            .bind(&read.partitions)
            .bind(array(&read.known))
            .bind(read.limit as i64)
            .bind(read.bytes as i64)
            .fetch_all(&self.pool)
            .await?;
        let bytes: u64 = rows.iter().filter(|row| row.key_hash.is_none()).map(|row| row.size).sum();
        let more = rows.len() >= read.limit || bytes >= read.bytes as u64;
        Ok((rows, more))
    }

    async fn due(&self, partitions: &[i16], known: &[u64]) -> Result<Vec<Row>, sqlx::Error> {
        let due = sqlx::query_as(self.statements.due.clone());
        due.bind(partitions).bind(array(known)).bind(DUE as i64).fetch_all(&self.pool).await
    }

    async fn fetch(&self, positions: &[u64]) -> Result<Vec<Row>, sqlx::Error> {
        let fetch = sqlx::query_as(self.statements.fetch.clone()).bind(array(positions));
        fetch.fetch_all(&self.pool).await
    }

    async fn of_keys(&self, keys: &[(i64, usize)]) -> Result<Vec<Row>, sqlx::Error> {
        let (hashes, most): (Vec<i64>, Vec<i64>) =
            keys.iter().map(|(hash, most)| (*hash, *most as i64)).unzip();
        let of_keys = sqlx::query_as(self.statements.of_keys.clone()).bind(hashes).bind(most);
        of_keys.fetch_all(&self.pool).await
    }

    async fn settle(&self, held: &[(i16, i64)], batch: &SettleBatch) -> Result<(u64, u64), sqlx::Error> {
        let held: (Vec<i16>, Vec<i64>) = held.iter().copied().unzip();
        let settled = if batch.retried.is_empty() && batch.dead.is_empty() {
            // One statement is its own transaction.
            self.remove(&mut *self.pool.acquire().await?, &held, &batch.removed).await
        } else {
            self.settle_failed(&held, batch).await
        };
        settled.inspect_err(|error| self.read_only.on_error(error))
    }

    async fn list(
        &self,
        filter: &Filter,
        after: i64,
        limit: usize,
    ) -> Result<(Vec<Listed>, Option<i64>), sqlx::Error> {
        let conditions = Conditions::of(filter);
        let (pending, dead) =
            (filter.state != Some(EntryState::Dead), filter.state != Some(EntryState::Pending));
        let reached: Option<i64> = match is_search(filter) {
            true => {
                let reached = sqlx::query_scalar(self.statements.reached.clone()).bind(after);
                reached.bind(pending).bind(dead).bind(SCANNED).fetch_one(&self.pool).await?
            }
            false => None,
        };
        let list = sqlx::query_as(self.statements.list.clone())
            .bind(after)
            .bind(limit as i64)
            .bind(pending)
            .bind(dead)
            .bind(filter.id)
            .bind(conditions.topic)
            .bind(conditions.prefix)
            .bind(conditions.key)
            .bind(reached.unwrap_or(i64::MAX));
        listed(list.fetch(&self.pool), limit, reached).await
    }

    async fn requeueable(
        &self,
        connection: &mut PgConnection,
        positions: &[u64],
    ) -> Result<BTreeMap<u64, bool>, sqlx::Error> {
        let mut requeueable = BTreeMap::new();
        for (statement, is_dead) in
            [(&self.statements.lock_dead, true), (&self.statements.lock_waiting, false)]
        {
            let lock = sqlx::query_as(statement.clone()).bind(array(positions));
            let found: Vec<(i64,)> = lock.fetch_all(&mut *connection).await?;
            requeueable.extend(found.into_iter().map(|(position,)| (position as u64, is_dead)));
        }
        Ok(requeueable)
    }

    async fn requeue(&self, connection: &mut PgConnection, requeued: &[Requeued]) -> Result<(), sqlx::Error> {
        for (statement, is_dead) in
            [(&self.statements.requeue_dead, true), (&self.statements.requeue_waiting, false)]
        {
            let these = requeued.iter().filter(|one| one.was_dead == is_dead);
            let (positions, waits): (Vec<i64>, Vec<i64>) =
                these.map(|one| (signed(one.position), micros(one.wait))).unzip();
            if !positions.is_empty() {
                let requeue = sqlx::query(statement.clone()).bind(positions).bind(waits);
                requeue.execute(&mut *connection).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, positions: &[u64]) -> Result<(u64, u64, u64), sqlx::Error> {
        let delete = sqlx::query_as(self.statements.delete.clone()).bind(array(positions));
        let (messages, dead, bytes): (i64, i64, i64) = delete.fetch_one(&self.pool).await?;
        Ok((messages as u64, dead as u64, bytes as u64))
    }

    async fn counts(&self) -> Result<Counts, sqlx::Error> {
        sqlx::query_as(self.statements.counts.clone()).fetch_one(&self.pool).await.map(counts_of)
    }
}

impl PostgresTables {
    async fn settle_failed(
        &self,
        held: &(Vec<i16>, Vec<i64>),
        batch: &SettleBatch,
    ) -> Result<(u64, u64), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let removed = match batch.removed.is_empty() {
            true => (0, 0),
            false => self.remove(&mut transaction, held, &batch.removed).await?,
        };
        if !batch.retried.is_empty() {
            let (positions, failures, waits) = columns(&batch.retried);
            sqlx::query(self.statements.retry.clone())
                .bind(&held.0)
                .bind(&held.1)
                .bind(positions)
                .bind(failures)
                .bind(waits)
                .execute(&mut *transaction)
                .await?;
        }
        if !batch.dead.is_empty() {
            let (positions, failures, _) = columns(&batch.dead);
            sqlx::query(self.statements.dead_letter.clone())
                .bind(&held.0)
                .bind(&held.1)
                .bind(positions)
                .bind(failures)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(removed)
    }

    async fn remove(
        &self,
        connection: &mut PgConnection,
        held: &(Vec<i16>, Vec<i64>),
        positions: &[u64],
    ) -> Result<(u64, u64), sqlx::Error> {
        let (messages, bytes, _): (i64, i64, String) = sqlx::query_as(self.statements.remove.clone())
            .bind(&held.0)
            .bind(&held.1)
            .bind(array(positions))
            .fetch_one(connection)
            .await?;
        Ok((messages as u64, bytes as u64))
    }
}

/// Positions as the columns have them. No row has one beyond them.
fn array(positions: &[u64]) -> Vec<i64> {
    positions.iter().filter_map(|position| i64::try_from(*position).ok()).collect()
}

fn columns(failed: &[FailedMessage]) -> (Vec<i64>, Vec<&str>, Vec<i64>) {
    let positions = failed.iter().map(|failed| signed(failed.position)).collect();
    let failures = failed.iter().map(|failed| failed.failures.as_str()).collect();
    (positions, failures, failed.iter().map(|failed| micros(failed.wait)).collect())
}

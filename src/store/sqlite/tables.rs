//! The statements of the engine in SQLite.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};
use sqlx::{SqlStr, Transaction};
use uuid::Uuid;

use super::insert::Insert;
use super::statements::{Statements, since_epoch};
use super::write_permit::WritePermits;
use crate::message::Message;
use crate::store::sql::{
    Conditions, DUE, Listed, Read, Requeued, Row, SCANNED, SettleBatch, SqlStoreSettings, Tables,
    WritePermit, counts_of, is_search, listed, micros, signed,
};
use crate::store::{Counts, EntryState, Filter};

#[derive(Debug)]
pub(crate) struct SqliteTables {
    pool: SqlitePool,
    permits: WritePermits,
    schema: String,
    insert: Insert,
    statements: Statements,
}

impl SqliteTables {
    pub(super) fn new(pool: SqlitePool, settings: &SqlStoreSettings) -> Self {
        let schema = settings.schema.clone();
        let (insert, statements) = (Insert::new(&schema), Statements::new(&schema));
        Self { permits: WritePermits::of(&pool), pool, schema, insert, statements }
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    pub(super) fn permits(&self) -> &WritePermits {
        &self.permits
    }
}

#[async_trait]
impl Tables for SqliteTables {
    type Database = Sqlite;

    fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    fn location(&self) -> String {
        let file = self.pool.connect_options().get_filename().display().to_string();
        format!("sqlite://{file}, tables {}_*", self.schema)
    }

    async fn write_permit(&self) -> Result<WritePermit, sqlx::Error> {
        self.permits.acquire().await
    }

    /// `BEGIN IMMEDIATE`: a deferred transaction could fail with SQLITE_BUSY when it upgrades to a write.
    async fn begin(&self) -> Result<(WritePermit, Transaction<'static, Sqlite>), sqlx::Error> {
        let permit = self.permits.acquire().await?;
        Ok((permit, self.pool.begin_with("BEGIN IMMEDIATE").await?))
    }

    /// The listener sees each COMMIT, also one of this process.
    async fn prepare(&self, _: &mut SqliteConnection, _notify: bool) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn insert(
        &self,
        connection: &mut SqliteConnection,
        messages: &[Message],
        _own: &[i16],
    ) -> Result<Vec<(u64, i16)>, sqlx::Error> {
        let positions = self.insert.run(connection, messages).await?;
        Ok(positions.into_iter().map(|position| (position, 0)).collect())
    }

    async fn record(
        &self,
        connection: &mut SqliteConnection,
        source: &str,
        ids: &[Uuid],
    ) -> Result<HashSet<Uuid>, sqlx::Error> {
        let mut new = HashSet::new();
        for id in ids {
            let record = sqlx::query(self.statements.record.clone()).bind(source).bind(*id);
            if record.execute(&mut *connection).await?.rows_affected() > 0 {
                new.insert(*id);
            }
        }
        Ok(new)
    }

    async fn forget(&self, retention: Duration) -> Result<u64, sqlx::Error> {
        let _permit = self.permits.acquire().await?;
        let forget = sqlx::query(self.statements.forget.clone()).bind(retention.as_secs() as i64);
        Ok(forget.execute(&self.pool).await?.rows_affected())
    }

    async fn read(&self, read: &Read) -> Result<(Vec<Row>, bool), sqlx::Error> {
        let mut found = sqlx::query_as(self.statements.read.clone())
            .bind(signed(read.after))
            .bind(signed(read.until))
            .bind(json(&read.known))
            .bind(read.limit as i64)
            .fetch(&self.pool);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.try_next().await? {
            let row: Row = row;
            bytes += if row.key_hash.is_none() { row.size as usize } else { 0 };
            rows.push(row);
            if rows.len() >= read.limit || bytes >= read.bytes {
                return Ok((rows, true));
            }
        }
        Ok((rows, false))
    }

    async fn due(&self, _partitions: &[i16], known: &[u64]) -> Result<Vec<Row>, sqlx::Error> {
        let due = sqlx::query_as(self.statements.due.clone()).bind(now()).bind(json(known)).bind(DUE as i64);
        due.fetch_all(&self.pool).await
    }

    async fn fetch(&self, positions: &[u64]) -> Result<Vec<Row>, sqlx::Error> {
        let fetch = sqlx::query_as(self.statements.fetch.clone()).bind(now()).bind(json(positions));
        fetch.fetch_all(&self.pool).await
    }

    async fn of_keys(&self, keys: &[(i64, usize)]) -> Result<Vec<Row>, sqlx::Error> {
        let mut rows = Vec::new();
        let mut connection = self.pool.acquire().await?;
        for (hash, most) in keys {
            let of_key = sqlx::query_as(self.statements.of_key.clone()).bind(now()).bind(hash);
            rows.extend(of_key.bind(*most as i64).fetch_all(&mut *connection).await?);
        }
        Ok(rows)
    }

    async fn settle(&self, held: &[(i16, i64)], batch: &SettleBatch) -> Result<(u64, u64), sqlx::Error> {
        let mut removed = (0, 0);
        let (_permit, mut transaction) = self.begin().await?;
        // There is one partition. A second fencing token is one that this process has lost or regained meanwhile.
        for (_, fencing_token) in held {
            let remove = sqlx::query_as(self.statements.remove.clone());
            let remove = remove.bind(fencing_token).bind(json(&batch.removed));
            removed = sum(removed, &remove.fetch_all(&mut *transaction).await?);
            for failed in &batch.retried {
                sqlx::query(self.statements.retry.clone())
                    .bind(fencing_token)
                    .bind(signed(failed.position))
                    .bind(&failed.failures)
                    .bind(now() + micros(failed.wait))
                    .execute(&mut *transaction)
                    .await?;
            }
            for failed in &batch.dead {
                for statement in [&self.statements.copy_to_dead_letters, &self.statements.remove_dead] {
                    sqlx::query(statement.clone())
                        .bind(fencing_token)
                        .bind(signed(failed.position))
                        .bind(&failed.failures)
                        .execute(&mut *transaction)
                        .await?;
                }
            }
        }
        transaction.commit().await?;
        Ok(removed)
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
            .bind(now())
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
        connection: &mut SqliteConnection,
        positions: &[u64],
    ) -> Result<BTreeMap<u64, bool>, sqlx::Error> {
        let find = sqlx::query_as(self.statements.requeueable.clone()).bind(json(positions)).bind(now());
        let found: Vec<(i64, bool)> = find.fetch_all(connection).await?;
        Ok(found.into_iter().map(|(position, is_dead)| (position as u64, is_dead)).collect())
    }

    async fn requeue(
        &self,
        connection: &mut SqliteConnection,
        requeued: &[Requeued],
    ) -> Result<(), sqlx::Error> {
        for Requeued { position, was_dead, wait } in requeued {
            let statements: &[&SqlStr] = match was_dead {
                true => &[&self.statements.requeue_dead, &self.statements.remove_requeued],
                false => &[&self.statements.requeue_waiting],
            };
            for statement in statements {
                let requeue = sqlx::query((*statement).clone()).bind(signed(*position));
                requeue.bind(now() + micros(*wait)).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, positions: &[u64]) -> Result<(u64, u64, u64), sqlx::Error> {
        let (_permit, mut transaction) = self.begin().await?;
        let mut gone = [(0, 0); 2];
        for (gone, statement) in gone.iter_mut().zip([&self.statements.delete, &self.statements.delete_dead])
        {
            let delete = sqlx::query_as(statement.clone()).bind(json(positions));
            *gone = sum((0, 0), &delete.fetch_all(&mut *transaction).await?);
        }
        transaction.commit().await?;
        Ok((gone[0].0, gone[1].0, gone[0].1 + gone[1].1))
    }

    async fn counts(&self) -> Result<Counts, sqlx::Error> {
        sqlx::query_as(self.statements.counts.clone()).fetch_one(&self.pool).await.map(counts_of)
    }
}

fn now() -> i64 {
    since_epoch(SystemTime::now())
}

/// Positions as a JSON array. No row has one beyond the columns.
fn json(positions: &[u64]) -> String {
    let mut json = String::with_capacity(2 + 8 * positions.len());
    json.push('[');
    for position in positions.iter().filter(|position| i64::try_from(**position).is_ok()) {
        let comma = if json.len() > 1 { "," } else { "" };
        let _ = write!(json, "{comma}{position}");
    }
    json.push(']');
    json
}

fn sum((count, bytes): (u64, u64), sizes: &[(i64,)]) -> (u64, u64) {
    (count + sizes.len() as u64, bytes + sizes.iter().map(|(size,)| (*size).max(0) as u64).sum::<u64>())
}

//! The tables in SQLite.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Row as _, SqlStr, Transaction};

use super::inbox::Inbox;
use super::insert::Insert;
use super::statements::{Statements, since_epoch};
use super::writers::Writers;
use crate::message::Message;
use crate::store::sql::{
    DUE, Fared, Listed, Read, Requeued, Row, SqlStoreSettings, Tables, Turn, Wanted, counts_of, micros, paced,
};
use crate::store::{Counts, EntryState, Filter};
use crate::util::deadline::FOR_EVER;

#[derive(Debug)]
pub(super) struct SqliteTables {
    pool: SqlitePool,
    writers: Writers,
    schema: String,
    insert: Insert,
    inbox: Inbox,
    statements: Statements,
}

impl SqliteTables {
    pub(super) fn new(pool: SqlitePool, writers: Writers, settings: &SqlStoreSettings) -> Self {
        let schema = &settings.schema;
        let (insert, statements) = (Insert::new(schema), Statements::new(schema));
        let inbox = Inbox::new(pool.clone(), writers.clone(), schema, settings.inbox_retention.min(FOR_EVER));
        Self { pool, writers, schema: schema.clone(), insert, inbox, statements }
    }

    pub(super) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    pub(super) fn writers(&self) -> &Writers {
        &self.writers
    }
}

#[async_trait]
impl Tables for SqliteTables {
    type Database = Sqlite;

    /// Who begins to read and writes then may find that another has written meanwhile: it is the writer from the start.
    async fn begin(&self) -> Result<(Turn, Transaction<'static, Sqlite>), sqlx::Error> {
        let turn = self.writers.turn().await?;
        Ok((turn, self.pool.begin_with("BEGIN IMMEDIATE").await?))
    }

    async fn retain_new(
        &self,
        connection: &mut SqliteConnection,
        messages: &mut Vec<Message>,
    ) -> Result<(), sqlx::Error> {
        self.inbox.retain_new(connection, messages).await
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

    async fn read(&self, read: &Read) -> Result<(Vec<Row>, bool), sqlx::Error> {
        let mut found = sqlx::query(self.statements.read.clone())
            .bind(signed(read.after))
            .bind(signed(read.until))
            .bind(list(&read.known))
            .bind(read.limit as i64)
            .fetch(&self.pool);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.try_next().await? {
            let row = Row::of(&row)?;
            bytes += if row.key_hash.is_none() { row.size as usize } else { 0 };
            rows.push(row);
            if rows.len() >= read.limit || bytes >= read.bytes {
                return Ok((rows, true));
            }
        }
        Ok((rows, false))
    }

    async fn due(&self, _buckets: &[i16], known: &[u64]) -> Result<Vec<Row>, sqlx::Error> {
        let query = sqlx::query(self.statements.due.clone()).bind(now()).bind(list(known)).bind(DUE as i64);
        rows_of(&query.fetch_all(&self.pool).await?)
    }

    async fn fetch(&self, positions: &[u64]) -> Result<Vec<Row>, sqlx::Error> {
        let query = sqlx::query(self.statements.fetch.clone()).bind(now()).bind(list(positions));
        rows_of(&query.fetch_all(&self.pool).await?)
    }

    async fn of_keys(&self, keys: &[(i64, usize)]) -> Result<Vec<Row>, sqlx::Error> {
        let mut rows = Vec::new();
        let mut connection = self.pool.acquire().await?;
        for (hash, most) in keys {
            let query = sqlx::query(self.statements.of_key.clone()).bind(now()).bind(hash).bind(*most as i64);
            rows.extend(rows_of(&query.fetch_all(&mut *connection).await?)?);
        }
        Ok(rows)
    }

    async fn settle(&self, held: &[(i16, i64)], fared: &Fared) -> Result<(u64, u64), sqlx::Error> {
        // There is one bucket; another token may be of a lease that another process has by now.
        let mut gone = (0, 0);
        let (_turn, mut transaction) = self.begin().await?;
        for (_, token) in held {
            let query = sqlx::query_as(self.statements.done.clone()).bind(token).bind(list(&fared.done));
            let sizes: Vec<(i64,)> = query.fetch_all(&mut *transaction).await?;
            gone = sum(gone, &sizes);
            for failed in &fared.retried {
                sqlx::query(self.statements.retry.clone())
                    .bind(token)
                    .bind(signed(failed.position))
                    .bind(&failed.failures)
                    .bind(now() + micros(failed.wait))
                    .execute(&mut *transaction)
                    .await?;
            }
            for failed in &fared.dead {
                for statement in [&self.statements.bury, &self.statements.buried] {
                    sqlx::query(statement.clone())
                        .bind(token)
                        .bind(signed(failed.position))
                        .bind(&failed.failures)
                        .execute(&mut *transaction)
                        .await?;
                }
            }
        }
        transaction.commit().await?;
        Ok(gone)
    }

    async fn list(&self, filter: &Filter, after: i64, limit: usize) -> Result<Vec<Listed>, sqlx::Error> {
        let wanted = Wanted::by(filter);
        let rows = sqlx::query(self.statements.list.clone())
            .bind(now())
            .bind(after)
            .bind(limit as i64)
            .bind(filter.state != Some(EntryState::Dead))
            .bind(filter.state != Some(EntryState::Pending))
            .bind(filter.id)
            .bind(wanted.topic)
            .bind(wanted.prefix)
            .bind(wanted.key)
            .fetch_all(&self.pool)
            .await?;
        let listed = rows.into_iter().map(|row| {
            let state = if row.try_get(12)? { EntryState::Dead } else { EntryState::Pending };
            Ok(Listed { behind: row.try_get(13)?, state, row: Row::of(&row)? })
        });
        listed.collect()
    }

    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<Vec<Requeued>, sqlx::Error> {
        let (_turn, mut transaction) = self.begin().await?;
        let query = sqlx::query_as(self.statements.meant.clone()).bind(list(positions)).bind(now());
        let meant: Vec<(i64, bool)> = query.fetch_all(&mut *transaction).await?;
        let meant: BTreeMap<u64, bool> =
            meant.into_iter().map(|(position, dead)| (position as u64, dead)).collect();
        let requeued = paced(positions, &meant, pace);
        for Requeued { position, was_dead, wait } in &requeued {
            let statements: &[&SqlStr] = match was_dead {
                true => &[&self.statements.revive, &self.statements.revived],
                false => &[&self.statements.hasten],
            };
            for statement in statements {
                let query =
                    sqlx::query((*statement).clone()).bind(signed(*position)).bind(now() + micros(*wait));
                query.execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(requeued)
    }

    async fn delete(&self, positions: &[u64]) -> Result<(u64, u64, u64), sqlx::Error> {
        let (_turn, mut transaction) = self.begin().await?;
        let mut gone = [(0, 0); 2];
        for (gone, statement) in gone.iter_mut().zip([&self.statements.delete, &self.statements.delete_dead])
        {
            let query = sqlx::query_as(statement.clone()).bind(list(positions));
            *gone = sum((0, 0), &query.fetch_all(&mut *transaction).await?);
        }
        transaction.commit().await?;
        Ok((gone[0].0, gone[1].0, gone[0].1 + gone[1].1))
    }

    async fn counts(&self) -> Result<Counts, sqlx::Error> {
        let row = sqlx::query_as(self.statements.counts.clone()).fetch_one(&self.pool).await?;
        Ok(counts_of(row))
    }

    fn location(&self) -> String {
        let file = self.pool.connect_options().get_filename().display().to_string();
        format!("sqlite://{file}, tables {}_*", self.schema)
    }
}

fn now() -> i64 {
    since_epoch(SystemTime::now())
}

fn signed(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// A list of positions as JSON; what is beyond the columns is nowhere.
fn list(positions: &[u64]) -> String {
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

fn rows_of(rows: &[SqliteRow]) -> Result<Vec<Row>, sqlx::Error> {
    rows.iter().map(Row::of).collect()
}

//! The tables in Postgres.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgPool, PgRow, Postgres};
use sqlx::{Row as _, Transaction};

use super::inbox::Inbox;
use super::insert::Insert;
use super::shedder::Shedder;
use super::statements::{Statements, quoted};
use crate::message::Message;
use crate::store::sql::{
    DUE, Failed, Fared, Listed, Read, Requeued, Row, SqlStoreSettings, Tables, Turn, Wanted, counts_of,
    micros, paced,
};
use crate::store::{Counts, EntryState, Filter};
use crate::util::deadline::FOR_EVER;

#[derive(Debug)]
pub(super) struct PostgresTables {
    pool: PgPool,
    schema: String,
    insert: Insert,
    inbox: Inbox,
    statements: Statements,
    shedder: Shedder,
}

impl PostgresTables {
    pub(super) fn new(pool: PgPool, settings: &SqlStoreSettings) -> Self {
        let schema = quoted(&settings.schema);
        let (insert, statements) = (Insert::new(&schema), Statements::new(&schema));
        let inbox = Inbox::new(pool.clone(), &schema, settings.inbox_retention.min(FOR_EVER));
        let shedder = Shedder::new(pool.clone());
        Self { pool, schema: settings.schema.clone(), insert, inbox, statements, shedder }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    pub(super) fn shedder(&self) -> &Shedder {
        &self.shedder
    }
}

#[async_trait]
impl Tables for PostgresTables {
    type Database = Postgres;

    async fn begin(&self) -> Result<(Turn, Transaction<'static, Postgres>), sqlx::Error> {
        Ok((None, self.pool.begin().await?))
    }

    async fn retain_new(
        &self,
        connection: &mut PgConnection,
        messages: &mut Vec<Message>,
    ) -> Result<(), sqlx::Error> {
        self.inbox.retain_new(connection, messages).await
    }

    async fn insert(
        &self,
        connection: &mut PgConnection,
        messages: &[Message],
        own: &[i16],
    ) -> Result<Vec<(u64, i16)>, sqlx::Error> {
        self.insert.run(connection, messages, own).await.inspect_err(|error| self.shedder.refused(error))
    }

    async fn read(&self, read: &Read) -> Result<(Vec<Row>, bool), sqlx::Error> {
        let rows = sqlx::query(self.statements.read.clone())
            .bind(signed_one(read.after))
            .bind(signed_one(read.until))
            .bind(&read.buckets)
            .bind(signed(&read.known))
            .bind(read.limit as i64)
            .bind(read.bytes as i64)
            .fetch_all(&self.pool)
            .await?;
        let rows = rows_of(&rows)?;
        let bytes: u64 = rows.iter().filter(|row| row.key_hash.is_none()).map(|row| row.size).sum();
        let more = rows.len() >= read.limit || bytes >= read.bytes as u64;
        Ok((rows, more))
    }

    async fn due(&self, buckets: &[i16], known: &[u64]) -> Result<Vec<Row>, sqlx::Error> {
        let rows = sqlx::query(self.statements.due.clone())
            .bind(buckets)
            .bind(signed(known))
            .bind(DUE as i64)
            .fetch_all(&self.pool)
            .await?;
        rows_of(&rows)
    }

    async fn fetch(&self, positions: &[u64]) -> Result<Vec<Row>, sqlx::Error> {
        let rows =
            sqlx::query(self.statements.fetch.clone()).bind(signed(positions)).fetch_all(&self.pool).await?;
        rows_of(&rows)
    }

    async fn of_keys(&self, keys: &[(i64, usize)]) -> Result<Vec<Row>, sqlx::Error> {
        let (hashes, most): (Vec<i64>, Vec<i64>) =
            keys.iter().map(|(hash, most)| (*hash, *most as i64)).unzip();
        let rows = sqlx::query(self.statements.of_keys.clone())
            .bind(hashes)
            .bind(most)
            .fetch_all(&self.pool)
            .await?;
        rows_of(&rows)
    }

    async fn settle(&self, held: &[(i16, i64)], fared: &Fared) -> Result<(u64, u64), sqlx::Error> {
        self.write(held, fared).await.inspect_err(|error| self.shedder.refused(error))
    }

    async fn list(&self, filter: &Filter, after: i64, limit: usize) -> Result<Vec<Listed>, sqlx::Error> {
        let wanted = Wanted::by(filter);
        let rows = sqlx::query(self.statements.list.clone())
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
        let wanted = signed(positions);
        let mut transaction = self.pool.begin().await?;
        let mut meant = BTreeMap::new();
        for (statement, dead) in [(&self.statements.dead, true), (&self.statements.waiting, false)] {
            let found: Vec<(i64,)> =
                sqlx::query_as(statement.clone()).bind(&wanted).fetch_all(&mut *transaction).await?;
            meant.extend(found.into_iter().map(|(position,)| (position as u64, dead)));
        }
        let requeued = paced(positions, &meant, pace);
        for (statement, dead) in [(&self.statements.revive, true), (&self.statements.hasten, false)] {
            let these = requeued.iter().filter(|requeued| requeued.was_dead == dead);
            let (positions, waits): (Vec<i64>, Vec<i64>) =
                these.map(|requeued| (requeued.position as i64, micros(requeued.wait))).unzip();
            if !positions.is_empty() {
                sqlx::query(statement.clone()).bind(positions).bind(waits).execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(requeued)
    }

    async fn delete(&self, positions: &[u64]) -> Result<(u64, u64, u64), sqlx::Error> {
        let (messages, dead, bytes): (i64, i64, i64) = sqlx::query_as(self.statements.delete.clone())
            .bind(signed(positions))
            .fetch_one(&self.pool)
            .await?;
        Ok((messages as u64, dead as u64, bytes as u64))
    }

    async fn counts(&self) -> Result<Counts, sqlx::Error> {
        let row = sqlx::query_as(self.statements.counts.clone()).fetch_one(&self.pool).await?;
        Ok(counts_of(row))
    }

    fn location(&self) -> String {
        let options = self.pool.connect_options();
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        format!("postgres://{}:{}/{database}, schema {}", options.get_host(), options.get_port(), self.schema)
    }
}

impl PostgresTables {
    async fn write(&self, held: &[(i16, i64)], fared: &Fared) -> Result<(u64, u64), sqlx::Error> {
        if fared.retried.is_empty() && fared.dead.is_empty() {
            return self.done(&mut *self.pool.acquire().await?, held, &fared.done).await;
        }
        let mut transaction = self.pool.begin().await?;
        let (buckets, tokens): (Vec<i16>, Vec<i64>) = held.iter().copied().unzip();
        let gone = match fared.done.is_empty() {
            true => (0, 0),
            false => self.done(&mut transaction, held, &fared.done).await?,
        };
        if !fared.retried.is_empty() {
            let (positions, failures, waits) = columns(&fared.retried);
            sqlx::query(self.statements.retry.clone())
                .bind(&buckets)
                .bind(&tokens)
                .bind(positions)
                .bind(failures)
                .bind(waits)
                .execute(&mut *transaction)
                .await?;
        }
        if !fared.dead.is_empty() {
            let (positions, failures, _) = columns(&fared.dead);
            sqlx::query(self.statements.bury.clone())
                .bind(&buckets)
                .bind(&tokens)
                .bind(positions)
                .bind(failures)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(gone)
    }

    async fn done(
        &self,
        connection: &mut PgConnection,
        held: &[(i16, i64)],
        positions: &[u64],
    ) -> Result<(u64, u64), sqlx::Error> {
        let (buckets, tokens): (Vec<i16>, Vec<i64>) = held.iter().copied().unzip();
        let (messages, bytes, _): (i64, i64, String) = sqlx::query_as(self.statements.done.clone())
            .bind(buckets)
            .bind(tokens)
            .bind(signed(positions))
            .fetch_one(connection)
            .await?;
        Ok((messages as u64, bytes as u64))
    }
}

fn signed_one(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// As the columns have them; what is beyond them is nowhere.
fn signed(positions: &[u64]) -> Vec<i64> {
    positions.iter().filter_map(|position| i64::try_from(*position).ok()).collect()
}

fn columns(failed: &[Failed]) -> (Vec<i64>, Vec<&str>, Vec<i64>) {
    let positions = failed.iter().map(|failed| signed_one(failed.position)).collect();
    let failures = failed.iter().map(|failed| failed.failures.as_str()).collect();
    (positions, failures, failed.iter().map(|failed| micros(failed.wait)).collect())
}

fn rows_of(rows: &[PgRow]) -> Result<Vec<Row>, sqlx::Error> {
    rows.iter().map(Row::of).collect()
}

//! How processes share an SQLite file, in which they see each other's changes.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::own_pool::own_pool;
use super::watcher::watch;
use super::writers::Writers;
use crate::store::sql::{Leases, Listening, Sight, SightRow};

pub(super) struct SqliteLeases {
    pool: SqlitePool,
    /// What is said too late is a lease that is lost: it goes before others.
    writers: Writers,
    schema: String,
    join: SqlStr,
    beat: SqlStr,
    look: SqlStr,
    strike_off: SqlStr,
    take: SqlStr,
    free: SqlStr,
    strike_off_one: SqlStr,
    free_all: SqlStr,
}

impl SqliteLeases {
    /// For the file of an app's pool.
    pub(super) fn new(pool: &SqlitePool, writers: Writers, schema: &str) -> Self {
        let now = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
        let sql =
            |text: &str| AssertSqlSafe(text.replace("{schema}", schema).replace("{now}", now)).into_sql_str();
        Self {
            pool: own_pool(pool),
            writers,
            schema: schema.to_owned(),
            join: sql("INSERT INTO {schema}_relays (id, until) VALUES (?1, {now} + ?2)"),
            beat: sql("UPDATE {schema}_relays SET until = {now} + ?2 WHERE id = ?1"),
            look: sql("SELECT bucket, token, owner IS ?1,
                     NOT EXISTS (SELECT * FROM {schema}_relays WHERE id = owner),
                     (SELECT count(*) FROM {schema}_relays),
                     (SELECT count(*) FROM {schema}_relays WHERE id < ?1),
                     (SELECT min(until) - {now} FROM {schema}_relays WHERE id <> ?1)
                 FROM {schema}_buckets ORDER BY bucket"),
            strike_off: sql("DELETE FROM {schema}_relays WHERE until <= {now}"),
            take: sql("UPDATE {schema}_buckets SET owner = ?1, token = token + 1
                 WHERE bucket = ?2 AND token = ?3 RETURNING bucket, token"),
            free: sql("UPDATE {schema}_buckets SET owner = NULL WHERE owner = ?1 AND bucket = ?2"),
            strike_off_one: sql("DELETE FROM {schema}_relays WHERE id = ?1"),
            free_all: sql("UPDATE {schema}_buckets SET owner = NULL WHERE owner = ?1"),
        }
    }
}

#[async_trait]
impl Leases for SqliteLeases {
    async fn join(&self, id: Uuid, lease: Duration) -> Result<(), sqlx::Error> {
        let _turn = self.writers.next_turn().await?;
        let join = sqlx::query(self.join.clone()).bind(id).bind(lease.as_millis() as i64);
        join.execute(&self.pool).await.map(drop)
    }

    async fn beat(&self, id: Uuid, lease: Duration) -> Result<Option<Sight>, sqlx::Error> {
        let _turn = self.writers.next_turn().await?;
        // What it then sees nobody else changes.
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let beat = sqlx::query(self.beat.clone()).bind(id).bind(lease.as_millis() as i64);
        if beat.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(None);
        }
        let rows: Vec<SightRow> =
            sqlx::query_as(self.look.clone()).bind(id).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Sight::from_rows(rows))
    }

    async fn strike_off(&self) -> Result<(), sqlx::Error> {
        let _turn = self.writers.next_turn().await?;
        sqlx::query(self.strike_off.clone()).execute(&self.pool).await.map(drop)
    }

    async fn take(&self, id: Uuid, free: &[(i16, i64)]) -> Result<Vec<(i16, i64)>, sqlx::Error> {
        let _turn = self.writers.next_turn().await?;
        let mut taken = Vec::new();
        for (bucket, token) in free {
            let take = sqlx::query_as(self.take.clone()).bind(id).bind(bucket).bind(token);
            let one: Option<(i16, i64)> = take.fetch_optional(&self.pool).await?;
            taken.extend(one);
        }
        Ok(taken)
    }

    async fn free(&self, id: Uuid, buckets: &[i16]) -> Result<(), sqlx::Error> {
        let _turn = self.writers.next_turn().await?;
        for bucket in buckets {
            sqlx::query(self.free.clone()).bind(id).bind(bucket).execute(&self.pool).await?;
        }
        Ok(())
    }

    async fn leave(&self, id: Uuid) -> Result<(), sqlx::Error> {
        let _turn = self.writers.next_turn().await?;
        // In this order: once it is struck off, its bucket is free anyway.
        sqlx::query(self.strike_off_one.clone()).bind(id).execute(&self.pool).await?;
        sqlx::query(self.free_all.clone()).bind(id).execute(&self.pool).await.map(drop)
    }

    fn listen(&self) -> Listening {
        watch(self.pool.clone(), self.schema.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use sqlx::sqlite::SqliteConnectOptions;
    use tokio::sync::watch::{Receiver, channel};
    use tokio::time::{Instant, timeout};

    use super::super::migrations::migrate;
    use super::*;
    use crate::store::sql::{Keeper, Share};

    const LEASE: Duration = Duration::from_millis(900);

    async fn process(folder: &Path) -> (SqlitePool, Keeper, Receiver<Share>) {
        let options = SqliteConnectOptions::new().filename(folder.join("app.db")).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        migrate(&pool, "outbox").await.unwrap();
        let leases = Arc::new(SqliteLeases::new(&pool, Writers::of(&pool), "outbox"));
        let (sender, share) = channel(Share::default());
        (pool, Keeper::start(leases, LEASE, sender, Arc::new(|_| true)), share)
    }

    /// Waits until it holds the bucket, and gives its token.
    async fn token(share: &mut Receiver<Share>) -> i64 {
        let held = timeout(Duration::from_secs(10), share.wait_for(|share| !share.buckets.is_empty()));
        let held = held.await.unwrap().unwrap();
        assert!(held.until.unwrap() > Instant::now());
        held.buckets[0].1
    }

    #[tokio::test]
    async fn one_process_at_a_time_holds_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (_first_pool, first, mut firsts) = process(folder.path()).await;
        assert_eq!(token(&mut firsts).await, 1);
        let (pool, _second, mut seconds) = process(folder.path()).await;
        assert!(timeout(2 * LEASE, token(&mut seconds)).await.is_err());
        assert_eq!(token(&mut firsts).await, 1);

        // It says so when it leaves.
        let begun = Instant::now();
        first.leave().await;
        assert_eq!(token(&mut seconds).await, 2);
        assert!(begun.elapsed() < LEASE / 3);

        // One that says nothing.
        sqlx::query("UPDATE outbox_buckets SET owner = x'00'").execute(&pool).await.unwrap();
        sqlx::query("INSERT INTO outbox_relays VALUES (x'00', 0)").execute(&pool).await.unwrap();
        timeout(2 * LEASE, seconds.wait_for(|share| share.buckets == [(0, 3)])).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_another_process_stores_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (_pool, keeper, mut share) = process(folder.path()).await;
        token(&mut share).await;
        let messages = keeper.messages();
        while timeout(Duration::from_millis(150), messages.notified()).await.is_ok() {}
        let (other, _keeper, _share) = process(folder.path()).await;
        sqlx::query("CREATE TABLE t (n)").execute(&other).await.unwrap();
        timeout(Duration::from_secs(5), messages.notified()).await.unwrap();
    }
}

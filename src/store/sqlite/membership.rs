//! How processes share an SQLite file.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::listener::listen;
use super::own_pool::own_pool;
use super::write_permit::WritePermits;
use crate::store::ThisInstance;
use crate::store::sql::{Listener, Membership, MembershipRow, MembershipView};

pub(super) struct SqliteMembership {
    pool: SqlitePool,
    /// A late heartbeat loses the assignment, so it overtakes other writers.
    permits: WritePermits,
    schema: String,
    this: ThisInstance,
    join: SqlStr,
    heartbeat: SqlStr,
    view: SqlStr,
    expire: SqlStr,
    acquire: SqlStr,
    release: SqlStr,
    remove_member: SqlStr,
    release_all: SqlStr,
}

impl SqliteMembership {
    /// For the file of an app's pool.
    pub(super) fn new(pool: &SqlitePool, permits: WritePermits, schema: &str, this: ThisInstance) -> Self {
        let now = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
        let sql =
            |text: &str| AssertSqlSafe(text.replace("{schema}", schema).replace("{now}", now)).into_sql_str();
        Self {
            pool: own_pool(pool),
            permits,
            schema: schema.to_owned(),
            this,
            join: sql("INSERT INTO {schema}_members (id, expires_at, name, version, opened_at, heartbeat_at)
                 VALUES (?1, {now} + ?2, ?3, ?4, {now} - ?5, {now})"),
            heartbeat: sql(
                "UPDATE {schema}_members SET expires_at = {now} + ?2, heartbeat_at = {now} WHERE id = ?1",
            ),
            view: sql("SELECT partition, fencing_token, owner IS ?1,
                     NOT EXISTS (SELECT * FROM {schema}_members WHERE id = owner),
                     (SELECT count(*) FROM {schema}_members),
                     (SELECT count(*) FROM {schema}_members WHERE id < ?1),
                     (SELECT min(expires_at) - {now} FROM {schema}_members WHERE id <> ?1)
                 FROM {schema}_partitions ORDER BY partition"),
            expire: sql("DELETE FROM {schema}_members WHERE expires_at <= {now}"),
            acquire: sql("UPDATE {schema}_partitions SET owner = ?1, fencing_token = fencing_token + 1
                 WHERE partition = ?2 AND fencing_token = ?3 RETURNING partition, fencing_token"),
            release: sql("UPDATE {schema}_partitions SET owner = NULL WHERE owner = ?1 AND partition = ?2"),
            remove_member: sql("DELETE FROM {schema}_members WHERE id = ?1"),
            release_all: sql("UPDATE {schema}_partitions SET owner = NULL WHERE owner = ?1"),
        }
    }
}

#[async_trait]
impl Membership for SqliteMembership {
    async fn join(&self, id: Uuid, timeout: Duration) -> Result<(), sqlx::Error> {
        let _permit = self.permits.acquire_next().await?;
        let join = sqlx::query(self.join.clone()).bind(id).bind(timeout.as_millis() as i64);
        let join =
            join.bind(&self.this.name).bind(ThisInstance::VERSION).bind(self.this.age().as_millis() as i64);
        join.execute(&self.pool).await.map(drop)
    }

    async fn heartbeat(&self, id: Uuid, timeout: Duration) -> Result<Option<MembershipView>, sqlx::Error> {
        let _permit = self.permits.acquire_next().await?;
        // As the writer, it sees what no other process changes.
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let heartbeat = sqlx::query(self.heartbeat.clone()).bind(id).bind(timeout.as_millis() as i64);
        if heartbeat.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(None);
        }
        let rows: Vec<MembershipRow> =
            sqlx::query_as(self.view.clone()).bind(id).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(MembershipView::from_rows(rows))
    }

    async fn expire(&self) -> Result<(), sqlx::Error> {
        let _permit = self.permits.acquire_next().await?;
        sqlx::query(self.expire.clone()).execute(&self.pool).await.map(drop)
    }

    async fn acquire(&self, id: Uuid, free: &[(i16, i64)]) -> Result<Vec<(i16, i64)>, sqlx::Error> {
        let _permit = self.permits.acquire_next().await?;
        let mut acquired = Vec::new();
        for (partition, fencing_token) in free {
            let acquire = sqlx::query_as(self.acquire.clone()).bind(id).bind(partition).bind(fencing_token);
            let one: Option<(i16, i64)> = acquire.fetch_optional(&self.pool).await?;
            acquired.extend(one);
        }
        Ok(acquired)
    }

    async fn release(&self, id: Uuid, partitions: &[i16]) -> Result<(), sqlx::Error> {
        let _permit = self.permits.acquire_next().await?;
        for partition in partitions {
            sqlx::query(self.release.clone()).bind(id).bind(partition).execute(&self.pool).await?;
        }
        Ok(())
    }

    async fn leave(&self, id: Uuid) -> Result<(), sqlx::Error> {
        let _permit = self.permits.acquire_next().await?;
        // In this order: without its member the partition is free even if the second statement fails.
        sqlx::query(self.remove_member.clone()).bind(id).execute(&self.pool).await?;
        sqlx::query(self.release_all.clone()).bind(id).execute(&self.pool).await.map(drop)
    }

    fn listen(&self) -> Listener {
        listen(self.pool.clone(), self.schema.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use sqlx::sqlite::SqliteConnectOptions;
    use tokio::sync::watch::{Receiver, channel};
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::store::SqliteStore;
    use crate::store::sql::{Assignment, Coordinator, SqlStoreSettings};

    const TIMEOUT: Duration = Duration::from_millis(900);

    async fn process(folder: &Path) -> (SqlitePool, Coordinator, Receiver<Assignment>) {
        let options = SqliteConnectOptions::new().filename(folder.join("app.db")).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        let settings = SqlStoreSettings::default().with_schema("outbox");
        SqliteStore::migrate(&pool, &settings).await.unwrap();
        let membership = Arc::new(SqliteMembership::new(
            &pool,
            WritePermits::of(&pool),
            "outbox",
            ThisInstance::named(None),
        ));
        let (sender, assignment) = channel(Assignment::default());
        (pool, Coordinator::start(membership, TIMEOUT, sender, Arc::new(|_| true)), assignment)
    }

    /// Waits until the partition is assigned, and returns its fencing token.
    async fn token(assignment: &mut Receiver<Assignment>) -> i64 {
        let held = timeout(
            Duration::from_secs(10),
            assignment.wait_for(|assignment| !assignment.partitions.is_empty()),
        );
        let held = held.await.unwrap().unwrap();
        assert!(held.until.unwrap() > Instant::now());
        held.partitions[0].1
    }

    #[tokio::test]
    async fn one_process_at_a_time_holds_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (_first_pool, first, mut firsts) = process(folder.path()).await;
        assert_eq!(token(&mut firsts).await, 1);
        let (pool, _second, mut seconds) = process(folder.path()).await;
        assert!(timeout(2 * TIMEOUT, token(&mut seconds)).await.is_err());
        assert_eq!(token(&mut firsts).await, 1);

        // It notifies the other when it leaves.
        let begun = Instant::now();
        first.leave().await;
        assert_eq!(token(&mut seconds).await, 2);
        assert!(begun.elapsed() < TIMEOUT / 3);

        // A member that expires.
        sqlx::query("UPDATE outbox_partitions SET owner = x'00'").execute(&pool).await.unwrap();
        sqlx::query("INSERT INTO outbox_members (id, expires_at) VALUES (x'00', 0)")
            .execute(&pool)
            .await
            .unwrap();
        timeout(2 * TIMEOUT, seconds.wait_for(|assignment| assignment.partitions == [(0, 3)]))
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn messages_of_another_process_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (_pool, coordinator, mut assignment) = process(folder.path()).await;
        token(&mut assignment).await;
        let messages = coordinator.messages();
        while timeout(Duration::from_millis(150), messages.notified()).await.is_ok() {}
        let (other, _coordinator, _assignment) = process(folder.path()).await;
        sqlx::query("CREATE TABLE t (n)").execute(&other).await.unwrap();
        timeout(Duration::from_secs(5), messages.notified()).await.unwrap();
    }
}

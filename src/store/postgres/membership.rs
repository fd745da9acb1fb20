//! How instances share the partitions of a Postgres database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use tokio::sync::Notify;
use uuid::Uuid;

use super::listener::listen;
use super::notifier::{Notifier, PARTITIONS, channel};
use super::own_pool::own_pool;
use super::read_only::ReadOnlyConnections;
use super::statements::quoted;
use crate::store::ThisInstance;
use crate::store::sql::{Listener, Membership, MembershipRow, MembershipView};

pub(super) struct PostgresMembership {
    pool: PgPool,
    schema: String,
    this: ThisInstance,
    read_only: ReadOnlyConnections,
    _notifier: Notifier,
    join: SqlStr,
    heartbeat: SqlStr,
    expire: SqlStr,
    acquire: SqlStr,
    release: SqlStr,
    leave: SqlStr,
}

impl PostgresMembership {
    pub(super) fn new(pool: &PgPool, schema: &str, other_instances: Arc<Notify>, this: ThisInstance) -> Self {
        let pool = own_pool(pool);
        let notify = format!("SELECT pg_notify('{}', '{PARTITIONS}')", channel(schema));
        let quoted = quoted(schema);
        let sql = |text: &str| {
            AssertSqlSafe(text.replace("{schema}", &quoted).replace("{notify}", &notify)).into_sql_str()
        };
        Self {
            _notifier: Notifier::start(pool.clone(), schema, other_instances),
            schema: schema.to_owned(),
            this,
            read_only: ReadOnlyConnections::new(pool.clone()),
            pool,
            join: sql("WITH joined AS (
                     INSERT INTO {schema}.members (id, expires_at, name, version, opened_at, heartbeat_at)
                     VALUES ($1, clock_timestamp() + make_interval(secs => $2), $3, $4,
                         clock_timestamp() - make_interval(secs => $5), clock_timestamp())
                 ) {notify}"),
            // It returns rows only for a member. All rows are of one snapshot, so an owner that is not among the members has
            // expired; and the member loses none of its own partitions while its row is updated.
            heartbeat: sql("WITH beat AS (
                     UPDATE {schema}.members SET expires_at = clock_timestamp() + make_interval(secs => $2),
                         heartbeat_at = clock_timestamp()
                     WHERE id = $1 RETURNING id
                 ), others AS (
                     SELECT count(*) AS members, count(*) FILTER (WHERE id < $1) AS rank,
                         ceil(extract(epoch FROM min(expires_at) FILTER (WHERE id <> $1) - clock_timestamp()) * 1000)::bigint
                             AS next_expiry
                     FROM {schema}.members
                 )
                 SELECT partition, fencing_token, owner IS NOT DISTINCT FROM $1,
                     NOT EXISTS (SELECT FROM {schema}.members WHERE id = owner), members, rank, next_expiry
                 FROM {schema}.partitions, others
                 WHERE EXISTS (SELECT FROM beat)
                 ORDER BY partition"),
            expire: sql("DELETE FROM {schema}.members WHERE expires_at <= clock_timestamp()"),
            // The fencing token decides, not whether the owner is a member: a partition that was acquired after the snapshot of
            // this statement has another token.
            acquire: sql("UPDATE {schema}.partitions AS acquired SET owner = $1, fencing_token = acquired.fencing_token + 1
                 FROM (
                     SELECT partition FROM {schema}.partitions
                     JOIN unnest($2::smallint[], $3::bigint[]) AS free (partition, fencing_token)
                         USING (partition, fencing_token)
                     FOR UPDATE OF partitions SKIP LOCKED
                 ) AS free
                 WHERE acquired.partition = free.partition
                 RETURNING acquired.partition, acquired.fencing_token"),
            release: sql("WITH released AS (
                     UPDATE {schema}.partitions SET owner = NULL WHERE owner = $1 AND partition = ANY($2)
                 ) {notify}"),
            leave: sql("WITH gone AS (
                     DELETE FROM {schema}.members WHERE id = $1
                 ), released AS (
                     UPDATE {schema}.partitions SET owner = NULL WHERE owner = $1
                 ) {notify}"),
        }
    }
}

#[async_trait]
impl Membership for PostgresMembership {
    async fn join(&self, id: Uuid, timeout: Duration) -> Result<(), sqlx::Error> {
        let join = sqlx::query(self.join.clone()).bind(id).bind(timeout.as_secs_f64());
        let join = join.bind(&self.this.name).bind(ThisInstance::VERSION).bind(self.this.age().as_secs_f64());
        join.execute(&self.pool).await.map(drop).inspect_err(|error| self.read_only.on_error(error))
    }

    async fn heartbeat(&self, id: Uuid, timeout: Duration) -> Result<Option<MembershipView>, sqlx::Error> {
        let heartbeat = sqlx::query_as(self.heartbeat.clone()).bind(id).bind(timeout.as_secs_f64());
        let rows: Result<Vec<MembershipRow>, _> = heartbeat.fetch_all(&self.pool).await;
        rows.map(MembershipView::from_rows).inspect_err(|error| self.read_only.on_error(error))
    }

    async fn expire(&self) -> Result<(), sqlx::Error> {
        sqlx::query(self.expire.clone()).execute(&self.pool).await.map(drop)
    }

    async fn acquire(&self, id: Uuid, free: &[(i16, i64)]) -> Result<Vec<(i16, i64)>, sqlx::Error> {
        let (partitions, tokens): (Vec<_>, Vec<_>) = free.iter().copied().unzip();
        let acquire = sqlx::query_as(self.acquire.clone()).bind(id).bind(partitions).bind(tokens);
        acquire.fetch_all(&self.pool).await
    }

    async fn release(&self, id: Uuid, partitions: &[i16]) -> Result<(), sqlx::Error> {
        sqlx::query(self.release.clone())
            .bind(id)
            .bind(partitions.to_vec())
            .execute(&self.pool)
            .await
            .map(drop)
    }

    async fn leave(&self, id: Uuid) -> Result<(), sqlx::Error> {
        sqlx::query(self.leave.clone()).bind(id).execute(&self.pool).await.map(drop)
    }

    fn listen(&self) -> Listener {
        listen(self.pool.clone(), &self.schema)
    }
}

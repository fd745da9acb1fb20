//! How instances share the buckets of a Postgres database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use tokio::sync::Notify;
use uuid::Uuid;

use super::listener::listen;
use super::own_pool::own_pool;
use super::shedder::Shedder;
use super::statements::quoted;
use super::teller::{BUCKETS, Teller, channel};
use crate::store::sql::{Leases, Listening, Sight, SightRow};

pub(super) struct PgLeases {
    pool: PgPool,
    schema: String,
    shedder: Shedder,
    _teller: Teller,
    join: SqlStr,
    beat: SqlStr,
    strike_off: SqlStr,
    take: SqlStr,
    free: SqlStr,
    leave: SqlStr,
}

impl PgLeases {
    /// For the database of an app's pool; `elsewhere` wakes it when messages were stored that another instance is to send.
    pub(super) fn new(pool: &PgPool, schema: &str, elsewhere: Arc<Notify>) -> Self {
        let pool = own_pool(pool);
        let tell = format!("SELECT pg_notify('{}', '{BUCKETS}')", channel(schema));
        let quoted = quoted(schema);
        let sql = |text: &str| {
            AssertSqlSafe(text.replace("{schema}", &quoted).replace("{tell}", &tell)).into_sql_str()
        };
        Self {
            _teller: Teller::start(pool.clone(), schema, elsewhere),
            schema: schema.to_owned(),
            shedder: Shedder::new(pool.clone()),
            pool,
            join: sql("WITH entered AS (
                     INSERT INTO {schema}.relays (id, until)
                     VALUES ($1, clock_timestamp() + make_interval(secs => $2))
                 ) {tell}"),
            // Rows are there only for an instance that is still entered. All are of one snapshot, so an owner that it does not
            // show as entered has been struck off; and of its own it can lose none while its row is updated.
            beat: sql("WITH beat AS (
                     UPDATE {schema}.relays SET until = clock_timestamp() + make_interval(secs => $2)
                     WHERE id = $1 RETURNING id
                 ), instances AS (
                     SELECT count(*) AS instances, count(*) FILTER (WHERE id < $1) AS rank,
                         ceil(extract(epoch FROM min(until) FILTER (WHERE id <> $1) - clock_timestamp()) * 1000)::bigint
                             AS next_end
                     FROM {schema}.relays
                 )
                 SELECT bucket, token, owner IS NOT DISTINCT FROM $1,
                     NOT EXISTS (SELECT FROM {schema}.relays WHERE id = owner), instances, rank, next_end
                 FROM {schema}.buckets, instances
                 WHERE EXISTS (SELECT FROM beat)
                 ORDER BY bucket"),
            strike_off: sql("DELETE FROM {schema}.relays WHERE until <= clock_timestamp()"),
            // By the token, not by whether the owner is entered: a bucket that someone took after the snapshot of this
            // statement has another one.
            take: sql("UPDATE {schema}.buckets AS taken SET owner = $1, token = taken.token + 1
                 FROM (
                     SELECT bucket FROM {schema}.buckets
                     JOIN unnest($2::smallint[], $3::bigint[]) AS free (bucket, token) USING (bucket, token)
                     FOR UPDATE OF buckets SKIP LOCKED
                 ) AS free
                 WHERE taken.bucket = free.bucket
                 RETURNING taken.bucket, taken.token"),
            free: sql("WITH freed AS (
                     UPDATE {schema}.buckets SET owner = NULL WHERE owner = $1 AND bucket = ANY($2)
                 ) {tell}"),
            leave: sql("WITH gone AS (
                     DELETE FROM {schema}.relays WHERE id = $1
                 ), freed AS (
                     UPDATE {schema}.buckets SET owner = NULL WHERE owner = $1
                 ) {tell}"),
        }
    }
}

#[async_trait]
impl Leases for PgLeases {
    async fn join(&self, id: Uuid, lease: Duration) -> Result<(), sqlx::Error> {
        let join = sqlx::query(self.join.clone()).bind(id).bind(lease.as_secs_f64());
        join.execute(&self.pool).await.map(drop).inspect_err(|error| self.shedder.refused(error))
    }

    async fn beat(&self, id: Uuid, lease: Duration) -> Result<Option<Sight>, sqlx::Error> {
        let beat = sqlx::query_as(self.beat.clone()).bind(id).bind(lease.as_secs_f64());
        let rows: Result<Vec<SightRow>, _> = beat.fetch_all(&self.pool).await;
        rows.map(Sight::from_rows).inspect_err(|error| self.shedder.refused(error))
    }

    async fn strike_off(&self) -> Result<(), sqlx::Error> {
        sqlx::query(self.strike_off.clone()).execute(&self.pool).await.map(drop)
    }

    async fn take(&self, id: Uuid, free: &[(i16, i64)]) -> Result<Vec<(i16, i64)>, sqlx::Error> {
        let (buckets, tokens): (Vec<_>, Vec<_>) = free.iter().copied().unzip();
        let take = sqlx::query_as(self.take.clone()).bind(id).bind(buckets).bind(tokens);
        take.fetch_all(&self.pool).await
    }

    async fn free(&self, id: Uuid, buckets: &[i16]) -> Result<(), sqlx::Error> {
        sqlx::query(self.free.clone()).bind(id).bind(buckets.to_vec()).execute(&self.pool).await.map(drop)
    }

    async fn leave(&self, id: Uuid) -> Result<(), sqlx::Error> {
        sqlx::query(self.leave.clone()).bind(id).execute(&self.pool).await.map(drop)
    }

    fn listen(&self) -> Listening {
        listen(self.pool.clone(), &self.schema)
    }
}

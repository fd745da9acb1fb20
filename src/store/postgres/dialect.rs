//! The particulars of Postgres, except the statements.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgPool, Postgres};
use sqlx::{SqlStr, Transaction};
use tokio::sync::Notify;

use super::mark::{BEGIN, is_marked};
use super::membership::PostgresMembership;
use super::statements::quoted;
use super::tables::PostgresTables;
use super::{encoding, pooler};
use crate::store::ThisInstance;
use crate::store::sql::{Dialect, Membership, SqlStoreSettings, Tables, transaction_is_over};
use crate::util::error::BoxError;

/// The codes of a missing table and a missing schema (Postgres, appendix A).
const MISSING: [&str; 2] = ["42P01", "3F000"];

#[async_trait]
impl Dialect for Postgres {
    const NAME: &'static str = "Postgres";

    const MIGRATIONS: &'static [&'static str] = &[
        include_str!("migrations/0001_messages.sql"),
        include_str!("migrations/0002_inbox.sql"),
        include_str!("migrations/0003_trusted_keys.sql"),
        include_str!("migrations/0004_audit.sql"),
        include_str!("migrations/0005_instances.sql"),
    ];

    /// The schema may exist already, made by somebody who has the right to.
    const PREPARE: &'static str = "DO $$ BEGIN
        IF to_regnamespace('{schema}') IS NULL THEN CREATE SCHEMA {schema}; END IF;
        IF to_regclass('{schema}.version') IS NULL THEN
            CREATE TABLE {schema}.version (version integer NOT NULL);
            COMMENT ON TABLE {schema}.version IS 'The version of the tables of tower-outbox in this schema.';
            INSERT INTO {schema}.version VALUES (0);
        END IF;
    END $$";

    const VERSION_TABLE: &'static str = "{schema}.version";

    type Tables = PostgresTables;

    fn tables(pool: PgPool, settings: &SqlStoreSettings) -> PostgresTables {
        PostgresTables::new(pool, settings)
    }

    fn membership(
        tables: &PostgresTables,
        other_instances: &Arc<Notify>,
        this: ThisInstance,
    ) -> Arc<dyn Membership> {
        Arc::new(PostgresMembership::new(tables.pool(), tables.schema(), Arc::clone(other_instances), this))
    }

    fn quoted(schema: &str) -> String {
        quoted(schema)
    }

    fn describe(schema: &str) -> String {
        format!("the schema {schema}")
    }

    async fn check(pool: &PgPool) -> Result<(), BoxError> {
        pooler::refuse(pool).await?;
        encoding::check(pool).await
    }

    async fn begin_migration(pool: &PgPool, schema: &str) -> Result<Transaction<'static, Self>, sqlx::Error> {
        // Each statement must see what the migration before has committed.
        let mut transaction = pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tower_outbox.' || $1, 0))")
            .bind(schema)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    }

    async fn execute(connection: &mut PgConnection, statements: SqlStr) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(statements).execute(connection).await.map(drop)
    }

    async fn version(connection: &mut PgConnection, statement: SqlStr) -> Result<Option<i32>, sqlx::Error> {
        match sqlx::query_scalar(statement).fetch_optional(connection).await {
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| MISSING.contains(&&*code)) =>
            {
                Ok(None)
            }
            version => version,
        }
    }

    #[cfg(feature = "signing")]
    const KEY_TABLE: &'static str = "{schema}.trusted_keys";

    const AUDIT_TABLE: &'static str = "{schema}.audit";

    const INSTANCES: &'static str = "SELECT members.id::text,
            json_build_object('name', name, 'version', version,
                'age', floor(extract(epoch FROM clock_timestamp() - opened_at) * 1000)::bigint,
                'heartbeat_age', floor(extract(epoch FROM clock_timestamp() - heartbeat_at) * 1000)::bigint,
                'expires_in', ceil(extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint,
                'partitions', count(partition))::text
        FROM {schema}.members LEFT JOIN {schema}.partitions ON owner = members.id
        GROUP BY members.id ORDER BY members.id LIMIT 1000";

    async fn pairs(
        pool: &PgPool,
        statement: SqlStr,
        values: Option<[&str; 2]>,
    ) -> Result<Vec<(String, String)>, sqlx::Error> {
        let query =
            values.into_iter().flatten().fold(sqlx::query_as(statement), |query, value| query.bind(value));
        query.fetch_all(pool).await
    }

    const BEGIN: &'static str = BEGIN;

    /// A transaction in which a statement has failed stays until it is rolled back. The statements that insert find one that was
    /// ended by hand.
    async fn is_over(_: &mut PgConnection) -> bool {
        false
    }

    /// The COMMIT of a transaction in which a statement has failed is a ROLLBACK, and no error: any statement fails before it.
    async fn check_open(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        match is_marked(connection).await? {
            true => Ok(()),
            false => Err(transaction_is_over()),
        }
    }

    /// Connection lost, transaction rolled back by the database, read-only since a fail-over, a time limit, no resources, lock not
    /// available, shutdown, fault of the system (Postgres, appendix A).
    fn is_transient(code: &str) -> bool {
        matches!(code, "25006" | "25P03" | "25P04" | "40001" | "40003" | "40P01" | "55P03" | "57014")
            || ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_errors_are_told_from_permanent_ones() {
        for code in [
            "08006", "25006", "25P03", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "58030",
        ] {
            assert!(Postgres::is_transient(code), "{code}");
        }
        for code in ["22021", "22P05", "23505", "28P01", "3D000", "42501", "42P01", "54000", "XX001", ""] {
            assert!(!Postgres::is_transient(code), "{code}");
        }
    }
}

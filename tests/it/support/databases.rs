//! Databases that a test has for itself.

use std::path::Path;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use tower_outbox::store::SqlStoreSettings;

use super::tables::Tables;
use crate::peers::{Brokers, unique};

/// A schema of its own in the real Postgres.
pub struct Schema {
    pub pool: PgPool,
    pub settings: SqlStoreSettings,
}

impl Schema {
    pub async fn new() -> Self {
        Self::named(unique("test").replace('-', "_")).await
    }

    /// The one of another process.
    pub async fn named(name: impl Into<String>) -> Self {
        let brokers = Brokers::running();
        let pool = PgPoolOptions::new().max_connections(8).connect_lazy(brokers.get("POSTGRES")).unwrap();
        Self { pool, settings: SqlStoreSettings::default().with_schema(name) }
    }

    /// The tables of a store in it.
    pub fn tables(&self) -> Tables {
        Tables::postgres(&self.pool, &self.settings)
    }

    /// Runs statements in which `{schema}` stands for its name.
    pub async fn run(&self, statements: &str) {
        let statements = statements.replace("{schema}", &self.settings.schema);
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&self.pool).await.unwrap();
    }

    pub async fn drop(self) {
        self.run("DROP SCHEMA {schema} CASCADE").await;
    }
}

/// A database of its own in the real Postgres.
pub struct Database {
    server: PgPool,
    name: String,
    pub url: String,
}

impl Database {
    pub async fn new() -> Self {
        Self::made_with("").await
    }

    /// One with what these clauses of CREATE DATABASE say.
    pub async fn made_with(clauses: &str) -> Self {
        let (brokers, name) = (Brokers::running(), unique("test"));
        let server = brokers.get("POSTGRES");
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        let server = PgPool::connect(server).await.unwrap();
        let create = AssertSqlSafe(format!("CREATE DATABASE \"{name}\" {clauses}"));
        sqlx::raw_sql(create).execute(&server).await.unwrap();
        Self { server, name, url }
    }

    pub async fn drop(self) {
        let drop = AssertSqlSafe(format!("DROP DATABASE \"{}\" WITH (FORCE)", self.name));
        sqlx::raw_sql(drop).execute(&self.server).await.unwrap();
    }
}

/// As an app would open its own file.
pub async fn sqlite(folder: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(folder.join("app.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap()
}

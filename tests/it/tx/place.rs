//! Where a suite of transactions runs: a database with users, orders and an outbox.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::Request;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, Postgres};
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Database};
use tempfile::TempDir;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_outbox::dummy::Dummy;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::{Limits, PostgresStore, SqlStoreSettings, SqliteStore, Store};
use tower_outbox::testing::Recording;
use tower_outbox::tx::{PersistError, TxDatabase};
use tower_outbox::{Bus, Message, MessageQueue, MessagingLayer, Settings};

use crate::peers::{Brokers, unique};
use crate::support::stores::{STUCK, until};
use crate::support::tables::Tables;

/// An order is of a user; that is looked at when it is committed.
const TABLES: &str = "
    CREATE TABLE users (name text PRIMARY KEY);
    CREATE TABLE orders (name text REFERENCES users (name) DEFERRABLE INITIALLY DEFERRED);";

pub type Connection<P> = <<P as Place>::Kind as Database>::Connection;

/// A database of a test's own.
pub trait Place: Clone + Send + Sync + 'static {
    type Kind: TxDatabase;

    /// How long a transaction stays open whose messages a store does not look for any more.
    const LONG: Duration;

    /// A layer whose relay does not run: what is stored stays.
    fn layer(&self) -> impl Future<Output = MessagingLayer> + Send {
        async { MessagingLayer::new(self.outbox().await) }
    }

    fn outbox(&self) -> impl Future<Output = Outbox<Dummy>> + Send {
        async { Outbox::new(Dummy::new(), self.store().await, RelaySettings::default()).0 }
    }

    fn store(&self) -> impl Future<Output = Arc<dyn Store>> + Send;

    /// The same with a pool of one connection, for which nobody waits long.
    fn narrow(&self) -> impl Future<Output = MessagingLayer> + Send;

    fn with_retention(&self, retention: Duration) -> Self;

    fn with_limits(&self, limits: Limits) -> Self;

    /// Writes a row and persists the event in a transaction of the app's own, which ends as it says.
    fn own(
        &self,
        queue: &MessageQueue,
        commit: bool,
    ) -> impl Future<Output = Result<usize, PersistError>> + Send;

    /// Starts a bus on this database that sends to this recording.
    fn bus(&self, settings: &Settings, recording: Recording) -> impl Future<Output = Bus> + Send;

    /// Writes a row and persists the event through a bus, in a transaction of the app's own, which stays open so long and
    /// ends as `commit` says.
    fn own_of_bus(
        &self,
        bus: &Bus,
        commit: bool,
        open: Duration,
        messages: Vec<Message>,
    ) -> impl Future<Output = Result<usize, PersistError>> + Send;

    /// Persists through a connection that is in no transaction.
    fn bare(&self, queue: &MessageQueue) -> impl Future<Output = Result<usize, PersistError>> + Send;

    fn execute(
        connection: &mut Connection<Self>,
        sql: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// In a savepoint, which ends as it says.
    fn nested(
        connection: &mut Connection<Self>,
        sql: &str,
        commit: bool,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// As another client sees it.
    fn number(&self, sql: &str) -> impl Future<Output = i64> + Send;

    /// The one text of each row, as another client sees it.
    fn texts(&self, sql: &str) -> impl Future<Output = Vec<String>> + Send;

    /// The tables of the outbox, as another client sees them.
    fn tables(&self) -> Tables;

    /// The schema, or the prefix, of the tables of the outbox.
    fn schema(&self) -> &str;

    /// A statement that ends or spoils the transaction it fails in.
    fn spoil() -> &'static str;

    fn rows(&self) -> impl Future<Output = i64> + Send {
        async { self.number("SELECT count(*) FROM users").await }
    }

    fn events(&self) -> impl Future<Output = Vec<String>> + Send {
        async { self.tables().topics().await }
    }

    fn clear_rows(&self) -> impl Future<Output = ()> + Send {
        async {
            self.texts("DELETE FROM users RETURNING name").await;
        }
    }

    fn clear(&self) -> impl Future<Output = ()> + Send {
        async {
            self.texts("DELETE FROM users RETURNING name").await;
            self.tables().delete_messages().await;
        }
    }

    /// Sees to it that the next request finds a connection in the pool.
    fn warm(&self) -> impl Future<Output = ()> + Send;

    /// No connection stands in a transaction that nobody ends.
    fn assert_nothing_is_left_open(&self) -> impl Future<Output = ()> + Send;

    /// Both are there once, or neither is.
    fn assert(&self, both: bool, why: &str) -> impl Future<Output = ()> + Send {
        let why = why.to_owned();
        async move {
            let events: &[&str] = if both { &["user.created"] } else { &[] };
            assert_eq!((self.rows().await, self.events().await), (i64::from(both), strings(events)), "{why}");
        }
    }
}

pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

pub async fn insert<P: Place>(connection: &mut Connection<P>, name: &str) {
    P::execute(connection, &format!("INSERT INTO users VALUES ('{name}')")).await.unwrap();
}

pub fn created(queue: &MessageQueue) {
    queue.enqueue(Message::json("user.created", &serde_json::json!({"name": "Jo"})).unwrap()).unwrap();
}

/// A row and its event.
pub async fn both<P: Place>(connection: &mut Connection<P>, queue: &MessageQueue) {
    insert::<P>(connection, "Jo").await;
    created(queue);
}

pub async fn ask(app: &Router, request: Request<Body>) -> Response {
    timeout(STUCK, app.clone().oneshot(request)).await.expect("it is answered").unwrap()
}

pub async fn post(app: &Router) -> Response {
    ask(app, Request::post("/").body(Body::empty()).unwrap()).await
}

/// Waits until nothing is in flight any more.
pub async fn quiet(layer: &MessagingLayer) {
    timeout(STUCK, layer.in_flight().wait_idle()).await.expect("it comes to an end");
}

/// A schema of its own.
#[derive(Clone)]
pub struct Pg {
    pub options: PgConnectOptions,
    pub pool: PgPool,
    /// Of another client.
    pub other: PgPool,
    pub settings: SqlStoreSettings,
}

impl Pg {
    pub async fn new() -> Self {
        let schema = unique("tx").replace('-', "_");
        let options: PgConnectOptions = Brokers::running().get("POSTGRES").parse().unwrap();
        // The requests of the tests.
        let options = options.options([("search_path", schema.as_str())]);
        let other = PgPoolOptions::new().max_connections(2).connect_with(options.clone()).await.unwrap();
        let options = options.application_name(&schema);
        let pool = PgPoolOptions::new().max_connections(10).connect_with(options.clone()).await.unwrap();
        let settings = SqlStoreSettings::default().with_schema(&schema);
        PostgresStore::migrate(&pool, &settings).await.unwrap();
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
        Self { options, pool, other, settings }
    }

    /// How many connections stand in a transaction and do nothing.
    pub async fn idle_in_transaction(&self) -> i64 {
        let name = &self.settings.schema;
        self.number(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND state LIKE 'idle in%'"
        ))
        .await
    }
}

impl Place for Pg {
    type Kind = Postgres;

    /// Longer than the store takes to become idle.
    const LONG: Duration = Duration::from_millis(4_500);

    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(self.pool.clone(), &self.settings).await.unwrap())
    }

    async fn narrow(&self) -> MessagingLayer {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(1));
        let pool = pool.connect_with(self.options.clone()).await.unwrap();
        let store = PostgresStore::open(pool, &self.settings).await.unwrap();
        MessagingLayer::new(Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default()).0)
    }

    fn with_retention(&self, retention: Duration) -> Self {
        Self { settings: self.settings.clone().with_inbox_retention(retention), ..self.clone() }
    }

    fn with_limits(&self, limits: Limits) -> Self {
        Self { settings: self.settings.clone().with_limits(limits), ..self.clone() }
    }

    async fn own(&self, queue: &MessageQueue, commit: bool) -> Result<usize, PersistError> {
        let mut transaction = self.pool.begin().await.unwrap();
        insert::<Self>(&mut transaction, "Jo").await;
        let persisted = queue.persist(&mut *transaction).await?;
        if commit { transaction.commit().await } else { transaction.rollback().await }.unwrap();
        Ok(persisted)
    }

    async fn bus(&self, settings: &Settings, recording: Recording) -> Bus {
        Bus::builder(settings)
            .with_postgres(self.pool.clone())
            .with_decorator(|_| recording)
            .start()
            .await
            .unwrap()
    }

    async fn own_of_bus(
        &self,
        bus: &Bus,
        commit: bool,
        open: Duration,
        messages: Vec<Message>,
    ) -> Result<usize, PersistError> {
        let mut transaction = self.pool.begin().await.unwrap();
        insert::<Self>(&mut transaction, "Jo").await;
        let persisted = bus.persist(&mut *transaction, messages).await?;
        tokio::time::sleep(open).await;
        if commit { transaction.commit().await } else { transaction.rollback().await }.unwrap();
        Ok(persisted)
    }

    async fn bare(&self, queue: &MessageQueue) -> Result<usize, PersistError> {
        queue.persist(&mut *self.pool.acquire().await.unwrap()).await
    }

    async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
    }

    async fn nested(connection: &mut PgConnection, sql: &str, commit: bool) -> Result<(), sqlx::Error> {
        let mut nested = sqlx::Connection::begin(connection).await?;
        Self::execute(&mut nested, sql).await?;
        if commit { nested.commit().await } else { nested.rollback().await }
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.other).await.unwrap()
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&self.other).await.unwrap()
    }

    async fn warm(&self) {
        drop(self.pool.acquire().await.unwrap());
        until("a connection is free", async || self.pool.num_idle() > 0).await;
    }

    async fn assert_nothing_is_left_open(&self) {
        until("no connection is in a transaction", async || self.idle_in_transaction().await == 0).await;
    }

    fn tables(&self) -> Tables {
        Tables::postgres(&self.other, &self.settings)
    }

    fn schema(&self) -> &str {
        &self.settings.schema
    }

    fn spoil() -> &'static str {
        "SELECT 1 / 0"
    }
}

/// A file of its own.
#[derive(Clone)]
pub struct Lite {
    options: SqliteConnectOptions,
    pool: SqlitePool,
    /// Of another client.
    other: SqlitePool,
    pub settings: SqlStoreSettings,
    _folder: Arc<TempDir>,
}

impl Lite {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("app.db"))
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(10).connect_with(options.clone()).await.unwrap();
        let other = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let settings = SqlStoreSettings::default();
        SqliteStore::migrate(&pool, &settings).await.unwrap();
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
        let spoil = "CREATE TABLE spoilt (name text);
            CREATE TRIGGER spoil BEFORE INSERT ON spoilt BEGIN SELECT RAISE(ROLLBACK, 'spoilt'); END;";
        sqlx::raw_sql(spoil).execute(&pool).await.unwrap();
        Self { options, pool, other, settings, _folder: Arc::new(folder) }
    }

    /// The same with another pool: of so many connections, for which it waits so long, as for the end of another writer.
    pub async fn with_pool(&self, connections: u32, acquire: Duration, busy: Duration) -> Self {
        let options = self.options.clone().busy_timeout(busy);
        let pool = SqlitePoolOptions::new().max_connections(connections).acquire_timeout(acquire);
        Self { pool: pool.connect_with(options).await.unwrap(), ..self.clone() }
    }
}

impl Place for Lite {
    type Kind = Sqlite;

    /// Shorter than other writers wait.
    const LONG: Duration = Duration::from_secs(1);

    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(self.pool.clone(), &self.settings).await.unwrap())
    }

    async fn narrow(&self) -> MessagingLayer {
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(1));
        let pool = pool.connect_with(self.options.clone()).await.unwrap();
        let store = SqliteStore::open(pool, &self.settings).await.unwrap();
        MessagingLayer::new(Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default()).0)
    }

    fn with_retention(&self, retention: Duration) -> Self {
        Self { settings: self.settings.clone().with_inbox_retention(retention), ..self.clone() }
    }

    fn with_limits(&self, limits: Limits) -> Self {
        Self { settings: self.settings.clone().with_limits(limits), ..self.clone() }
    }

    async fn own(&self, queue: &MessageQueue, commit: bool) -> Result<usize, PersistError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        insert::<Self>(&mut transaction, "Jo").await;
        let persisted = queue.persist(&mut *transaction).await?;
        if commit { transaction.commit().await } else { transaction.rollback().await }.unwrap();
        Ok(persisted)
    }

    async fn bus(&self, settings: &Settings, recording: Recording) -> Bus {
        Bus::builder(settings)
            .with_sqlite(self.pool.clone())
            .with_decorator(|_| recording)
            .start()
            .await
            .unwrap()
    }

    async fn own_of_bus(
        &self,
        bus: &Bus,
        commit: bool,
        open: Duration,
        messages: Vec<Message>,
    ) -> Result<usize, PersistError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        insert::<Self>(&mut transaction, "Jo").await;
        let persisted = bus.persist(&mut *transaction, messages).await?;
        tokio::time::sleep(open).await;
        if commit { transaction.commit().await } else { transaction.rollback().await }.unwrap();
        Ok(persisted)
    }

    async fn bare(&self, queue: &MessageQueue) -> Result<usize, PersistError> {
        queue.persist(&mut *self.pool.acquire().await.unwrap()).await
    }

    async fn execute(connection: &mut SqliteConnection, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
    }

    async fn nested(connection: &mut SqliteConnection, sql: &str, commit: bool) -> Result<(), sqlx::Error> {
        let mut nested = sqlx::Connection::begin(connection).await?;
        Self::execute(&mut nested, sql).await?;
        if commit { nested.commit().await } else { nested.rollback().await }
    }

    async fn number(&self, sql: &str) -> i64 {
        let mut other: SqliteConnection = sqlx::ConnectOptions::connect(&self.options).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut other).await.unwrap()
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let mut other: SqliteConnection = sqlx::ConnectOptions::connect(&self.options).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut other).await.unwrap()
    }

    /// Opening a file is soon done.
    async fn warm(&self) {}

    /// Nothing to look for: a writer would find the lock.
    async fn assert_nothing_is_left_open(&self) {
        self.clear().await;
    }

    fn tables(&self) -> Tables {
        Tables::sqlite(&self.other, &self.settings)
    }

    fn schema(&self) -> &str {
        &self.settings.schema
    }

    fn spoil() -> &'static str {
        "INSERT INTO spoilt VALUES ('x')"
    }
}

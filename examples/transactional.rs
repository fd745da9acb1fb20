//! One COMMIT makes a user and its event true, in the app's own database.
//!
//!     cargo run --example transactional                                   SQLite, a file in a temporary folder
//!     DATABASE_URL=postgres://localhost cargo run --example transactional
//!
//! Then, in another shell; the second time it is a 409, and there is neither a row nor an event:
//!
//!     curl -si http://127.0.0.1:3000/users -H 'content-type: text/plain' -d Jo

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::{Router, http::StatusCode, routing::post};
use sqlx::{Encode, Executor, IntoArguments, Postgres, Sqlite, Type, postgres::PgPool, sqlite};
use tokio::sync::oneshot;
use tower_outbox::dummy::Dummy;
use tower_outbox::outbox::{Outbox, Relay, RelaySettings};
use tower_outbox::store::{PostgresStore, SqlStoreSettings, SqliteStore};
use tower_outbox::tx::TxDatabase;
use tower_outbox::{BoxError, Message, MessageQueue, MessagingLayer, Tx};

const USERS: &str = "CREATE TABLE IF NOT EXISTS users (name text PRIMARY KEY)";

/// In an app it is of one database, and needs none of these bounds: `mut tx: Tx<Postgres>`.
async fn create_user<DB>(mut tx: Tx<DB>, queue: MessageQueue, name: String) -> Result<StatusCode, StatusCode>
where
    DB: TxDatabase,
    DB::Arguments: IntoArguments<DB>,
    for<'a> &'a str: Encode<'a, DB> + Type<DB>,
    for<'a> &'a mut DB::Connection: Executor<'a, Database = DB>,
{
    let insert = sqlx::query("INSERT INTO users (name) VALUES ($1)").bind(name.as_str());
    insert.execute(&mut *tx).await.map_err(|_| StatusCode::CONFLICT)?;
    let event = Message::json("user.created", &serde_json::json!({"name": name}));
    let enqueued = event.map_err(BoxError::from).and_then(|event| Ok(queue.enqueue(event)?));
    enqueued.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    // The layer commits both before the 201 goes out; whatever else is answered undoes both.
    Ok(StatusCode::CREATED)
}

async fn in_postgres(url: &str) -> Result<(Router, Relay<Dummy>), BoxError> {
    let (pool, settings) = (PgPool::connect(url).await?, SqlStoreSettings::default());
    sqlx::query(USERS).execute(&pool).await?;
    PostgresStore::migrate(&pool, &settings).await?;
    let store = PostgresStore::open(pool, &settings).await?;
    let (outbox, relay) = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default());
    let app = Router::new().route("/users", post(create_user::<Postgres>));
    Ok((app.layer(MessagingLayer::new(outbox)), relay))
}

async fn in_sqlite(file: &std::path::Path) -> Result<(Router, Relay<Dummy>), BoxError> {
    let options = sqlite::SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let options = options.journal_mode(sqlite::SqliteJournalMode::Wal);
    let (pool, settings) = (sqlite::SqlitePool::connect_with(options).await?, SqlStoreSettings::default());
    sqlx::query(USERS).execute(&pool).await?;
    SqliteStore::migrate(&pool, &settings).await?;
    let store = SqliteStore::open(pool, &settings).await?;
    let (outbox, relay) = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default());
    let app = Router::new().route("/users", post(create_user::<Sqlite>));
    Ok((app.layer(MessagingLayer::new(outbox)), relay))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    tracing_subscriber::fmt().with_env_filter("info").init();
    let folder = tempfile::tempdir()?;
    let (app, relay) = match std::env::var("DATABASE_URL") {
        Ok(url) => in_postgres(&url).await?,
        Err(_) => in_sqlite(&folder.path().join("app.db")).await?,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let relay =
        tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, Duration::from_secs(10)));
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) }).await?;
    drop(stop);
    println!("{} events wait for the next start", relay.await?.pending);
    Ok(())
}

//! One COMMIT stores a user and its event, in the app's own database.
//!
//!     cargo run --example transactional --features sqlite [ADDRESS]
//!
//! The database is a SQLite file in a temporary folder. Try this twice in another terminal; the second request gets 409, and
//! stores neither a row nor an event:
//!
//!     curl -si http://127.0.0.1:3000/users -H 'content-type: text/plain' -d Jo
//!
//! With the feature `postgres` it is `Tx<Postgres>`, a `PgPool`, and `with_postgres`.

use axum::{Router, http::StatusCode, routing::post};
use serde::Serialize;
use sqlx::Sqlite;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use tower_outbox::{BoxError, Bus, EnqueueError, Event, MessageQueue, Settings, Tx};

#[derive(Serialize)]
struct UserCreated {
    name: String,
}

impl Event for UserCreated {
    const TOPIC: &'static str = "user.created";
}

async fn create_user(
    mut tx: Tx<Sqlite>,
    queue: MessageQueue,
    name: String,
) -> Result<StatusCode, EnqueueError> {
    let insert = sqlx::query("INSERT INTO users (name) VALUES ($1)").bind(&name);
    if insert.execute(&mut *tx).await.is_err() {
        return Ok(StatusCode::CONFLICT);
    }
    queue.emit(&UserCreated { name })?;
    // The layer commits both before the response goes out. Any other status rolls both back.
    Ok(StatusCode::CREATED)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_env_filter("info").init();

    let folder = tempfile::tempdir()?;
    let options = SqliteConnectOptions::new().filename(folder.path().join("app.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options.journal_mode(SqliteJournalMode::Wal)).await?;
    sqlx::query("CREATE TABLE users (name text PRIMARY KEY)").execute(&pool).await?;

    let settings: Settings = toml::from_str("DELIVERY = 'transactional'")?;
    let bus = Bus::builder(&settings).with_sqlite(pool).start().await?;
    let app = Router::new().route("/users", post(create_user)).layer(bus.layer());

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = Bus::listen(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(bus.serve(listener, app).await?)
}

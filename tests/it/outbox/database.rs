//! `DELIVERY = "transactional"`: from the settings, or with the app's own pool.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, StatusCode};
use sqlx::{Sqlite, SqlitePool};
use tempfile::TempDir;
use tower::ServiceExt;
use tower_outbox::bus::BusBuilder;
use tower_outbox::settings::DatabaseUrl;
use tower_outbox::testing::{Recording, Sent};
use tower_outbox::{Bus, MessageQueue, Settings, SettingsError, Tx};

use crate::support::message;
use crate::support::stores::until;

fn settings(folder: &TempDir, keys: &str) -> Settings {
    let url = format!("sqlite:{}", folder.path().join("app.db").display());
    let text = format!("DELIVERY = \"transactional\"\n[OUTBOX]\nDATABASE_URL = \"{url}\"\n{keys}");
    toml::from_str(&text).unwrap()
}

fn recorded(builder: BusBuilder<'_>) -> (BusBuilder<'_>, Sent) {
    let recording = Recording::new();
    let sent = recording.listen();
    (builder.with_backend("dummy", move |_| Ok::<_, std::convert::Infallible>(recording)), sent)
}

async fn create_user(mut tx: Tx<Sqlite>, queue: MessageQueue) -> StatusCode {
    sqlx::query("INSERT INTO users (name) VALUES ('Jo')").execute(&mut *tx).await.unwrap();
    queue.enqueue(message("user.created")).unwrap();
    StatusCode::CREATED
}

async fn users(pool: &SqlitePool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(pool).await.unwrap()
}

/// The app's database, with its table.
async fn app_database(folder: &TempDir) -> SqlitePool {
    let path = folder.path().join("app.db");
    let pool = SqlitePool::connect(&format!("sqlite:{}?mode=rwc", path.display())).await.unwrap();
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS users (name TEXT)").execute(&pool).await.unwrap();
    pool
}

async fn post_to(bus: &Bus) -> StatusCode {
    let app: Router = Router::new().route("/", post(create_user)).layer(bus.layer());
    app.oneshot(Request::post("/").body(Body::empty()).unwrap()).await.unwrap().status()
}

#[tokio::test]
async fn rows_and_events_of_a_bus_from_settings_come_together() {
    let folder = tempfile::tempdir().unwrap();
    let pool = app_database(&folder).await;
    let settings = settings(&folder, "");
    let (builder, sent) = recorded(Bus::builder(&settings));
    let bus = builder.start().await.unwrap();
    assert_eq!(post_to(&bus).await, StatusCode::CREATED);
    assert_eq!(users(&pool).await, 1);
    until("it is sent", async || sent.topics() == ["user.created"]).await;
    let shutdown = bus.shutdown(Duration::from_secs(10)).await;
    assert!(shutdown.is_clean() && shutdown.stored == 0, "{shutdown:?}");
}

#[tokio::test]
async fn the_pool_of_the_app_is_used_in_place_of_a_url() {
    let folder = tempfile::tempdir().unwrap();
    let pool = app_database(&folder).await;
    let settings: Settings = toml::from_str("DELIVERY = \"transactional\"").unwrap();
    let (builder, sent) = recorded(Bus::builder(&settings).with_sqlite(pool.clone()));
    let bus = builder.start().await.unwrap();
    assert_eq!(post_to(&bus).await, StatusCode::CREATED);
    until("it is sent", async || sent.topics() == ["user.created"]).await;
    let _ = bus.shutdown(Duration::from_secs(10)).await;
    assert_eq!(users(&pool).await, 1, "the pool stays open");
}

#[tokio::test]
async fn a_process_without_relay_stores_for_others() {
    let folder = tempfile::tempdir().unwrap();
    app_database(&folder).await;
    let storing = settings(&folder, "RELAY = false");
    let (builder, sent) = recorded(Bus::builder(&storing));
    let storing = builder.start().await.unwrap();
    assert_eq!(post_to(&storing).await, StatusCode::CREATED);
    assert_eq!(storing.outbox().unwrap().status().await.unwrap().counts.pending, 1);

    let sending = settings(&folder, "");
    let (builder, sent_by_other) = recorded(Bus::builder(&sending));
    let sending = builder.start().await.unwrap();
    until("the other sends it", async || sent_by_other.topics() == ["user.created"]).await;
    assert!(sent.topics().is_empty());
    let _ = sending.shutdown(Duration::from_secs(10)).await;
    let _ = storing.shutdown(Duration::from_secs(10)).await;
}

async fn refused(settings: &Settings) -> String {
    let error = Bus::start(settings).await.unwrap_err();
    assert!(matches!(error, SettingsError::Outbox { .. }), "{error:?}");
    let (mut said, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        said += &format!(": {error}");
        cause = error.source();
    }
    said
}

#[tokio::test]
async fn a_missing_queue_is_reported_with_its_cure() {
    let none: Settings = toml::from_str("DELIVERY = \"transactional\"").unwrap();
    let said = refused(&none).await;
    assert!(said.contains("OUTBOX.DATABASE_URL") && said.contains("with_postgres"), "{said}");

    let mut other = none.clone();
    other.outbox.database_url = Some(DatabaseUrl::from("mysql://jo:geheim@h/db"));
    let said = refused(&other).await;
    assert!(said.contains("\"mysql\"") && said.contains("postgres://") && !said.contains("geheim"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let said = refused(&settings(&folder, "MIGRATE = false")).await;
    assert!(said.contains("migrate"), "{said}");

    let said = refused(&settings(&folder, "SCHEMA = \"a; DROP TABLE users\"")).await;
    assert!(said.contains("letters, digits and underscores"), "{said}");
}

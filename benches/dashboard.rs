//! The time to the first byte of each page of the dashboard, with a million stored messages.
//!
//!     cargo bench -p tower-outbox-benches --bench dashboard
//!     STORED=200000 cargo bench -p tower-outbox-benches --bench dashboard     another number of messages
//!
//! A tenth are dead letters, the others wait for a broker that is down; the bodies have 300 bytes. It prints the median and the longest of
//! 21 requests, for the local disk, for SQLite, and for Postgres if `scripts/brokers up postgres` has started it, and the memory of the
//! process after them. `ONLY=sqlite` measures one of them.
#![allow(clippy::unwrap_used, reason = "a fault ends the bench")]

mod support;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use http::Request;
use support::{disk, root};
use tower::ServiceExt;
use tower_outbox::message::Settlement;
use tower_outbox::store::{
    EmbeddedStore, EmbeddedStoreSettings, Limits, PostgresStore, SqlStoreSettings, SqliteStore, Store,
};
use tower_outbox::{Bus, Failure, Health, Message, Messenger, Settings, Unsent, async_trait};

const ROUNDS: usize = 21;

/// Messages and bytes that a store may hold: more than are stored.
const ROOM: u64 = 1 << 40;

/// The pages, with filters that match much, little and nothing.
const PAGES: [&str; 13] = [
    "overview",
    "messages",
    "messages?state=dead",
    "messages?state=pending&after=500000",
    "messages?topic=order.7",
    "messages?topic=nothing",
    "messages?id=01890a5d-ac96-774b-bcce-b302099a8057",
    "messages?state=dead&reason=code+3",
    "message?position=500000",
    "dead-letters",
    "topics",
    "consumers",
    "audit",
];

/// A broker that is down.
struct Down;

#[async_trait]
impl Messenger for Down {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        Err(Unsent::new(batch, &Failure::transient("no broker")))
    }

    async fn health(&self) -> Health {
        Health::Down { reason: "no broker answers".to_owned() }
    }
}

#[tokio::main]
async fn main() {
    let stored =
        std::env::var("STORED").ok().map_or(1_000_000, |stored| stored.parse().expect("STORED is a number"));
    let folder = disk::folder("dashboard");
    println!("{stored} messages; ms to the first byte, median and longest of {ROUNDS}");
    let only = std::env::var("ONLY").ok();
    let is_asked = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if is_asked("durable") {
        durable(folder.path(), stored).await;
    }
    if is_asked("sqlite") {
        sqlite(folder.path(), stored).await;
    }
    if is_asked("postgres") {
        postgres(stored).await;
    }
}

async fn durable(folder: &Path, stored: usize) {
    let path = folder.join("outbox");
    let mut limits = Limits::default();
    (limits.max_messages, limits.max_bytes) = (ROOM, ROOM);
    let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(&path).with_limits(limits)).await.unwrap();
    fill(Arc::new(store), stored).await;
    measure("local disk", &format!("DELIVERY = 'durable'\n[OUTBOX]\nPATH = {path:?}")).await;
}

async fn sqlite(folder: &Path, stored: usize) {
    let url = format!("sqlite:{}?mode=rwc", folder.join("app.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let mut settings = SqlStoreSettings::default();
    (settings.limits.max_messages, settings.limits.max_bytes) = (ROOM, ROOM);
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    fill(Arc::new(SqliteStore::open(pool, &settings).await.unwrap()), stored).await;
    measure("SQLite", &format!("DELIVERY = 'transactional'\n[OUTBOX]\nDATABASE_URL = '{url}'")).await;
}

async fn postgres(stored: usize) {
    let known = std::fs::read_to_string(root("target/brokers/env")).unwrap_or_default();
    let Some(url) = known.lines().find_map(|line| line.strip_prefix("POSTGRES=")) else {
        return println!("no Postgres: run scripts/brokers up postgres");
    };
    let schema = format!("bench_{}", std::process::id());
    let mut settings = SqlStoreSettings::default().with_schema(schema.clone());
    (settings.limits.max_messages, settings.limits.max_bytes) = (ROOM, ROOM);
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    PostgresStore::migrate(&pool, &settings).await.unwrap();
    fill(Arc::new(PostgresStore::open(pool.clone(), &settings).await.unwrap()), stored).await;
    let keys = format!("DELIVERY = 'transactional'\n[OUTBOX]\nDATABASE_URL = '{url}'\nSCHEMA = '{schema}'");
    measure("Postgres", &keys).await;
    let drop = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE")));
    drop.execute(&pool).await.unwrap();
}

/// Stores messages, of which the first tenth become dead letters.
async fn fill(store: Arc<dyn Store>, stored: usize) {
    let message = |number: usize| {
        let body = serde_json::json!({"number": number, "text": "x".repeat(270)});
        Message::json(format!("order.{}", number % 100), &body).unwrap()
    };
    let mut next = 0;
    while next < stored {
        let end = (next + 2_000).min(stored);
        store.append((next..end).map(message).collect()).await.unwrap();
        next = end;
    }
    let mut dead = 0;
    while dead < stored / 10 {
        let leased = store.lease(1_000.min(stored / 10 - dead)).await.unwrap();
        let settled: Vec<_> = leased
            .into_iter()
            .enumerate()
            .map(|(at, leased)| {
                (leased.lease, Settlement::Reject { reason: format!("refused with code {}", at % 5).into() })
            })
            .collect();
        dead += settled.len();
        store.settle(&settled).await.unwrap();
    }
    store.close().await;
}

async fn measure(name: &str, keys: &str) {
    let text = format!("BACKEND = 'own'\n{keys}\nMAX_MESSAGES = 100000000\nMAX_BYTES = '100GiB'");
    let settings: Settings = toml_of(&text);
    let bus =
        Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(Down)).start().await.unwrap();
    let router = bus.dashboard().without_guard();
    println!("{name}");
    for page in PAGES {
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            times.push(first_byte(&router, page).await);
        }
        times.sort_by(f64::total_cmp);
        println!("  {page:<40} {:>7.1} {:>7.1}", times[ROUNDS / 2], times[ROUNDS - 1]);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: unknown");
    println!("  {memory}");
    let _ = bus.shutdown(std::time::Duration::from_secs(5)).await;
}

/// A page is rendered as a whole before its first byte.
async fn first_byte(router: &Router, page: &str) -> f64 {
    let request = Request::get(format!("/{page}")).body(Body::empty()).unwrap();
    let begun = Instant::now();
    let response = router.clone().oneshot(request).await.unwrap();
    let took = begun.elapsed().as_secs_f64() * 1e3;
    assert!(response.status().is_success(), "{page}: {}", response.status());
    took
}

/// The settings of this TOML text.
fn toml_of(text: &str) -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.toml");
    let text = text.replace("\n[OUTBOX]", "\n[MESSAGE_BUS.OUTBOX]");
    std::fs::write(&file, format!("[MESSAGE_BUS]\n{text}")).unwrap();
    Settings::from_file(file).unwrap()
}

//! The cost of the transactional outbox to a request, and the rate at which relays send messages stored in Postgres.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench transactional
//!     cargo bench -p tower-outbox-benches --bench transactional -- request     one part alone: request, latency, relay, rivals, bloat
//!     cargo bench -p tower-outbox-benches --bench transactional -- --quick     a short run
//!
//! | part | what | against |
//! |---|---|---|
//! | request | requests/s over loopback, 64 connections, each inserting a row and one event of 300 bytes in one transaction | the same with sqlx alone, without the event |
//! | latency | from `Ok` of `append` to RabbitMQ's confirm, 1 and 16 at a time | a direct send |
//! | relay | a backlog of 1 million rows to RabbitMQ, confirmed: one instance, and four | lapin alone, pipelined |
//! | rivals | the same by `outbox-postgres` and `hexeract-outbox`, of the first messages of such a backlog | the one instance |
//! | bloat | table, index and dead rows while 10 million messages go through, at a steady rate | – |
//!
//! `synchronous_commit` is on everywhere. All of it but Postgres and RabbitMQ lives in this process, the rivals in one of
//! their own, which is built from `benches/rivals/outbox`.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::routing::post;
use sqlx::postgres::{PgPool, PgPoolOptions, Postgres};
use support::broker::Broker;
use support::latency::{amqp091, message};
use support::load::Load;
use support::raw::{Raw, Until, encode};
use support::relay::relay;
use support::{Event, NoOp, Spread, asked, quick, root};
use tower_outbox::outbox::{Outbox, OutboxHandle, RelaySettings};
use tower_outbox::store::{PostgresStore, SqlStoreSettings};
use tower_outbox::{EnqueueError, Message, MessageQueue, MessagingLayer, Messenger, Tx};

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 11;
const TURN: Duration = Duration::from_secs(2);
const BACKLOG: u64 = 1_000_000;
const INSTANCES: usize = 4;
/// How many messages of a backlog the rivals are timed over: they are slow.
const RIVALS: u64 = 20_000;
const BLOAT: u64 = 10_000_000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    if asked("request") {
        request().await;
    }
    if asked("latency") {
        let broker = Broker::find("bench.transactional");
        let rounds = if quick() { 3 } else { 21 };
        support::latency::latency(&broker, Arc::new(Database::new().await.store().await), rounds).await;
    }
    if asked("relay") || asked("rivals") {
        backlog(asked("rivals")).await;
    }
    if asked("bloat") {
        bloat().await;
    }
}

/// A schema of our own.
struct Database {
    url: String,
    settings: SqlStoreSettings,
}

impl Database {
    async fn new() -> Self {
        let known = std::fs::read_to_string(root("target/brokers/env")).unwrap_or_default();
        let url = known.lines().find_map(|line| line.strip_prefix("POSTGRES="));
        let url = std::env::var("DATABASE_URL").ok().or_else(|| url.map(str::to_owned));
        let url = url.expect("no Postgres: run scripts/brokers up, or set DATABASE_URL");
        let schema = format!("bench_{}", std::process::id());
        let mut settings = SqlStoreSettings::default().with_schema(schema);
        settings.limits.max_messages = u64::MAX;
        settings.limits.max_bytes = u64::MAX;
        let database = Self { url, settings };
        let pool = database.pool(1).await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "DROP SCHEMA IF EXISTS {} CASCADE",
            database.settings.schema
        )))
        .execute(&pool)
        .await
        .expect("it can be dropped");
        PostgresStore::migrate(&pool, &database.settings).await.expect("it can be made");
        database
    }

    async fn pool(&self, connections: u32) -> PgPool {
        let options = PgPoolOptions::new().max_connections(connections).min_connections(connections.min(2));
        options.connect(&self.url).await.expect("Postgres can be reached")
    }

    async fn store(&self) -> PostgresStore {
        PostgresStore::open(self.pool(8).await, &self.settings).await.expect("it can be opened")
    }

    /// Stores this many messages as the app would: 500 in a transaction.
    async fn fill(&self, messages: u64, of: impl Fn() -> Message) {
        let store = self.store().await;
        let handle = OutboxHandle::stopped(Arc::new(store.clone()));
        for _ in 0..messages / 500 {
            handle.append((0..500).map(|_| of()).collect()).await.expect("there is room");
        }
        tower_outbox::store::Store::close(&store).await;
    }

    async fn one<T>(&self, pool: &PgPool, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres> + Send + Unpin,
    {
        let sql = sqlx::AssertSqlSafe(sql.replace("{schema}", &self.settings.schema));
        sqlx::query_scalar(sql).fetch_one(pool).await.expect("it can be asked")
    }
}

async fn request() {
    let rounds = if quick() { 3 } else { ROUNDS };
    let database = Database::new().await;
    let pool = database.pool(CONNECTIONS as u32).await;
    let table = "CREATE TABLE IF NOT EXISTS bench_users (id bigserial PRIMARY KEY, name text NOT NULL); TRUNCATE bench_users";
    sqlx::raw_sql(table).execute(&pool).await.expect("it can be made");
    let store = PostgresStore::open(pool.clone(), &database.settings).await.expect("it can be opened");
    let (outbox, relay) = Outbox::new(NoOp, Arc::new(store), RelaySettings::default());
    let handle = outbox.handle();
    tokio::spawn(relay.into_future());
    let ours = Router::new().route("/", post(row_and_event)).layer(MessagingLayer::new(outbox));
    let alone = Router::new().route("/", post(row)).with_state(pool.clone());
    let mut loads =
        [Load::new(ours, Method::POST, CONNECTIONS).await, Load::new(alone, Method::POST, CONNECTIONS).await];
    println!(
        "a request with one row and one event in one transaction, {CONNECTIONS} connections, {rounds} rounds"
    );
    let (mut rates, mut wal) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=rounds {
        for who in [round % 2, (round + 1) % 2] {
            let before = position(&database, &pool).await;
            let rate = loads[who].turn(TURN).await;
            while handle.status().await.expect("it can be read").counts.pending > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if round > 0 {
                rates[who].push(rate);
                wal[who].push((position(&database, &pool).await - before) / (rate * TURN.as_secs_f64()));
            }
        }
    }
    let ratios = rates[0].iter().zip(&rates[1]).map(|(ours, alone)| ours / alone).collect();
    let millis =
        |rates: &[f64]| Spread::of(rates.iter().map(|rate| CONNECTIONS as f64 / rate * 1e3).collect());
    for (who, (rates, wal)) in ["row and event", "row alone"].iter().zip(rates.iter().zip(&wal)) {
        println!(
            "  {who:<14} {:.0} requests/s, {:.2} ms each, {:.0} bytes of WAL",
            Spread::of(rates.clone()),
            millis(rates),
            Spread::of(wal.clone())
        );
    }
    println!("  row and event / row alone   {:.2}   target >= 0.8", Spread::of(ratios));
}

/// Bytes of WAL written since ever.
async fn position(database: &Database, pool: &PgPool) -> f64 {
    database.one(pool, "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8").await
}

const INSERT: &str = "INSERT INTO bench_users (name) VALUES ($1)";

async fn row_and_event(mut tx: Tx<Postgres>, queue: MessageQueue) -> Result<StatusCode, EnqueueError> {
    sqlx::query(INSERT).bind("Jo").execute(&mut *tx).await.expect("it can be inserted");
    queue.enqueue(Message::json("bench.event", &Event::new())?)?;
    Ok(StatusCode::CREATED)
}

async fn row(State(pool): State<PgPool>) -> StatusCode {
    let mut tx = pool.begin().await.expect("a connection is free");
    sqlx::query(INSERT).bind("Jo").execute(&mut *tx).await.expect("it can be inserted");
    tx.commit().await.expect("it can be committed");
    StatusCode::CREATED
}

async fn backlog(rivals: bool) {
    let messages = if quick() { BACKLOG / 20 } else { BACKLOG };
    let broker = Broker::find("bench.transactional");
    let raw = Raw::open(&broker, encode).await;
    println!("a backlog of {messages} rows of 300 bytes from Postgres to RabbitMQ, confirmed");
    // One round: it takes minutes.
    let one = backlog_rate(&broker, 1, messages).await;
    println!("  one instance     {one:.0} messages/s");
    let turn = raw.turn(false, Until::Confirmed(messages / 5)).await;
    broker.check_and_empty(turn, 0);
    let published = turn.0 as f64 / turn.1;
    println!("  raw, pipelined   {published:.0} messages/s");
    raw.close().await;
    let four = backlog_rate(&broker, INSTANCES, messages).await;
    println!("  four instances   {four:.0} messages/s in all");
    println!("  one / raw        {:.2}   target >= 0.6", one / published);
    println!("  four / one       {:.2}   target >= 1", four / one);
    if rivals {
        for rival in ["outbox-postgres", "hexeract"] {
            let (messages, seconds) = rival_of(&broker, rival, messages);
            broker.check_and_empty((messages, seconds), 0);
            let rate = messages as f64 / seconds;
            println!("  {rival:<16} {rate:.0} messages/s; one / it {:.1}   target >= 5", one / rate);
        }
    }
}

/// Messages a second that so many instances relay of a backlog.
async fn backlog_rate(broker: &Broker, instances: usize, messages: u64) -> f64 {
    let database = Database::new().await;
    let event = Event::new().bytes();
    database.fill(messages, || message(broker, &event)).await;
    let analyze = format!("VACUUM ANALYZE {}.messages", database.settings.schema);
    sqlx::raw_sql(sqlx::AssertSqlSafe(analyze))
        .execute(&database.pool(1).await)
        .await
        .expect("it can be analyzed");
    let seconds = relayed(broker, &database, instances, messages).await;
    broker.check_and_empty((messages, seconds), 0);
    messages as f64 / seconds
}

/// How long so many instances take to send it all, each with a connection to the broker of its own.
async fn relayed(broker: &Broker, database: &Database, instances: usize, messages: u64) -> f64 {
    if instances == 1 {
        let (seconds, left) =
            relay(amqp091(broker), Arc::new(database.store().await), messages, messages).await;
        assert_eq!(left.pending, 0);
        return seconds[0];
    }
    let mut stores = Vec::new();
    for _ in 0..instances {
        stores.push(database.store().await);
    }
    let begun = Instant::now();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut relays = Vec::new();
    for store in &stores {
        let (outbox, relay) = Outbox::new(amqp091(broker), Arc::new(store.clone()), RelaySettings::default());
        let mut stopped = stopped.clone();
        let shutdown = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
        relays.push((tokio::spawn(relay.with_graceful_shutdown(shutdown, Duration::from_secs(5))), outbox));
    }
    let pool = database.pool(1).await;
    while database.one::<bool>(&pool, "SELECT EXISTS (SELECT FROM {schema}.messages)").await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let _ = stop.send(true);
    for (relay, outbox) in relays {
        relay.await.expect("it does not panic");
        outbox.close(Duration::from_secs(5)).await;
    }
    seconds
}

/// The rival's turn: how many messages, in how many seconds.
fn rival_of(broker: &Broker, rival: &str, backlog: u64) -> (u64, f64) {
    let known = std::fs::read_to_string(root("target/brokers/env")).unwrap_or_default();
    let url = known.lines().find_map(|line| line.strip_prefix("POSTGRES="));
    let url = std::env::var("DATABASE_URL").ok().or_else(|| url.map(str::to_owned)).expect("found before");
    let messages = RIVALS.min(backlog);
    let output = Command::new("cargo")
        .args(["run", "--release", "--quiet", "--manifest-path"])
        .arg(root("benches/rivals/outbox/Cargo.toml"))
        .arg("--target-dir")
        .arg(root("target/rivals"))
        .args(["--", rival, &url, &broker.url, broker.topic])
        .args([backlog.to_string(), messages.to_string()])
        .output()
        .expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    (messages, report["seconds"].as_f64().expect("it says how long it took"))
}

/// Eight writers append 25 messages at a time, 5,000 a second in all; a relay sends them to nowhere.
async fn bloat() {
    const RATE: u64 = 5_000;
    const BATCH: u64 = 25;
    let all = if quick() { BLOAT / 200 } else { BLOAT };
    let database = Database::new().await;
    let store = database.store().await;
    let (outbox, relay) = Outbox::new(NoOp, Arc::new(store), RelaySettings::default());
    let outbox = Arc::new(outbox);
    tokio::spawn(relay.into_future());
    let pool = database.pool(1).await;
    let event = Event::new();
    println!("{all} messages through the outbox at {RATE} a second");
    println!("  millions   table MB   indexes MB   dead rows   live rows   autovacuums");
    let begun = Instant::now();
    let step = all / 20;
    for mark in 1..=20 {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (outbox, event) = (Arc::clone(&outbox), event.clone());
                let (first, last) = ((mark - 1) * step / BATCH, mark * step / BATCH);
                tokio::spawn(async move {
                    for batch in (first + writer..last).step_by(8) {
                        let due = begun + Duration::from_secs_f64((batch * BATCH) as f64 / RATE as f64);
                        tokio::time::sleep_until(due.into()).await;
                        outbox
                            .send((0..BATCH).map(|_| event.message()).collect())
                            .await
                            .expect("there is room");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("it does not panic");
        }
        let sizes = "SELECT (pg_table_size('{schema}.messages') / 1e6)::float8";
        let table: f64 = database.one(&pool, sizes).await;
        let indexes: f64 =
            database.one(&pool, "SELECT (pg_indexes_size('{schema}.messages') / 1e6)::float8").await;
        let of = |column: &str| {
            format!(
                "SELECT {column} FROM pg_stat_user_tables WHERE schemaname = '{{schema}}' AND relname = 'messages'"
            )
        };
        let dead: i64 = database.one(&pool, &of("n_dead_tup")).await;
        let vacuums: i64 = database.one(&pool, &of("autovacuum_count")).await;
        let live: i64 = database.one(&pool, "SELECT count(*) FROM {schema}.messages").await;
        let millions = (mark * step) as f64 / 1e6;
        println!(
            "  {millions:>8.2}   {table:>8.1}   {indexes:>10.1}   {dead:>9}   {live:>9}   {vacuums:>11}"
        );
    }
    println!("  it took {:.0} s", begun.elapsed().as_secs_f64());
}

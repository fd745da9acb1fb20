//! Relays a backlog from Postgres to RabbitMQ with confirms, as one of the rivals does it.
//!
//!     outbox-rivals outbox-postgres|hexeract POSTGRES_URL AMQP_URL ROUTING_KEY ROWS MESSAGES
//!
//! Its tables are made anew in the database, with so many rows; their bodies are about 300 bytes. It prints how many seconds it
//! took from the start of the relay to the confirm of the last of MESSAGES. Each publish is awaited until RabbitMQ has confirmed it, as their
//! contracts have it: both publish one message after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hexeract_core::HandlerContext;
use hexeract_outbox::{Handler, OutboxError as HexError};
use hexeract_outbox_sql::PgOutboxWorkerBuilder;
use hexeract_outbox_sql::postgres::ensure_schema;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use outbox_core::prelude::*;
use outbox_core::{OutboxConfig, OutboxManagerBuilder};
use outbox_postgres::PostgresOutbox;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// As many as ours takes at once.
const BATCH: usize = 256;

/// The body of a message: `{"event": {..}, "text": ".."}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Body(serde_json::Value);

impl hexeract_outbox::Event for Body {
    const EVENT_TYPE: &'static str = "bench.rival";
}

struct Publisher {
    channel: Channel,
    routing_key: String,
    published: AtomicU64,
    messages: u64,
    done: Notify,
}

impl Publisher {
    async fn publish(&self, body: &impl Serialize) -> Result<(), String> {
        if self.published.load(Ordering::Relaxed) >= self.messages {
            return std::future::pending().await;
        }
        let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        let (options, properties) =
            (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
        let (exchange, key) = ("amq.topic".into(), self.routing_key.as_str().into());
        let confirm = self.channel.basic_publish(exchange, key, options, &body, properties).await;
        let confirmed = confirm.map_err(|error| error.to_string())?.await;
        if !matches!(confirmed, Ok(Confirmation::Ack(None))) {
            return Err(format!("{confirmed:?}"));
        }
        if self.published.fetch_add(1, Ordering::Relaxed) + 1 == self.messages {
            self.done.notify_one();
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Transport<Body> for Publisher {
    async fn publish(&self, event: Event<Body>) -> Result<(), OutboxError> {
        Publisher::publish(self, &event.payload).await.map_err(OutboxError::BrokerError)
    }
}

impl Handler<Body> for Publisher {
    type Error = HexError;

    async fn handle(&self, event: Body, _: &HandlerContext) -> Result<(), HexError> {
        Publisher::publish(self, &event).await.map_err(|error| HexError::Internal(error))
    }
}

const OUTBOX_POSTGRES: &str = r"
    DROP TABLE IF EXISTS outbox_events; DROP TYPE IF EXISTS status;
    CREATE TYPE status AS ENUM ('Pending', 'Processing', 'Sent');
    CREATE TABLE outbox_events (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        idempotency_token text DEFAULT NULL,
        event_type text NOT NULL,
        payload jsonb NOT NULL,
        status status NOT NULL DEFAULT 'Pending',
        created_at timestamptz NOT NULL DEFAULT now(),
        locked_until timestamptz NOT NULL DEFAULT '-infinity'
    );
    CREATE INDEX idx_outbox_processing_queue ON outbox_events (locked_until ASC, status)
        WHERE status IN ('Pending', 'Processing');
    CREATE UNIQUE INDEX idx_outbox_idempotency ON outbox_events (idempotency_token);";

/// The trigger of its documentation, put on after the backlog is there.
const OUTBOX_POSTGRES_TRIGGER: &str = r"
    CREATE OR REPLACE FUNCTION notify_outbox_event() RETURNS trigger AS $$
    BEGIN PERFORM pg_notify('outbox_event', 'ping'); RETURN new; END; $$ LANGUAGE plpgsql;
    CREATE TRIGGER outbox_events_notify_trigger AFTER INSERT OR UPDATE ON outbox_events
        FOR EACH ROW EXECUTE FUNCTION notify_outbox_event();";

const PAYLOAD: &str = "jsonb_build_object('event', jsonb_build_object('id', n), 'text', repeat('x', 260))";

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rival, postgres, amqp, routing_key, rows, messages] = &arguments[..] else {
        panic!("outbox-rivals outbox-postgres|hexeract POSTGRES_URL AMQP_URL ROUTING_KEY ROWS MESSAGES")
    };
    let rows: u64 = rows.parse().expect("a number of rows");
    let messages = messages.parse().expect("a number of messages");
    let pool = PgPool::connect(postgres).await.expect("Postgres can be reached");
    let connection =
        Connection::connect(amqp, ConnectionProperties::default()).await.expect("RabbitMQ can be reached");
    let channel = connection.create_channel().await.expect("it opens a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("it confirms");
    let publisher = Arc::new(Publisher {
        channel,
        routing_key: routing_key.clone(),
        published: AtomicU64::new(0),
        messages,
        done: Notify::new(),
    });
    let seconds = match rival.as_str() {
        "outbox-postgres" => outbox_postgres(&pool, publisher, rows).await,
        "hexeract" => hexeract(&pool, publisher, rows).await,
        other => panic!("there is no rival {other}"),
    };
    println!("{}", serde_json::json!({"seconds": seconds}));
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(sql).execute(pool).await.expect("the statement can be run");
}

async fn outbox_postgres(pool: &PgPool, publisher: Arc<Publisher>, rows: u64) -> f64 {
    run(pool, OUTBOX_POSTGRES).await;
    run(pool, &format!("INSERT INTO outbox_events (event_type, payload) SELECT 'bench.rival', {PAYLOAD} FROM generate_series(1, {rows}) n")).await;
    run(pool, OUTBOX_POSTGRES_TRIGGER).await;
    run(pool, "VACUUM ANALYZE outbox_events").await;
    let mut config = OutboxConfig::<Body>::default();
    config.batch_size = BATCH as u32;
    let config = Arc::new(config);
    let (stop, stopped) = watch::channel(false);
    let storage = Arc::new(PostgresOutbox::<Body>::new(pool.clone(), Arc::clone(&config)));
    let manager = OutboxManagerBuilder::new()
        .storage(storage)
        .publisher(Arc::clone(&publisher))
        .config(config)
        .shutdown_rx(stopped)
        .build()
        .expect("it has all it needs");
    let begun = Instant::now();
    let running = tokio::spawn(manager.run());
    publisher.done.notified().await;
    let seconds = begun.elapsed().as_secs_f64();
    let _ = stop.send(true);
    running.abort();
    seconds
}

async fn hexeract(pool: &PgPool, publisher: Arc<Publisher>, rows: u64) -> f64 {
    run(pool, "DROP TABLE IF EXISTS rival_outbox").await;
    ensure_schema(pool, "rival_outbox").await.expect("it makes its table");
    run(pool, &format!("INSERT INTO rival_outbox (event_id, event_type, payload) SELECT gen_random_uuid(), 'bench.rival', {PAYLOAD} FROM generate_series(1, {rows}) n")).await;
    run(pool, "VACUUM ANALYZE rival_outbox").await;
    let worker = PgOutboxWorkerBuilder::new(pool.clone())
        .table_name("rival_outbox")
        .shared_handler::<Body, _>(Arc::clone(&publisher))
        .poll_interval(Duration::from_millis(10))
        .batch_size(BATCH)
        .build()
        .expect("it has all it needs");
    let cancel = CancellationToken::new();
    let begun = Instant::now();
    let running = tokio::spawn(worker.run(cancel.clone()));
    publisher.done.notified().await;
    let seconds = begun.elapsed().as_secs_f64();
    cancel.cancel();
    running.abort();
    seconds
}

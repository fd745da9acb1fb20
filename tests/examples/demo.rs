//! An app whose every behaviour a request can ask for: what black-box checks drive, and a bus to try settings on.
//!
//!     cargo run -p tower-outbox-tests --example demo -- [--settings FILE] [--listen ADDRESS]
//!
//! Settings come from the table `MESSAGE_BUS` of FILE and from the environment (`MESSAGE_BUS__BACKEND`, ..). Logs go
//! to stderr, as `RUST_LOG` says. `--help` lists the routes.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use sqlx::Postgres;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tower_http::catch_panic::CatchPanicLayer;
use tower_outbox::message::MessageError;
use tower_outbox::{BoxError, Bus, EnqueueError, Health, Message, MessageQueue, Settings, Tx};
use tracing_subscriber::EnvFilter;

const HELP: &str = "\
demo [--settings FILE] [--listen ADDRESS]

  --settings FILE   the table MESSAGE_BUS of this TOML, YAML or JSON file; the environment counts over it
  --listen ADDRESS  127.0.0.1:8080 by default; port 0 takes a free one
  --help            this text

The first line on stdout is `listening on http://ADDRESS`.

POST /events/TOPIC  enqueues the JSON body under TOPIC and answers 201. In the query:
    n=N             N messages, the field seq added to each, from 0 to N-1
    key=K           the ordering key of its messages
    status=NNN      answers this status
    sleep_ms=N      waits before it answers, after it enqueued
    panic=1         panics after it enqueued, and waited
    late=1          enqueues once the response is decided, which must fail: see demo_late_total
    always=1        enqueues what leaves whatever the outcome
    row=N           inserts N into the table demo_rows in the transaction of the request; for the delivery
                    transactional in Postgres
  400: the body is not JSON, or the query is wrong. 413: more than one request may enqueue. 422: the topic is
  not one, or the message can never be sent. 503: not sent, and the settings say to answer so.
GET /health         200, or 503 and the reason
GET /metrics        Prometheus text

SIGTERM and Ctrl-C end it in order. Exit code: 0 all that was taken over has been sent, or is stored for the next
start, 1 something is left, 2 it could not start.";

/// How long requests that are running may take to end, and then the bus.
const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let stderr = std::io::stderr;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        .init();
    match run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {}", chain(&*error));
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<ExitCode, BoxError> {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let metrics = PrometheusBuilder::new().install_recorder()?;
    let settings = match &arguments.settings {
        Some(file) => Settings::from_file(file)?,
        None => Settings::from_env()?,
    };
    let bus = Arc::new(Bus::start(&settings).await?);
    let app = Router::new()
        .route("/events/{topic}", post(enqueue))
        .layer(DefaultBodyLimit::max(64 << 20))
        .layer(bus.layer())
        .layer(CatchPanicLayer::new())
        .route("/health", get(health).with_state(bus.clone()))
        .route("/metrics", get(render).with_state(metrics));

    let listener = TcpListener::bind(&arguments.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    println!("listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;

    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("Ctrl-C: stopping"),
        ended = &mut server => return Err(format!("the server ended by itself: {ended:?}").into()),
    }
    drop(stop);
    let requests_ended = timeout(DEADLINE, server).await.is_ok();
    if !requests_ended {
        eprintln!("demo: some requests did not end within {DEADLINE:?}");
    }
    let shutdown = bus.shutdown(DEADLINE).await;
    if let Some(outbox) = bus.outbox().filter(|_| shutdown.stored > 0) {
        eprintln!(
            "demo: stored are {} messages in {}; they leave after the next start",
            shutdown.stored,
            outbox.location()
        );
    } else if shutdown.is_clean() {
        eprintln!("demo: nothing is left to send");
    }
    if !shutdown.is_clean() {
        eprintln!("demo: left are {} messages and {} sends", shutdown.left.len(), shutdown.sends);
        for message in &shutdown.left {
            eprintln!("demo: left: {} {}", message.topic(), message.id());
        }
    }
    Ok(ExitCode::from(u8::from(!(requests_ended && shutdown.is_clean()))))
}

struct Arguments {
    settings: Option<PathBuf>,
    listen: String,
}

impl Arguments {
    /// `None` when help is asked for.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, BoxError> {
        let mut parsed = Self { settings: None, listen: "127.0.0.1:8080".to_owned() };
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value; see --help"));
            match name.as_str() {
                "--settings" => parsed.settings = Some(value()?.into()),
                "--listen" => parsed.listen = value()?,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown argument {name:?}; see --help").into()),
            }
        }
        Ok(Some(parsed))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wishes {
    n: Option<u64>,
    key: Option<String>,
    status: Option<u16>,
    sleep_ms: Option<u64>,
    panic: Option<u8>,
    late: Option<u8>,
    always: Option<u8>,
    row: Option<i64>,
}

async fn enqueue(
    queue: MessageQueue,
    Path(topic): Path<String>,
    Query(wishes): Query<Wishes>,
    mut parts: Parts,
    body: Bytes,
) -> Result<StatusCode, Response> {
    if let Some(row) = wishes.row {
        let mut tx =
            Tx::<Postgres>::from_request_parts(&mut parts, &()).await.map_err(IntoResponse::into_response)?;
        let insert = sqlx::query("INSERT INTO demo_rows (row) VALUES ($1)").bind(row).execute(&mut *tx).await;
        insert.map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, chain(&error)).into_response())?;
    }
    Ok(fill(queue, topic, wishes, body).await?)
}

async fn fill(
    queue: MessageQueue,
    topic: String,
    wishes: Wishes,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let asked = |wish: Option<u8>| wish.is_some_and(|wish| wish != 0);
    let status = StatusCode::from_u16(wishes.status.unwrap_or(201)).map_err(Refusal::bad_request)?;
    let messages = messages(&topic, &body, &wishes)?;
    let queue = if asked(wishes.always) { queue.always() } else { queue };
    if asked(wishes.late) {
        tokio::spawn(enqueue_late(queue, messages));
    } else {
        for message in messages {
            queue.enqueue(message)?;
        }
    }
    if let Some(sleep_ms) = wishes.sleep_ms {
        sleep(Duration::from_millis(sleep_ms)).await;
    }
    assert!(!asked(wishes.panic), "the request asked for a panic");
    Ok(status)
}

fn messages(topic: &str, body: &[u8], wishes: &Wishes) -> Result<Vec<Message>, Refusal> {
    let body: &RawValue = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the body is not JSON: {error}")))?;
    let message = || {
        let message = Message::json(topic.to_owned(), body)?;
        Ok::<_, MessageError>(match &wishes.key {
            Some(key) => message.with_key(key),
            None => message,
        })
    };
    let Some(n) = wishes.n else { return Ok(vec![message()?]) };
    let numbered = |seq| {
        let mut message = message()?;
        message.set_field("seq", &seq)?;
        Ok(message)
    };
    (0..n).map(numbered).collect()
}

/// Enqueues once the layer has closed the queue; this must fail.
async fn enqueue_late(queue: MessageQueue, messages: Vec<Message>) {
    while !queue.is_closed() {
        sleep(Duration::from_millis(5)).await;
    }
    for message in messages {
        let outcome = match queue.enqueue(message) {
            Err(EnqueueError::Closed) => "closed",
            Err(_) => "error",
            Ok(_) => "enqueued",
        };
        metrics::counter!("demo_late_total", "outcome" => outcome).increment(1);
        tracing::info!(outcome, "message enqueued late");
    }
}

async fn health(State(bus): State<Arc<Bus>>) -> Response {
    match bus.health().await {
        Health::Up => Json(json!({"status": "up"})).into_response(),
        Health::Down { reason } => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "down", "reason": reason})))
                .into_response()
        }
        health => (StatusCode::SERVICE_UNAVAILABLE, format!("{health:?}")).into_response(),
    }
}

async fn render(State(metrics): State<PrometheusHandle>) -> String {
    metrics.run_upkeep();
    metrics.render()
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        refusal.into_response()
    }
}

/// An error as a response that says what is wrong.
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad_request(error: impl Display) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<EnqueueError> for Refusal {
    fn from(error: EnqueueError) -> Self {
        let status = match error {
            EnqueueError::Message(_) | EnqueueError::Rejected(_) => StatusCode::UNPROCESSABLE_ENTITY,
            EnqueueError::TooManyMessages { .. } | EnqueueError::TooManyBytes { .. } => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, chain(&error))
    }
}

impl From<MessageError> for Refusal {
    fn from(error: MessageError) -> Self {
        EnqueueError::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1 + "\n").into_response()
    }
}

/// The error with its causes, `a: b: c`.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

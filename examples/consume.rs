//! A consumer that prints each message as a JSON line, and fails when the message asks for it.
//!
//!     cargo run --example consume -- [--settings FILE]
//!
//! It runs every table `CONSUMERS.<name>` of the settings. Without a file it uses examples/consume.toml, a queue on the disk, and first
//! sends three messages to it. A body with `"fail": N` fails its first N attempts, `"reject": true` is answered 422, and
//! `"publish": TOPIC` enqueues the body under that topic.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use axum::http::StatusCode;
use axum::{Router, body::Bytes};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tower_outbox::{BoxError, Bus, Delivery, EnqueueError, Message, MessageQueue, Settings};
use tracing_subscriber::EnvFilter;

async fn handle(delivery: Delivery, queue: MessageQueue, body: Bytes) -> Result<StatusCode, EnqueueError> {
    let message = delivery.message();
    let body: Value = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
    let line = json!({
        "topic": message.topic().as_str(),
        "id": message.id(),
        "key": message.key(),
        "attempt": delivery.attempt(),
        "redelivered": delivery.redelivered(),
        "source": delivery.source(),
        "headers": message.headers().map(|(name, value)| (name, value.to_string())).collect::<HashMap<_, _>>(),
        "body": body,
    });
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    if body["fail"].as_u64().is_some_and(|attempts| u64::from(delivery.attempt()) <= attempts) {
        return Ok(StatusCode::SERVICE_UNAVAILABLE);
    }
    if body["reject"] == true {
        return Ok(StatusCode::UNPROCESSABLE_ENTITY);
    }
    if let Some(topic) = body["publish"].as_str() {
        queue.enqueue(Message::json(topic.to_owned(), &json!({"answers": body}))?)?;
    }
    Ok(StatusCode::OK)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/consume.toml");
    let file = match &std::env::args().skip(1).collect::<Vec<_>>()[..] {
        [] => own.to_owned(),
        [name, file] if name == "--settings" => file.clone(),
        _ => return Err("usage: consume [--settings FILE]".into()),
    };
    let settings = Settings::from_file(&file)?;
    let bus = Bus::start(&settings).await?;
    if file == own {
        let bodies = [json!({"name": "Jo"}), json!({"fail": 2}), json!({"reject": true})];
        let messages = bodies.iter().map(|body| Message::json("user.created", body));
        bus.messenger().send(messages.collect::<Result<_, _>>()?).await?;
    }
    let app = Router::new().fallback(handle).layer(bus.chaos());
    let mut running = JoinSet::new();
    for name in settings.consumers.keys() {
        running.spawn(bus.consumer(name, app.clone())?.into_future());
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        Some(_ended) = running.join_next() => {}
    }
    let left = bus.shutdown(Duration::from_secs(10)).await;
    if left.is_clean() { Ok(()) } else { Err(format!("not sent: {:?}", left.left).into()) }
}

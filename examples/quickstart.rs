//! A server whose events are stored on disk before the response goes out, and sent from there.
//!
//!     cargo run --example quickstart [ADDRESS]
//!
//! It listens on 127.0.0.1:3000, or on a free port if that is taken, and prints requests to try. The settings are in
//! examples/quickstart.toml: the durable outbox in target/quickstart-outbox, and the backend `dummy`, which logs messages instead of
//! sending them. To send to RabbitMQ, and to see events wait on disk while it is stopped:
//!
//!     MESSAGE_BUS__BACKEND=amqp091 MESSAGE_BUS__URLS=amqp://127.0.0.1 cargo run --example quickstart --features amqp091

use axum::{Json, Router, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower_outbox::{BoxError, Bus, EnqueueError, Event, MessageQueue, Settings};
use tracing_subscriber::EnvFilter;

#[derive(Deserialize)]
struct NewUser {
    name: String,
}

#[derive(Serialize)]
struct UserCreated<'a> {
    name: &'a str,
}

impl Event for UserCreated<'_> {
    const TOPIC: &'static str = "user.created";
}

async fn create_user(queue: MessageQueue, Json(user): Json<NewUser>) -> Result<StatusCode, EnqueueError> {
    queue.emit(&UserCreated { name: &user.name })?;
    // Rejected after the event is enqueued, to show that the layer drops it.
    let valid = !user.name.trim().is_empty();
    Ok(if valid { StatusCode::CREATED } else { StatusCode::UNPROCESSABLE_ENTITY })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).init();

    // The folder of the outbox is below `target`, which is elsewhere if CARGO_TARGET_DIR is set.
    std::fs::create_dir_all("target")?;
    let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart.toml");
    let bus = Bus::start(&Settings::from_file(settings)?).await?;
    let app = Router::new().route("/users", post(create_user)).layer(bus.layer());

    let listener = match std::env::args().nth(1) {
        Some(address) => TcpListener::bind(address).await?,
        None => match TcpListener::bind("127.0.0.1:3000").await {
            Ok(listener) => listener,
            Err(_taken) => TcpListener::bind("127.0.0.1:0").await?,
        },
    };
    print_what_to_try(&format!("http://{}/users", listener.local_addr()?));

    Ok(bus.serve(listener, app).await?)
}

fn print_what_to_try(url: &str) {
    let curl = format!("curl -si {url} -H 'content-type: application/json' -d");
    println!("Try, in another terminal, and watch this one:\n");
    println!("  {curl} '{{\"name\": \"Jo\"}}'");
    println!("      201, and the event is sent: the dummy logs its id, topic and length\n");
    println!("  {curl} '{{\"name\": \"\"}}'");
    println!("      422, and nothing is sent: the log says that a message was dropped\n");
    println!("Ctrl-C stops the server; unsent events wait in the outbox for the next start.\n");
}

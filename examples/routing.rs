//! An app at a site with a bad link: it publishes and consumes while its designated router cannot be reached.
//!
//!     cargo run --example routing --features wavemq
//!
//! It listens on 127.0.0.1:3000, or on a free port if that is taken:
//!
//!     curl -i -X POST 127.0.0.1:3000/readings/21.5
//!     curl 127.0.0.1:3000/
//!
//! Nothing is at the address of the designated router, 127.0.0.1:4599, so the readings for it wait on the disk; docs/wavemq.md says
//! how to start one.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Router, http::StatusCode};
use tokio::net::TcpListener;
use tower_outbox::routing::{Namespace, Pattern, Routing, persist};
use tower_outbox::wavemq::{Wavemq, WavemqConfig};
use tower_outbox::{BoxError, Consumer, Message, MessageQueue, MessagingLayer};

const CONFIG: &str = r#"
[QueueConfig]
queueDataStore = "target/routing-queue"
[LocalConfig]
listenAddr = "127.0.0.1:0"
[PeerConfig]
listenAddr = "127.0.0.1:0"
[[RoutingConfig.Router]]
Namespace = "c2l0ZQ=="
Address = "127.0.0.1:4599"
"#;

async fn reading(queue: MessageQueue, Path(value): Path<f64>) -> Result<StatusCode, StatusCode> {
    let message = Message::json("floor1.temperature", &value).map_err(|_| StatusCode::BAD_REQUEST)?;
    // The designated router keeps the last value.
    queue.enqueue(persist(message)).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(StatusCode::ACCEPTED)
}

async fn status(State(routing): State<Routing>) -> String {
    let counts = routing.router().counts();
    format!("{} messages wait, {} have arrived at the designated router\n", counts.queued, counts.upstream)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    std::fs::create_dir_all("target")?;
    std::fs::write("target/routing.toml", CONFIG)?;
    let server = Wavemq::open(WavemqConfig::read("target/routing.toml".as_ref())?).await?;
    let routing = server.routing(Namespace::named("site")?);
    let (clients, routers) = server.bind().await?;
    tokio::spawn(server.serve_on(clients, routers, std::future::pending()));

    let handler = |body: String| async move { println!("the display shows {body}") };
    let display = Router::new().route("/floor1/temperature", post(handler));
    let source = routing.subscription("display", Pattern::new("floor1/*")?);
    source.subscribe().await?;
    tokio::spawn(Consumer::new(source, display).into_future());

    let layer = MessagingLayer::new(routing.clone());
    let app = Router::new().route("/readings/{value}", post(reading)).layer(layer).route("/", get(status));
    let listener = match TcpListener::bind("127.0.0.1:3000").await {
        Ok(listener) => listener,
        Err(_taken) => TcpListener::bind("127.0.0.1:0").await?,
    };
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app.with_state(routing)).await?)
}

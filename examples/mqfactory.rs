//! The demo of mqfactory: all its layers are settings. With two processes, or with itself, it is mqfactory's `speed`, too.
//!
//!     cargo run --example mqfactory --features mqtt,signing -- [SETTINGS [TOPIC [BALLS]]]
//!
//! It sends BALLS messages (1 by default) to TOPIC, by default its own, and answers each message that it handles by the next one. It prints
//! how many it handles in a second. SETTINGS is examples/mqfactory.toml by default, which needs a broker and keys. The other side
//! may be a second process with settings of its own, or a Python peer:
//!
//!     tests/peers/mqfactory_peer.py peer mqtt://127.0.0.1 you --handle you/in --back me/in --key keys/you.key --origin you --trusted keys

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use tower_outbox::{BoxError, Bus, EnqueueError, Message, MessageQueue, Messenger, Settings};

#[derive(serde::Serialize, serde::Deserialize)]
struct Ball {
    n: u64,
}

#[derive(Clone)]
struct Player {
    to: String,
    handled: Arc<AtomicU64>,
}

/// The answer is in the outbox before this message is confirmed to its sender.
async fn play(
    State(player): State<Player>,
    queue: MessageQueue,
    Json(ball): Json<Ball>,
) -> Result<StatusCode, EnqueueError> {
    queue.enqueue(Message::json(player.to, &Ball { n: ball.n + 1 })?)?;
    player.handled.fetch_add(1, Ordering::Relaxed);
    Ok(StatusCode::NO_CONTENT)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_env_filter("warn,tower_outbox=info").with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let settings = args.next().unwrap_or_else(|| "examples/mqfactory.toml".to_owned());
    let to = args.next().unwrap_or_else(|| "me.in".to_owned()).replace('/', ".");
    let balls: u64 = args.next().map_or(Ok(1), |balls| balls.parse())?;

    let bus = Bus::start(&Settings::from_file(settings)?).await?;
    let player = Player { to: to.clone(), handled: Arc::default() };
    let handlers = Router::new().fallback(post(play)).with_state(player.clone());
    tokio::spawn(bus.consumer("in", handlers)?.into_future());
    for n in 0..balls {
        bus.messenger().send(vec![Message::json(to.clone(), &Ball { n })?]).await?;
    }
    let print = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            println!("{} messages/s", player.handled.swap(0, Ordering::Relaxed));
        }
    };
    tokio::select! {
        () = print => {}
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    let left = bus.shutdown(Duration::from_secs(10)).await;
    println!("{} messages wait in the outbox", left.stored);
    Ok(())
}

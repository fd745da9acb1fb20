//! The pages in Debian's Chromium, over an app whose RabbitMQ goes and comes.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tower_outbox::{Bus, Message, Settings};

use crate::peers::{Brokers, RabbitQueue, root, unique};

/// Connects to the server while it is up.
async fn pass(listener: TcpListener, to: String, up: watch::Receiver<bool>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let (to, mut up) = (to.clone(), up.clone());
        tokio::spawn(async move {
            if !*up.borrow() {
                return;
            }
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                _ = up.wait_for(|up| !up) => {}
            }
        });
    }
}

/// An app with hostile names.
async fn beside(settings: &str) -> Bus {
    let settings: Settings = toml::from_str(settings).unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let hostile = Message::json("\"<script/src=x/onerror=alert(1)\u{202e}gpj", &1).unwrap();
    let _ = bus.messenger().send(vec![Message::json("floor1.temperature", &21).unwrap(), hostile]).await;
    bus
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_operator_finds_and_mends_the_cause_in_a_browser() {
    let brokers: &'static Brokers = Box::leak(Box::new(Brokers::running()));
    let (topic, folder) = (unique("dashboard").replace('-', "."), tempfile::tempdir().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    let (up, is_up) = watch::channel(false);
    let rabbit = brokers.get("RABBIT1_AMQP").trim_start_matches("amqp://").to_owned();
    tokio::spawn(pass(listener, rabbit, is_up));
    let path = folder.path().join("outbox");
    let text = format!(
        "BACKEND = 'amqp091'\nURLS = '{url}'\nMANDATORY = true\nCONNECTION_TIMEOUT = 2\nDELIVERY = 'durable'\n[OUTBOX]\nPATH = {path:?}\n[CONSUMERS.mail]\nQUEUE = 'mail-of-{topic}'"
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    let bus = Arc::new(Bus::start(&settings).await.unwrap());
    let message = {
        let topic = topic.clone();
        move |number: usize| {
            let body = serde_json::json!({"order": number, "name": "<script>alert(1)</script>", "rtl": "\u{202e}gpj"});
            Message::json(topic.clone(), &body).unwrap().with_key("\"><img src=x onerror=alert(1)>")
        }
    };
    bus.messenger().send((0..3).map(&message).collect()).await.unwrap();
    let queues: Arc<Mutex<Vec<RabbitQueue<'static>>>> = Arc::default();
    let send = {
        let bus = Arc::clone(&bus);
        async move |Path(count): Path<usize>| {
            bus.messenger().send((0..count).map(message).collect()).await.unwrap();
        }
    };
    let (connect, cut) = (up.clone(), up.clone());
    let bound = Arc::clone(&queues);
    let bind = async move || {
        let queue = RabbitQueue::declare(brokers, "RABBIT1_AMQP", &topic).await;
        bound.lock().unwrap().push(queue);
        StatusCode::OK
    };
    // Apps that use the other parts.
    let (channels, routing) = (folder.path().join("channels"), folder.path().join("router"));
    let channels = beside(&format!(
        "BACKEND = 'channels'\nPATH = {channels:?}\n[CONSUMERS.orders]\nCHANNEL = 'order.created'"
    ))
    .await;
    // Its dead letters, with a hostile reason.
    let refusing = async || (StatusCode::BAD_REQUEST, "<script>alert(1)</script>\u{202e}no such order");
    tokio::spawn(channels.consumer("orders", Router::new().fallback(post(refusing))).unwrap().into_future());
    let orders = (0..3).map(|number| Message::json("order.created", &number).unwrap()).collect();
    channels.messenger().send(orders).await.unwrap();
    let routing =
        beside(&format!("BACKEND = 'routing'\nPATH = {routing:?}\n[CONSUMERS.all]\nURI = '*'")).await;
    let looking = routing.source("all").unwrap();
    tokio::spawn(async move { looking.receive(1).await.map(drop) });
    let app = Router::new()
        .nest("/ops/outbox", bus.dashboard().without_guard())
        .nest("/ops/channels", channels.dashboard().without_guard())
        .nest("/ops/routing", routing.dashboard().without_guard())
        .route("/control/up", post(async move || connect.send_replace(true).to_string()))
        .route("/control/down", post(async move || cut.send_replace(false).to_string()))
        .route("/control/bind", post(bind))
        .route("/control/send/{count}", post(send));
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", server.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(server, app).await });
    // With this variable the screenshots of the documentation are written.
    let shots =
        std::env::var_os("TOWER_OUTBOX_SCREENSHOTS").map_or_else(|| folder.path().to_owned(), PathBuf::from);
    let script = Command::new(brokers.get("PYTHON"))
        .arg(root().join("tests/peers/dashboard_browser.py"))
        .args([format!("{base}/ops/outbox"), format!("{base}/control")])
        .arg(PathBuf::from(brokers.get("NODE_MODULES")).join("axe-core/axe.min.js"))
        .arg(shots)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(Duration::from_secs(400), script).await.expect("the browser is stuck").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let queue = queues.lock().unwrap().pop().unwrap();
    // The three that were mended, and one sent later.
    assert!(queue.drain().await.len() >= 4);
}

//! Confirmed messages a second over AMQP 1.0, against rivals on the same broker.
//!
//!     scripts/brokers up && cargo bench --bench amqp10
//!     cargo bench --bench amqp10 -- amqp://HOST:PORT     another RabbitMQ; PYTHON names one with proton and pika
//!
//! | who | how |
//! |---|---|
//! | layer | 256 requests at once, in process, through `MessagingLayer` with `Amqp10`, one event of 300 bytes each; direct |
//! | raw | fe2o3-amqp alone: one sender, `send_batchable`, 256 outcomes awaited at most; the same message |
//! | body | as raw, but no message-id nor other properties: the broker has less to do |
//! | kept | Proton's `BlockingConnection`, kept open: `rivals/proton_kept.py` |
//! | rhmsg | a Proton connection for each message, as rhmsg: `rivals/rhmsg_style.py` |
//!
//! All send durable messages to one durable queue, which is emptied after each turn. Turns alternate; each ratio is
//! taken within one round. After each turn the queue must hold what was confirmed.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use fe2o3_amqp::connection::{Connection, ConnectionHandle};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Sender, Session};
use fe2o3_amqp_types::messaging::{Data, Header, Message as AmqpMessage, Outcome, Properties};
use fe2o3_amqp_types::primitives::{Binary, Timestamp};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use support::{Event, Spread};
use tokio::net::TcpStream;
use tower::ServiceExt;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings};
use tower_outbox::{EnqueueError, Message, MessageQueue, MessagingLayer, OnSendFailure};

const WHO: [&str; 5] = ["layer", "raw", "body", "kept", "rhmsg"];
const TARGETS: [&str; 5] = ["", "target >= 0.85", "", "target >= 8", "target >= 20"];

const TOPIC: &str = "bench.amqp10";
const WINDOW: usize = 256;
const ROUNDS: usize = 9;
const TURN: Duration = Duration::from_secs(2);
const KEPT_MESSAGES: u64 = 1_500;
const RHMSG_MESSAGES: u64 = 40;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let broker = Broker::find();
    broker.declare();
    let layer = layer(&broker);
    let mut raw = Raw::open(&broker, true).await;
    let mut body = Raw::open(&broker, false).await;

    println!("RabbitMQ, AMQP 1.0, durable messages of 300 bytes, {ROUNDS} rounds");
    broker.check_and_empty(layer_turn(&layer).await);
    broker.check_and_empty(raw.turn().await);
    broker.check_and_empty(body.turn().await);
    let mut rates = WHO.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for turn in (0..WHO.len()).map(|turn| (turn + round) % WHO.len()) {
            let (messages, seconds) = match WHO[turn] {
                "layer" => layer_turn(&layer).await,
                "raw" => raw.turn().await,
                "body" => body.turn().await,
                "kept" => broker.rival("proton_kept.py", KEPT_MESSAGES),
                _ => broker.rival("rhmsg_style.py", RHMSG_MESSAGES),
            };
            broker.check_and_empty((messages, seconds));
            rates[turn].push(messages as f64 / seconds);
        }
    }
    for (who, rates) in WHO.into_iter().zip(&rates) {
        println!("  {who:<6} {:>8.0} confirmed messages/s", Spread::of(rates.clone()));
    }
    for ((rival, rates_of_rival), target) in WHO.into_iter().zip(&rates).zip(TARGETS).skip(1) {
        let ratios = rates[0].iter().zip(rates_of_rival).map(|(layer, rival)| layer / rival);
        println!("  layer / {rival:<6} {:.2}   {target}", Spread::of(ratios.collect()));
    }
    raw.close().await;
    body.close().await;
    broker.rabbit(&["delete", &broker.queue]);
}

/// The broker, and the queue all send to.
struct Broker {
    url: String,
    python: String,
    queue: String,
}

impl Broker {
    fn find() -> Self {
        let known = std::fs::read_to_string("target/brokers/env").unwrap_or_default();
        let known: HashMap<_, _> = known.lines().filter_map(|line| line.split_once('=')).collect();
        let url = std::env::args().skip(1).find(|argument| argument.contains("://"));
        let url = url.or_else(|| known.get("RABBIT1_AMQP").map(|url| (*url).to_owned()));
        let python =
            std::env::var("PYTHON").ok().or_else(|| known.get("PYTHON").map(|&path| path.to_owned()));
        Self {
            url: url.expect("no broker: run scripts/brokers up, or name one"),
            python: python.unwrap_or_else(|| "python3".to_owned()),
            queue: format!("bench-amqp10-{}", std::process::id()),
        }
    }

    fn address(&self) -> String {
        format!("/topic/{}", TOPIC)
    }

    fn declare(&self) {
        self.rabbit(&["declare", &self.queue, TOPIC]);
    }

    /// The queue must hold what was confirmed; then it is made anew.
    fn check_and_empty(&self, (messages, _): (u64, f64)) {
        assert_eq!(
            self.rabbit(&["count", &self.queue]),
            messages.to_string(),
            "confirmed, but not in the queue"
        );
        self.rabbit(&["delete", &self.queue]);
        self.declare();
    }

    fn rabbit(&self, arguments: &[&str]) -> String {
        self.python("tests/peers/rabbit.py", &[&[self.url.as_str()], arguments].concat())
    }

    fn rival(&self, script: &str, messages: u64) -> (u64, f64) {
        let script = Path::new("benches/rivals").join(script);
        let arguments = [&self.url, &self.address(), &messages.to_string(), "--durable"];
        let report = self.python(script, &arguments);
        let report: serde_json::Value = serde_json::from_str(&report).expect("it prints JSON");
        (messages, report["seconds"].as_f64().expect("it says how long it took"))
    }

    fn python(&self, script: impl AsRef<Path>, arguments: &[&str]) -> String {
        let output = Command::new(&self.python).arg(script.as_ref()).args(arguments).output();
        let output = output.expect("python is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn layer(broker: &Broker) -> Router {
    let mut settings = Amqp10Settings::new([broker.url.as_str()]);
    settings.address = Some("/topic/{topic}".to_owned());
    settings.window = WINDOW as u32;
    let messenger = Amqp10::new(&settings).expect("the settings are right");
    let event = Arc::new(Event::new());
    let handler = async move |queue: MessageQueue| -> Result<StatusCode, EnqueueError> {
        queue.enqueue(Message::json(TOPIC, &*event)?)?;
        Ok(StatusCode::CREATED)
    };
    let layer = MessagingLayer::new(messenger).with_on_send_failure(OnSendFailure::Reject);
    Router::new().route("/", post(handler)).layer(layer).with_state(())
}

async fn layer_turn(app: &Router) -> (u64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..WINDOW)
        .map(|_| {
            let (app, stop) = (app.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut confirmed = 0;
                while !stop.load(Ordering::Relaxed) {
                    let request = Request::post("/").body(Body::empty()).expect("it is a request");
                    let response = app.clone().oneshot(request).await.expect("it is infallible");
                    assert_eq!(response.status(), StatusCode::CREATED);
                    confirmed += 1;
                }
                confirmed
            })
        })
        .collect();
    tokio::time::sleep(TURN).await;
    stop.store(true, Ordering::Relaxed);
    let mut confirmed = 0;
    for task in tasks {
        confirmed += task.await.expect("it does not panic");
    }
    (confirmed, begun.elapsed().as_secs_f64())
}

/// What one would write with the driver alone.
struct Raw {
    sender: Option<Sender>,
    session: SessionHandle<()>,
    connection: ConnectionHandle<()>,
    event: Event,
    properties: bool,
}

impl Raw {
    async fn open(broker: &Broker, properties: bool) -> Self {
        let address = broker.url.split_once("://").expect("it is a URL").1;
        let stream = TcpStream::connect(address).await.expect("the broker listens");
        stream.set_nodelay(true).expect("it is TCP");
        let connection = Connection::builder()
            .container_id("bench-raw")
            .scheme("amqp")
            .hostname("localhost")
            .idle_time_out(30_000_u32)
            .sasl_profile(SaslProfile::Anonymous)
            .open_with_stream(stream);
        let mut connection = connection.await.expect("the broker opens a connection");
        let mut session = Session::begin(&mut connection).await.expect("the broker begins a session");
        let sender = Sender::attach(&mut session, "bench-raw", broker.address()).await;
        let sender = Some(sender.expect("the broker attaches a link"));
        Self { sender, session, connection, event: Event::new(), properties }
    }

    /// One turn, in a task of its own as the link of the layer is.
    async fn turn(&mut self) -> (u64, f64) {
        let mut sender = self.sender.take().expect("it is put back");
        let (event, properties) = (self.event.clone(), self.properties);
        let task = tokio::spawn(async move {
            let (begun, mut confirmed) = (Instant::now(), 0);
            let mut outcomes = FuturesUnordered::new();
            loop {
                let more = begun.elapsed() < TURN;
                if more && outcomes.len() < WINDOW {
                    let message = amqp_message(&event, properties);
                    outcomes.push(sender.send_batchable(message).await.expect("the link is open"));
                    continue;
                }
                let Some(outcome) = outcomes.next().await else { break };
                assert!(matches!(outcome, Ok(Outcome::Accepted(_))), "{outcome:?}");
                confirmed += 1;
            }
            (sender, (confirmed, begun.elapsed().as_secs_f64()))
        });
        let (sender, result) = task.await.expect("it does not panic");
        self.sender = Some(sender);
        result
    }

    async fn close(mut self) {
        // RabbitMQ 3.10 answers with errors that mean nothing.
        if let Some(sender) = self.sender.take() {
            let _ = sender.close().await;
        }
        let _ = self.session.end().await;
        let _ = self.connection.close().await;
    }
}

fn amqp_message(event: &Event, properties: bool) -> AmqpMessage<Data> {
    let body = serde_json::to_vec(event).expect("it is JSON");
    let mut message = AmqpMessage::builder()
        .header(Header { durable: true, ..Header::default() })
        .data(Data(Binary::from(body)))
        .build();
    if properties {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
        let properties = Properties::builder()
            .message_id(uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string())
            .subject(TOPIC)
            .content_type("application/json")
            .creation_time(Timestamp::from_milliseconds(now.as_millis() as i64));
        message.properties = Some(properties.build());
    }
    message
}

//! Confirmed messages a second over AMQP 1.0, against rivals on the same broker.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench amqp10
//!     cargo bench -p tower-outbox-benches --bench amqp10 -- amqp://HOST:PORT     another RabbitMQ; PYTHON names one with proton and pika
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

use std::time::{Instant, SystemTime};

use axum::Router;
use fe2o3_amqp::connection::{Connection, ConnectionHandle};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Sender, Session};
use fe2o3_amqp_types::messaging::{Data, Header, Message as AmqpMessage, Outcome, Properties};
use fe2o3_amqp_types::primitives::{Binary, Timestamp};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use support::Event;
use support::broker::{Broker, ROUNDS, Rates, TURN, Turn, WINDOW, app, requests};
use tokio::net::TcpStream;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings};

const WHO: [&str; 5] = ["layer", "raw", "body", "kept", "rhmsg"];
const TARGETS: [&str; 5] = ["", "target >= 0.85", "", "target >= 8", "target >= 20"];

const TOPIC: &str = "bench.amqp10";
const KEPT_MESSAGES: u64 = 1_500;
const RHMSG_MESSAGES: u64 = 40;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let broker = Broker::find(TOPIC);
    let layer = layer(&broker);
    let mut raw = Raw::open(&broker, true).await;
    let mut body = Raw::open(&broker, false).await;

    println!("RabbitMQ, AMQP 1.0, durable messages of 300 bytes, {ROUNDS} rounds");
    broker.check_and_empty(requests(&layer).await, 0);
    broker.check_and_empty(raw.turn().await, 0);
    broker.check_and_empty(body.turn().await, 0);
    let mut rates = Rates::new(WHO);
    for round in 0..ROUNDS {
        for who in rates.order(round) {
            let turn = match WHO[who] {
                "layer" => requests(&layer).await,
                "raw" => raw.turn().await,
                "body" => body.turn().await,
                "kept" => rival(&broker, "proton_kept.py", KEPT_MESSAGES),
                _ => rival(&broker, "rhmsg_style.py", RHMSG_MESSAGES),
            };
            broker.check_and_empty(turn, 0);
            rates.push(who, turn);
        }
    }
    rates.print(TARGETS);
    raw.close().await;
    body.close().await;
}

fn layer(broker: &Broker) -> Router {
    let mut settings = Amqp10Settings::new([broker.url.as_str()]);
    settings.address = Some("/topic/{topic}".to_owned());
    settings.broker.window = WINDOW as u32;
    app(Amqp10::new(&settings).expect("the settings are right"), broker.topic)
}

fn rival(broker: &Broker, script: &str, messages: u64) -> Turn {
    broker.rival(script, messages, &[&address(broker), &messages.to_string(), "--durable"])
}

fn address(broker: &Broker) -> String {
    format!("/topic/{}", broker.topic)
}

/// The same with the driver alone.
struct Raw {
    sender: Option<Sender>,
    session: SessionHandle<()>,
    connection: ConnectionHandle<()>,
    event: Event,
    /// The topic, unless there are to be no properties.
    subject: Option<&'static str>,
}

impl Raw {
    async fn open(broker: &Broker, properties: bool) -> Self {
        let host = broker.url.split_once("://").expect("it is a URL").1;
        let stream = TcpStream::connect(host).await.expect("the broker listens");
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
        let sender = Sender::attach(&mut session, "bench-raw", address(broker)).await;
        let sender = Some(sender.expect("the broker attaches a link"));
        Self { sender, session, connection, event: Event::new(), subject: properties.then_some(broker.topic) }
    }

    /// One turn, in a task of its own as the link of the layer is.
    async fn turn(&mut self) -> Turn {
        let mut sender = self.sender.take().expect("it is put back");
        let (event, subject) = (self.event.clone(), self.subject);
        let task = tokio::spawn(async move {
            let (begun, mut confirmed) = (Instant::now(), 0);
            let mut outcomes = FuturesUnordered::new();
            loop {
                let more = begun.elapsed() < TURN;
                if more && outcomes.len() < WINDOW {
                    let message = amqp_message(&event, subject);
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

fn amqp_message(event: &Event, subject: Option<&str>) -> AmqpMessage<Data> {
    let body = serde_json::to_vec(event).expect("it is JSON");
    let mut message = AmqpMessage::builder()
        .header(Header { durable: true, ..Header::default() })
        .data(Data(Binary::from(body)))
        .build();
    if let Some(subject) = subject {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
        let properties = Properties::builder()
            .message_id(uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string())
            .subject(subject)
            .content_type("application/json")
            .creation_time(Timestamp::from_milliseconds(now.as_millis() as i64));
        message.properties = Some(properties.build());
    }
    message
}

//! Confirmed messages a second over AMQP 0-9-1, against rivals on the same broker.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench amqp091
//!     cargo bench -p tower-outbox-benches --bench amqp091 -- amqp://HOST:PORT     another RabbitMQ; PYTHON names one with pika and fedora-messaging
//!
//! | who | how |
//! |---|---|
//! | layer | 256 requests at once, in process, through `MessagingLayer` with `Fedmsg`, one event of 300 bytes each; direct |
//! | raw | lapin alone: one channel, 256 publishes and their confirms awaited at most; the same message |
//! | turns | as raw, but each publish is awaited before the next begins, and only the confirms together |
//! | fedora | fedora-messaging's own publish in a loop: `rivals/fedora_publish.py` |
//!
//! All send persistent messages to `amq.topic`, from where they come to one durable queue, which is emptied after
//! each turn. Turns alternate; each ratio is taken within one round. After each turn the queue must hold what was
//! confirmed.

mod support;

use axum::Router;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use support::Event;
use support::broker::{Broker, ROUNDS, Rates, TURN, Turn, WINDOW, app, requests};
use support::raw::{Raw, Until};
use time::OffsetDateTime;
use tower_outbox::amqp091::{Amqp091Settings, Fedmsg};

const WHO: [&str; 4] = ["layer", "raw", "turns", "fedora"];
const TARGETS: [&str; 4] = ["", "target >= 0.9", "", "target >= 20"];

const TOPIC: &str = "bench.amqp091";
const FEDORA_MESSAGES: u64 = 1_000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let broker = Broker::find(TOPIC);
    let layer = layer(&broker);
    let raw = Raw::open(&broker, message).await;

    println!("RabbitMQ, AMQP 0-9-1, persistent messages of 300 bytes, {ROUNDS} rounds");
    broker.check_and_empty(requests(&layer).await, 0);
    broker.check_and_empty(raw.turn(false, Until::Elapsed(TURN)).await, 0);
    let mut rates = Rates::new(WHO);
    for round in 0..ROUNDS {
        for who in rates.order(round) {
            let (turn, more) = match WHO[who] {
                "layer" => (requests(&layer).await, 0),
                "raw" => (raw.turn(false, Until::Elapsed(TURN)).await, 0),
                "turns" => (raw.turn(true, Until::Elapsed(TURN)).await, 0),
                // One before its time begins: it connects with that.
                _ => (fedora(&broker), 1),
            };
            broker.check_and_empty(turn, more);
            rates.push(who, turn);
        }
    }
    rates.print(TARGETS);
    raw.close().await;
}

fn layer(broker: &Broker) -> Router {
    let mut settings = Amqp091Settings::new([broker.url.as_str()]);
    settings.broker.window = WINDOW as u32;
    app(Fedmsg::new(&settings).expect("the settings are right"), broker.topic)
}

fn fedora(broker: &Broker) -> Turn {
    broker.rival("fedora_publish.py", FEDORA_MESSAGES, &[broker.topic, &FEDORA_MESSAGES.to_string()])
}

/// Body and properties of a message of Fedora Messaging.
fn message(event: &Event) -> (Vec<u8>, BasicProperties) {
    let body = serde_json::to_vec(event).expect("it is JSON");
    let now = OffsetDateTime::now_utc();
    let (hour, minute, second) = now.to_hms();
    let sent_at = format!("{}T{hour:02}:{minute:02}:{second:02}+00:00", now.date());
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut headers = FieldTable::default();
    headers.insert("fedora_messaging_schema".into(), text("base.message"));
    headers.insert("fedora_messaging_schema_package".into(), text("fedora_messaging"));
    headers.insert("fedora_messaging_severity".into(), AMQPValue::LongInt(20));
    headers.insert("sent-at".into(), text(&sent_at));
    headers.insert("priority".into(), AMQPValue::LongInt(0));
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(2)
        .with_headers(headers);
    (body, properties)
}

//! Confirmed messages a second over AMQP 0-9-1, against rivals on the same broker.
//!
//!     scripts/brokers up && cargo bench --bench amqp091
//!     cargo bench --bench amqp091 -- amqp://HOST:PORT     another RabbitMQ; PYTHON names one with pika and fedora-messaging
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

use std::time::Instant;

use axum::Router;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};
use support::Event;
use support::broker::{Broker, ROUNDS, Rates, TURN, Turn, WINDOW, app, requests};
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
    let raw = Raw::open(&broker).await;

    println!("RabbitMQ, AMQP 0-9-1, persistent messages of 300 bytes, {ROUNDS} rounds");
    broker.check_and_empty(requests(&layer).await, 0);
    broker.check_and_empty(raw.turn(false).await, 0);
    let mut rates = Rates::new(WHO);
    for round in 0..ROUNDS {
        for who in rates.order(round) {
            let (turn, more) = match WHO[who] {
                "layer" => (requests(&layer).await, 0),
                "raw" => (raw.turn(false).await, 0),
                "turns" => (raw.turn(true).await, 0),
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
    settings.window = WINDOW as u32;
    app(Fedmsg::new(&settings).expect("the settings are right"), broker.topic)
}

fn fedora(broker: &Broker) -> Turn {
    broker.rival("fedora_publish.py", FEDORA_MESSAGES, &[broker.topic, &FEDORA_MESSAGES.to_string()])
}

/// What one would write with the driver alone.
struct Raw {
    connection: Connection,
    channel: Channel,
    event: Event,
    topic: &'static str,
}

impl Raw {
    async fn open(broker: &Broker) -> Self {
        let connection = Connection::connect(&broker.url, ConnectionProperties::default()).await;
        let connection = connection.expect("the broker opens a connection");
        let channel = connection.create_channel().await.expect("the broker opens a channel");
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        select.await.expect("the broker confirms");
        Self { connection, channel, event: Event::new(), topic: broker.topic }
    }

    /// One turn, in a task of its own as what the layer sends is.
    async fn turn(&self, in_turns: bool) -> Turn {
        let (channel, event, topic) = (self.channel.clone(), self.event.clone(), self.topic);
        let task = tokio::spawn(async move {
            let (begun, mut confirmed) = (Instant::now(), 0);
            let mut outcomes = FuturesUnordered::new();
            loop {
                let more = begun.elapsed() < TURN;
                if more && outcomes.len() < WINDOW {
                    let mut publish = Box::pin(publish(&channel, &event, topic));
                    // A publish is done when it is written; its confirm comes later.
                    let early = if in_turns { Some(publish.as_mut().await) } else { None };
                    outcomes.push(async move {
                        let confirm = match early {
                            Some(confirm) => confirm,
                            None => publish.await,
                        };
                        confirm.await
                    });
                    continue;
                }
                let Some(outcome) = outcomes.next().await else { break };
                assert!(matches!(outcome, Ok(Confirmation::Ack(None))), "{outcome:?}");
                confirmed += 1;
            }
            (confirmed, begun.elapsed().as_secs_f64())
        });
        task.await.expect("it does not panic")
    }

    async fn close(self) {
        self.connection.close(200, "bye".into()).await.expect("the broker closes");
    }
}

async fn publish(channel: &Channel, event: &Event, topic: &str) -> PublisherConfirm {
    let (body, properties) = message(event);
    let (exchange, options) = ("amq.topic".into(), BasicPublishOptions::default());
    let publish = channel.basic_publish(exchange, topic.into(), options, &body, properties);
    publish.await.expect("the channel is open")
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

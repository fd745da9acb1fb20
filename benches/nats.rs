//! Confirmed messages a second over JetStream, and messages consumed, against the client library alone.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench nats
//!     cargo bench -p tower-outbox-benches --bench nats -- send --quick        one part, a short run
//!
//! | part | what | against |
//! |---|---|---|
//! | send | 256 requests at once, in process, through `MessagingLayer` with `Nats`, one event of 300 bytes each; direct, a stream in files | async-nats alone: one connection, 256 confirms awaited at most; the same message |
//! | consume | messages/s from a durable consumer, handled and acknowledged with the server's confirm, prefetch 256, 64 at once, `NatsSource` | async-nats alone: a pull consumer with 256 at a time, 64 confirmed acknowledgements at once |
//!
//! Turns alternate; each ratio is taken within one round.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use axum::Router;
use axum::routing::post;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use support::broker::{ROUNDS, Rates, TURN, Turn, WINDOW, app, requests};
use support::{Event, asked, quick, root};
use tokio::sync::Notify;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::nats::{Nats, NatsSettings, NatsSource, NatsSubscription};
use tower_outbox::{Consumer, Message, Messenger};

const MESSAGES: u64 = 30_000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let known = std::fs::read_to_string(root("target/brokers/env")).unwrap_or_default();
    let known = known.lines().find_map(|line| line.strip_prefix("NATS1="));
    let url = std::env::args().find(|argument| argument.contains("://"));
    let url =
        url.or_else(|| known.map(str::to_owned)).expect("no server: run scripts/brokers up, or name one");
    let client = async_nats::connect(&url).await.expect("the server answers");
    // Its own backpressure blocks a caller who does not poll confirms.
    let context = ContextBuilder::new().backpressure_on_inflight(false).build(client);
    if asked("send") {
        send(&url, &context).await;
    }
    if asked("consume") {
        consume(&url, &context).await;
    }
}

fn rounds() -> usize {
    if quick() { 3 } else { ROUNDS }
}

/// A new stream for a topic.
async fn stream(context: &Context, topic: &str) -> jetstream::stream::Stream {
    let name = topic.replace('.', "-");
    let _ = context.delete_stream(&name).await;
    let config = Config { name, subjects: vec![topic.to_owned()], ..Config::default() };
    context.create_stream(config).await.expect("it is created")
}

async fn send(url: &str, context: &Context) {
    let topic = &*format!("bench.nats.{}", std::process::id()).leak();
    let mut settings = NatsSettings::new([url]);
    settings.broker.window = WINDOW as u32;
    let layer = app(Nats::new(&settings).expect("the settings are right"), topic);
    stream(context, topic).await;
    println!("nats-server, JetStream in files, messages of 300 bytes, {} rounds", rounds());
    requests(&layer).await;
    raw_turn(context, topic).await;
    let mut rates = Rates::new(["layer", "raw"]);
    for round in 0..rounds() {
        stream(context, topic).await;
        for who in rates.order(round) {
            let turn = if who == 0 { requests(&layer).await } else { raw_turn(context, topic).await };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
    let _ = context.delete_stream(topic.replace('.', "-")).await;
}

/// One turn, in a task of its own as what the layer sends is.
async fn raw_turn(context: &Context, topic: &'static str) -> Turn {
    let (context, event) = (context.clone(), Event::new());
    let task = tokio::spawn(async move {
        let (begun, mut confirmed) = (Instant::now(), 0);
        let mut outcomes = FuturesUnordered::new();
        loop {
            if begun.elapsed() < TURN && outcomes.len() < WINDOW {
                let confirm = context.send_publish(topic, message(&event)).await;
                outcomes.push(confirm.expect("the client runs").into_future());
                continue;
            }
            let Some(outcome) = outcomes.next().await else { break };
            outcome.expect("the server confirms");
            confirmed += 1;
        }
        (confirmed, begun.elapsed().as_secs_f64())
    });
    task.await.expect("it does not panic")
}

/// As `Nats` has it.
fn message(event: &Event) -> PublishMessage {
    let body = serde_json::to_vec(event).expect("it is JSON");
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    let mut headers = HeaderMap::new();
    headers.insert("tower-outbox-id", id.as_str());
    headers.insert("tower-outbox-time", now.as_micros().to_string());
    headers.insert("Content-Type", "application/json");
    headers.insert("Nats-Msg-Id", id);
    PublishMessage::build().headers(headers).payload(body.into())
}

/// Fills a new stream with so many messages.
async fn fill(context: &Context, messenger: &Nats, topic: &'static str, messages: u64) {
    stream(context, topic).await;
    let event = Event::new();
    for _ in 0..messages / 500 {
        let batch = (0..500).map(|_| Message::json(topic, &event).expect("the topic is one")).collect();
        messenger.send(batch).await.expect("the server takes it");
    }
}

async fn consume(url: &str, context: &Context) {
    let topic = &*format!("bench.nats.consume.{}", std::process::id()).leak();
    let settings = NatsSettings::new([url]);
    let messenger = Nats::new(&settings).expect("the settings are right");
    let messages = if quick() { 10_000 } else { MESSAGES };
    println!("{messages} messages of 300 bytes from a durable consumer, prefetch 256");
    let mut rates = Rates::new(["ours", "raw"]);
    for round in 0..rounds() {
        for who in rates.order(round) {
            fill(context, &messenger, topic, messages).await;
            let turn = match who {
                0 => ours(&settings, topic, messages).await,
                _ => raw(context, topic, messages).await,
            };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
    let _ = context.delete_stream(topic.replace('.', "-")).await;
}

async fn ours(settings: &NatsSettings, topic: &'static str, messages: u64) -> Turn {
    let subscription = NatsSubscription::new(topic.replace('.', "-"), "ours").with_prefetch(256);
    let source = NatsSource::new(settings, &subscription).expect("the settings are right");
    let (handled, done) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let handler = {
        let (handled, done) = (Arc::clone(&handled), Arc::clone(&done));
        move || async move {
            if handled.fetch_add(1, Ordering::Relaxed) + 1 == messages {
                done.notify_one();
            }
        }
    };
    let router = Router::new().route(&format!("/{}", topic.replace('.', "/")), post(handler)).with_state(());
    let consumer =
        Consumer::new(source, router).with_settings(ConsumerSettings::default().with_concurrency(64));
    let begun = Instant::now();
    let shutdown = async {
        done.notified().await;
    };
    consumer.with_graceful_shutdown(shutdown, Duration::from_secs(10)).await;
    (messages, begun.elapsed().as_secs_f64())
}

async fn raw(context: &Context, topic: &'static str, messages: u64) -> Turn {
    let begun = Instant::now();
    let stream = context.get_stream(topic.replace('.', "-")).await.expect("there is one");
    let config = pull::Config {
        durable_name: Some("raw".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer: PullConsumer = stream.create_consumer(config).await.expect("it is created");
    let mut arriving =
        consumer.stream().max_messages_per_batch(256).messages().await.expect("it is pulled").fuse();
    let (mut received, mut acknowledged) = (0, 0);
    let mut acks = FuturesUnordered::new();
    while acknowledged < messages {
        tokio::select! {
            message = arriving.next(), if acks.len() < 64 && received < messages => {
                let message = message.expect("it goes on").expect("the server goes on");
                black_box(&message.payload);
                received += 1;
                let client = context.client();
                acks.push(async move {
                    let reply = message.reply.clone().expect("it is of JetStream");
                    client.request(reply, "+ACK".into()).await.expect("the server confirms");
                });
            }
            Some(()) = acks.next() => acknowledged += 1,
        }
    }
    (messages, begun.elapsed().as_secs_f64())
}

//! Confirmed messages a second over JetStream, messages consumed, and the time of requests, against the client library alone.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench nats
//!     cargo bench -p tower-outbox-benches --bench nats -- send --quick        one part, a short run
//!
//! | part | what | against |
//! |---|---|---|
//! | send | 256 requests at once, in process, through `MessagingLayer` with `Nats`, one event of 300 bytes each; direct, a stream in files | async-nats alone: one connection, 256 confirms awaited at most; the same message |
//! | | the same through an axum app whose handler publishes with async-nats itself, and awaits the confirm | as above |
//! | batches | batches of 256 messages to `Nats`, without requests | as above |
//! | relay | confirmed messages/s of a relay with a backlog in `EmbeddedStore`, through `Nats` | async-nats as above |
//! | consume | messages/s from a durable consumer, handled and acknowledged with the server's confirm, prefetch 256, 64 at once, `Consumer` with `NatsSource` | async-nats alone: a pull consumer with 256 at a time, 64 confirmed acknowledgements at once |
//! | | the same with `NatsSource` alone, without router and handlers | as above |
//! | requests | time of a request of 300 bytes and its reply, 1 and 64 at a time: `Client`, `NatsRequester`, and a `Consumer` that replies | async-nats alone: `Client::request`, and a queue subscription that replies |
//!
//! Turns alternate; each ratio is taken within one round. Client and responder live in this process, with a connection each.

mod support;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::BodyExt;
use support::broker::{ROUNDS, Rates, TURN, Turn, WINDOW, app, batches as batch_turn, requests};
use support::relay::relay;
use support::{Event, Spread, asked, disk, quick, root};
use tokio::sync::Notify;
use tower::ServiceExt;
use tower_outbox::client::Client;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::nats::{Nats, NatsRequester, NatsSettings, NatsSource, NatsSubscription};
use tower_outbox::outbox::OutboxHandle;
use tower_outbox::source::Source;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings};
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
    let context = ContextBuilder::new().backpressure_on_inflight(false).build(client.clone());
    if asked("send") {
        send(&url, &context).await;
    }
    if asked("batches") {
        batches(&url, &context).await;
    }
    if asked("relay") {
        backlog(&url, &context).await;
    }
    if asked("consume") {
        consume(&url, &context).await;
    }
    if asked("requests") {
        calls(&url, &client).await;
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
    raw_turn(context, topic, Until::Time(TURN)).await;
    let handler = publishing(context, topic);
    let mut rates = Rates::new(["layer", "handler", "raw"]);
    for round in 0..rounds() {
        stream(context, topic).await;
        for who in rates.order(round) {
            let turn = match who {
                0 => requests(&layer).await,
                1 => requests(&handler).await,
                _ => raw_turn(context, topic, Until::Time(TURN)).await,
            };
            rates.push(who, turn);
        }
    }
    rates.print(["", "", "target >= 0.85"]);
    let _ = context.delete_stream(topic.replace('.', "-")).await;
}

/// An app without the layer, whose handler publishes.
fn publishing(context: &Context, topic: &'static str) -> Router {
    let (context, event) = (context.clone(), Arc::new(Event::new()));
    let handler = async move || {
        let confirm = context.send_publish(topic, message(&event)).await;
        confirm.expect("the client runs").await.expect("the server confirms");
        StatusCode::CREATED
    };
    Router::new().route("/", post(handler)).with_state(())
}

async fn batches(url: &str, context: &Context) {
    let topic = &*format!("bench.nats.batches.{}", std::process::id()).leak();
    let mut settings = NatsSettings::new([url]);
    settings.broker.window = 2 * WINDOW as u32;
    let messenger = Arc::new(Nats::new(&settings).expect("the settings are right"));
    println!("batches of {WINDOW} messages of 300 bytes, {} rounds", rounds());
    let mut rates = Rates::new(["batches", "raw"]);
    for round in 0..rounds() {
        stream(context, topic).await;
        for who in rates.order(round) {
            let turn = match who {
                0 => batch_turn(&messenger, topic).await,
                _ => raw_turn(context, topic, Until::Time(TURN)).await,
            };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
    let _ = context.delete_stream(topic.replace('.', "-")).await;
}

/// When a turn ends.
#[derive(Clone, Copy)]
enum Until {
    Time(Duration),
    Confirmed(u64),
}

/// One turn, in a task of its own as what the layer sends is.
async fn raw_turn(context: &Context, topic: &'static str, until: Until) -> Turn {
    let (context, event) = (context.clone(), Event::new());
    let task = tokio::spawn(async move {
        let (begun, mut sent, mut confirmed) = (Instant::now(), 0, 0);
        let mut outcomes = FuturesUnordered::new();
        loop {
            let goes_on = match until {
                Until::Time(time) => begun.elapsed() < time,
                Until::Confirmed(messages) => sent < messages,
            };
            if goes_on && outcomes.len() < WINDOW {
                let confirm = context.send_publish(topic, message(&event)).await;
                outcomes.push(confirm.expect("the client runs").into_future());
                sent += 1;
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

async fn backlog(url: &str, context: &Context) {
    let topic = &*format!("bench.nats.relay.{}", std::process::id()).leak();
    let messages = if quick() { 10_000 } else { MESSAGES * 2 };
    let mut settings = NatsSettings::new([url]);
    settings.broker.window = WINDOW as u32;
    let nats = Arc::new(Nats::new(&settings).expect("the settings are right"));
    let folder = disk::folder("nats");
    let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(folder.path().join("outbox"))).await;
    let store = Arc::new(store.expect("it can be created"));
    println!("a backlog of {messages} messages of 300 bytes, {} rounds", rounds());
    let stored = async || {
        let (handle, event) = (OutboxHandle::stopped(store.clone()), Event::new());
        for _ in 0..messages / 500 {
            let batch = (0..500).map(|_| Message::json(topic, &event).expect("the topic is one")).collect();
            handle.append(batch).await.expect("there is room");
        }
        let (seconds, left) = relay(Arc::clone(&nats), store.clone(), messages, messages).await;
        assert_eq!(left.pending, 0);
        (messages, seconds[0])
    };
    let mut rates = Rates::new(["relay", "raw"]);
    for round in 0..rounds() {
        for who in rates.order(round) {
            stream(context, topic).await;
            let turn = match who {
                0 => stored().await,
                _ => raw_turn(context, topic, Until::Confirmed(messages)).await,
            };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
    let _ = context.delete_stream(topic.replace('.', "-")).await;
}

/// As `Nats` has it, with the same headers.
fn message(event: &Event) -> PublishMessage {
    let body = serde_json::to_vec(event).expect("it is JSON");
    let mut headers = headers();
    let id = headers.get("tower-outbox-id").expect("it has one").clone();
    headers.insert("Nats-Msg-Id", id);
    PublishMessage::build().headers(headers).payload(body.into())
}

/// Those of a message of ours.
fn headers() -> HeaderMap {
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    let (trace, span): (u128, u64) = (rand::random(), rand::random());
    let mut headers = HeaderMap::new();
    headers.insert("tower-outbox-id", id);
    headers.insert("tower-outbox-time", now.to_string());
    headers.insert("Content-Type", "application/json");
    headers.insert("traceparent", format!("00-{trace:032x}-{span:016x}-01"));
    headers
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
    let mut rates = Rates::new(["consumer", "source", "raw"]);
    let mut sources = Rates::new(["source", "raw"]);
    for round in 0..rounds() {
        for who in rates.order(round) {
            fill(context, &messenger, topic, messages).await;
            let turn = match who {
                0 => ours(&settings, topic, messages).await,
                1 => source(&settings, topic, messages).await,
                _ => raw(context, topic, messages).await,
            };
            rates.push(who, turn);
            if who > 0 {
                sources.push(who - 1, turn);
            }
        }
    }
    rates.print(["", "", "target >= 0.85"]);
    sources.print(["", "target >= 0.85"]);
    let _ = context.delete_stream(topic.replace('.', "-")).await;
}

/// From the first message on, as connecting and creating the consumer take their time, until all are acknowledged.
async fn ours(settings: &NatsSettings, topic: &'static str, messages: u64) -> Turn {
    let subscription = NatsSubscription::new(topic.replace('.', "-"), "ours").with_prefetch(256);
    let source = NatsSource::new(settings, &subscription).expect("the settings are right");
    let (handled, done) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let first = Arc::new(OnceLock::new());
    let handler = {
        let (handled, done, first) = (Arc::clone(&handled), Arc::clone(&done), Arc::clone(&first));
        move || async move {
            first.get_or_init(Instant::now);
            if handled.fetch_add(1, Ordering::Relaxed) + 1 == messages {
                done.notify_one();
            }
        }
    };
    let router = Router::new().route(&format!("/{}", topic.replace('.', "/")), post(handler)).with_state(());
    let consumer =
        Consumer::new(source, router).with_settings(ConsumerSettings::default().with_concurrency(64));
    let elapsed = OnceLock::new();
    let shutdown = async {
        done.notified().await;
        let _ = elapsed.set(first.get().expect("some came").elapsed());
    };
    consumer.with_graceful_shutdown(shutdown, Duration::from_secs(10)).await;
    (messages, elapsed.get().expect("all came").as_secs_f64())
}

/// The source alone, without router and handlers.
async fn source(settings: &NatsSettings, topic: &'static str, messages: u64) -> Turn {
    let subscription = NatsSubscription::new(topic.replace('.', "-"), "ours").with_prefetch(256);
    let source = NatsSource::new(settings, &subscription).expect("the settings are right");
    let (mut first, mut received, mut acknowledged) = (None, 0, 0);
    let mut acks = FuturesUnordered::new();
    while acknowledged < messages {
        tokio::select! {
            arrived = source.receive(64 - acks.len()), if acks.len() < 64 && received < messages => {
                first.get_or_insert_with(Instant::now);
                for message in arrived.expect("the server goes on") {
                    black_box(message.view().expect("it is one").message().body());
                    received += 1;
                    acks.push(message.ack());
                }
            }
            Some(acked) = acks.next() => {
                acked.expect("the server confirms");
                acknowledged += 1;
            }
        }
    }
    let elapsed = first.expect("some came").elapsed().as_secs_f64();
    source.close(Duration::from_secs(10)).await;
    (messages, elapsed)
}

async fn raw(context: &Context, topic: &'static str, messages: u64) -> Turn {
    let stream = context.get_stream(topic.replace('.', "-")).await.expect("there is one");
    let config = pull::Config {
        durable_name: Some("raw".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer: PullConsumer = stream.create_consumer(config).await.expect("it is created");
    let mut arriving =
        consumer.stream().max_messages_per_batch(256).messages().await.expect("it is pulled").fuse();
    let (mut first, mut received, mut acknowledged) = (None, 0, 0);
    let mut acks = FuturesUnordered::new();
    while acknowledged < messages {
        tokio::select! {
            message = arriving.next(), if acks.len() < 64 && received < messages => {
                let message = message.expect("it goes on").expect("the server goes on");
                first.get_or_insert_with(Instant::now);
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
    (messages, first.expect("some came").elapsed().as_secs_f64())
}

/// The time of requests, at a time so many.
async fn calls(url: &str, raw: &async_nats::Client) {
    let topic = |who: &str| format!("bench.nats.requests.{who}.{}", std::process::id());
    let (ours, theirs) = (topic("ours"), topic("raw"));
    let settings = NatsSettings::new([url]);
    let source = NatsSource::new(&settings, &NatsSubscription::requests([ours.clone()]));
    let router = Router::new()
        .route(&format!("/{}", ours.replace('.', "/")), post(|body: Bytes| async move { body }))
        .with_state(());
    let responder = Consumer::new(source.expect("the settings are right"), router);
    let responder = tokio::spawn(responder.into_future());
    let client = Client::new(NatsRequester::new(&settings).expect("the settings are right"));
    let connection = async_nats::connect(url).await.expect("the server answers");
    let mut requests =
        connection.queue_subscribe(theirs.clone(), "bench".to_owned()).await.expect("it is subscribed");
    let raw_responder = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let reply = request.reply.expect("it is a request");
            let mut headers = HeaderMap::new();
            headers.insert("tower-outbox-status", "200");
            headers.insert("Content-Type", "application/octet-stream");
            let sent = connection.publish_with_headers(reply, headers, request.payload).await;
            sent.expect("the client runs");
        }
    });
    let (body, path) = (Event::new().bytes(), format!("/{}", ours.replace('.', "/")));
    let by_us = async || {
        let mut request = Request::post(&path).body(Body::from(body.clone())).expect("it is a request");
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = client.clone().oneshot(request).await.expect("it cannot fail");
        let is_success = response.status().is_success();
        is_success && response.into_body().collect().await.expect("it is whole").to_bytes().len() == 300
    };
    let by_them = async || {
        let mut headers = headers();
        headers.insert("tower-outbox-expiry", "29999");
        let reply = raw.request_with_headers(theirs.clone(), headers, body.clone()).await;
        reply.is_ok_and(|reply| reply.payload.len() == 300)
    };
    while !by_us().await || !by_them().await {}
    for at_a_time in [1, 64] {
        println!("a request of 300 bytes and its reply, {at_a_time} at a time, {} rounds", rounds());
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..rounds() {
            for who in [round % 2, (round + 1) % 2] {
                let time = match who {
                    0 => time_of(&by_us, at_a_time).await,
                    _ => time_of(&by_them, at_a_time).await,
                };
                times[who].push(time);
            }
        }
        let ratios = times[0].iter().zip(&times[1]).map(|(ours, raw)| ours / raw).collect();
        for (who, times) in ["ours", "raw"].into_iter().zip(times) {
            println!("  {who:<6} {:>6.1} µs", Spread::of(times));
        }
        println!("  ours / raw    {:.2}   target <= 1.5", Spread::of(ratios));
    }
    responder.abort();
    raw_responder.abort();
}

/// The microseconds of a call, in a turn of calls at a time so many.
async fn time_of(call: &impl AsyncFn() -> bool, at_a_time: usize) -> f64 {
    let (begun, mut made) = (Instant::now(), 0_u64);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < at_a_time && begun.elapsed() < TURN / 2 {
            running.push(call());
        }
        let Some(is_right) = running.next().await else { break };
        assert!(is_right, "a call failed");
        made += 1;
    }
    begun.elapsed().as_secs_f64() / made as f64 * 1e6
}

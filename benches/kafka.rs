//! Confirmed messages a second over Kafka's protocol, and messages consumed, against the client library alone.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench kafka
//!     cargo bench -p tower-outbox-benches --bench kafka -- send --quick        one part, a short run
//!
//! | part | what | against |
//! |---|---|---|
//! | send | 256 requests at once, in process, through `MessagingLayer` with `Kafka`, one event of 300 bytes each; direct, a topic of one partition | krafka alone: one idempotent producer with the same settings, 256 confirms awaited at most; the same record |
//! | batches | batches of 256 messages to `Kafka`, without requests | as above |
//! | consume | messages/s of a group, handled and acknowledged, prefetch 6,000, 64 at once, `Consumer` with `KafkaSource` | krafka alone: polls of 1,000, and 5,000 buffered, offsets committed every 200 ms |
//! | | the same with `KafkaSource` alone, without router and handlers | as above |
//!
//! Turns alternate; each ratio is taken within one round. The broker is Tansu, in memory.

mod support;

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::routing::post;
use krafka::admin::NewTopic;
use krafka::consumer::{AutoOffsetReset, OffsetAndMetadata, PartitionAssignmentStrategy, TopicPartition};
use krafka::producer::Producer;
use krafka::{Kafka as Client, Record};
use support::broker::{ROUNDS, Rates, TURN, Turn, WINDOW, app, batches as batch_turn, requests};
use support::{Event, asked, quick, root};
use tokio::sync::Notify;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::kafka::{Kafka, KafkaSettings, KafkaSource, KafkaSubscription};
use tower_outbox::source::Source;
use tower_outbox::{Consumer, Message, Messenger};

/// So many that a turn lasts for a second: the first answers of the broker come at once.
const MESSAGES: u64 = 300_000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let known = std::fs::read_to_string(root("target/brokers/env")).unwrap_or_default();
    let known = known.lines().find_map(|line| line.strip_prefix("KAFKA1="));
    let url = std::env::args().find(|argument| argument.contains("://"));
    let url =
        url.or_else(|| known.map(str::to_owned)).expect("no broker: run scripts/brokers up, or name one");
    let address = url.trim_start_matches("kafka://").to_owned();
    let client = Client::builder(address).connect().await.expect("the broker answers");
    if asked("send") {
        send(&url, &client).await;
    }
    if asked("batches") {
        batches(&url, &client).await;
    }
    if asked("consume") {
        consume(&url, &client).await;
    }
}

fn rounds() -> usize {
    if quick() { 3 } else { ROUNDS }
}

/// A new topic of one partition.
async fn topic(client: &Client, part: &str) -> &'static str {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("bench.kafka.{part}.{}.{number}", std::process::id());
    let topics = [NewTopic::new(&*name, 1, 1).expect("it is a name")];
    client.admin().create_topics(topics, Default::default()).await.expect("it is created");
    name.leak()
}

async fn producer(client: &Client) -> Producer {
    let producer = client.producer().linger(Duration::ZERO).batch_size(256 << 10).metrics_push(false);
    producer.build().await.expect("the broker answers")
}

async fn send(url: &str, client: &Client) {
    let topic = topic(client, "send").await;
    let mut settings = KafkaSettings::new([url]);
    settings.broker.window = WINDOW as u32;
    let layer = app(Kafka::new(&settings).expect("the settings are right"), topic);
    let producer = Arc::new(producer(client).await);
    println!("Tansu in memory, messages of 300 bytes, {} rounds", rounds());
    requests(&layer).await;
    raw_turn(&producer, topic).await;
    let mut rates = Rates::new(["layer", "raw"]);
    for round in 0..rounds() {
        for who in rates.order(round) {
            let turn = if who == 0 { requests(&layer).await } else { raw_turn(&producer, topic).await };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
    let _ = producer.close().await;
}

async fn batches(url: &str, client: &Client) {
    let topic = topic(client, "batches").await;
    let mut settings = KafkaSettings::new([url]);
    settings.broker.window = 2 * WINDOW as u32;
    let messenger = Arc::new(Kafka::new(&settings).expect("the settings are right"));
    let producer = Arc::new(producer(client).await);
    batch_turn(&messenger, topic).await;
    raw_turn(&producer, topic).await;
    let mut rates = Rates::new(["batches", "raw"]);
    for round in 0..rounds() {
        for who in rates.order(round) {
            let turn =
                if who == 0 { batch_turn(&messenger, topic).await } else { raw_turn(&producer, topic).await };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
    let _ = producer.close().await;
}

/// One turn, in a task of its own as what the layer sends is.
async fn raw_turn(producer: &Arc<Producer>, topic: &'static str) -> Turn {
    let (producer, event) = (Arc::clone(producer), Event::new());
    let task = tokio::spawn(async move {
        let (begun, mut confirmed) = (Instant::now(), 0);
        let mut outcomes = VecDeque::new();
        loop {
            if begun.elapsed() < TURN && outcomes.len() < WINDOW {
                outcomes.push_back(producer.enqueue(record(topic, &event)).await.expect("it is queued"));
                continue;
            }
            let Some(outcome) = outcomes.pop_front() else { break };
            let _ = black_box(outcome.await.expect("the broker confirms"));
            confirmed += 1;
        }
        (confirmed, begun.elapsed().as_secs_f64())
    });
    task.await.expect("it does not panic")
}

/// As `Kafka` has it.
fn record(topic: &str, event: &Event) -> Record {
    let body = serde_json::to_vec(event).expect("it is JSON");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    Record::new(topic, body)
        .timestamp(now.as_millis() as i64)
        .header("tower-outbox-id", uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string())
        .header("tower-outbox-time", now.as_micros().to_string())
        .header("content-type", "application/json")
}

/// A new topic with so many messages.
async fn filled(client: &Client, messenger: &Kafka, messages: u64) -> &'static str {
    let topic = topic(client, "consume").await;
    let event = Event::new();
    for _ in 0..messages / 500 {
        let batch = (0..500).map(|_| Message::json(topic, &event).expect("the topic is one")).collect();
        messenger.send(batch).await.expect("the broker takes it");
    }
    topic
}

async fn consume(url: &str, client: &Client) {
    let settings = KafkaSettings::new([url]);
    let messenger = Kafka::new(&settings).expect("the settings are right");
    let messages = if quick() { 100_000 } else { MESSAGES };
    println!("{messages} messages of 300 bytes of a group, prefetch 6,000");
    let mut rates = Rates::new(["consumer", "source", "raw"]);
    let mut sources = Rates::new(["source", "raw"]);
    for round in 0..rounds() {
        for who in rates.order(round) {
            let topic = filled(client, &messenger, messages).await;
            let turn = match who {
                0 => ours(&settings, topic, messages).await,
                1 => source(&settings, topic, messages).await,
                _ => raw(client, topic, messages).await,
            };
            rates.push(who, turn);
            if who > 0 {
                sources.push(who - 1, turn);
            }
        }
    }
    rates.print(["", "", "target >= 0.85"]);
    sources.print(["", "target >= 0.85"]);
}

/// From the first message on: joining a group takes its time.
async fn ours(settings: &KafkaSettings, topic: &'static str, messages: u64) -> Turn {
    let source =
        KafkaSource::new(settings, &KafkaSubscription::new(topic, [topic])).expect("the settings are right");
    let (handled, done) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let first = Arc::new(std::sync::OnceLock::new());
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
    let elapsed = Arc::new(std::sync::OnceLock::new());
    let shutdown = async {
        done.notified().await;
        let _ = elapsed.set(first.get().expect("some came").elapsed());
    };
    consumer.with_graceful_shutdown(shutdown, Duration::from_secs(10)).await;
    (messages, elapsed.get().expect("all came").as_secs_f64())
}

/// The source alone, without router and handlers.
async fn source(settings: &KafkaSettings, topic: &'static str, messages: u64) -> Turn {
    let source =
        KafkaSource::new(settings, &KafkaSubscription::new(topic, [topic])).expect("the settings are right");
    let (mut first, mut acknowledged) = (None, 0);
    while acknowledged < messages {
        for message in source.receive(500).await.expect("the broker goes on") {
            first.get_or_insert_with(Instant::now);
            black_box(message.view().expect("it is one").message().body());
            message.ack().await.expect("its partition is ours");
            acknowledged += 1;
        }
    }
    let elapsed = first.expect("some came").elapsed().as_secs_f64();
    source.close(Duration::from_secs(10)).await;
    (messages, elapsed)
}

async fn raw(client: &Client, topic: &'static str, messages: u64) -> Turn {
    let consumer = client
        .consumer(topic)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false)
        .max_poll_records(1_000)
        .max_buffered_records(5_000)
        // As `KafkaSource` has it.
        .session_timeout(Duration::from_secs(10))
        .max_poll_interval(Duration::from_secs(30))
        .heartbeat_interval(Duration::from_secs(3))
        .partition_assignment_strategies(vec![
            PartitionAssignmentStrategy::CooperativeSticky,
            PartitionAssignmentStrategy::Range,
        ])
        .metrics_push(false)
        .build()
        .await
        .expect("the broker answers");
    consumer.subscribe([topic]).await.expect("it is there");
    let (mut first, mut committed, mut received) = (None, Instant::now(), 0);
    let mut next = 0;
    while received < messages {
        for record in consumer.poll(Duration::from_secs(1)).await.expect("the broker goes on") {
            first.get_or_insert_with(Instant::now);
            black_box(&record.value);
            next = record.offset + 1;
            received += 1;
        }
        if committed.elapsed() > Duration::from_millis(200) {
            let offsets = [(TopicPartition::new(topic, 0), OffsetAndMetadata::new(next))];
            // It is refused while the group agrees on its partitions.
            if let Err(error) = consumer.commit_offsets(offsets).await {
                eprintln!("not committed: {error}");
            }
            committed = Instant::now();
        }
    }
    let elapsed = first.expect("some came").elapsed().as_secs_f64();
    let _ = consumer.close().await;
    (messages, elapsed)
}

//! The cost of a consumer for each message, and the rate at which it consumes from a broker.
//!
//!     cargo bench -p tower-outbox-benches --bench consume -- dispatch         without a broker; instructions need valgrind
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench consume -- rabbitmq
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench consume -- activemq
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench consume -- petisco
//!     cargo bench -p tower-outbox-benches --bench consume -- --quick          a short run of all
//!
//! | part | what | against |
//! |---|---|---|
//! | dispatch | a message of 300 bytes from a source that has it at hand, through a `Router` with a no-op handler, acknowledged | `Router::oneshot` of the same request |
//! | rabbitmq | messages/s consumed and acknowledged, prefetch 256, `Amqp091Source` | lapin alone, which acknowledges each |
//! | activemq | the same with `Amqp10Source`, credit 256 | fe2o3-amqp alone, which accepts each |
//! | petisco | messages/s sent, received and handled in petisco's topology and envelope, a message a send, 256 sends at a time | petisco 2.2 on both sides |
//!
//! Of the first three the queue is filled before each turn. Turns alternate; each ratio is taken within one round.

mod support;

use std::alloc::System;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use axum::routing::post;
use fe2o3_amqp_types::messaging::Body as Body10;
use fe2o3_amqp_types::primitives::Value;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::broker::{Broker, Rates, Turn};
use support::{Event, Spread, quick, root};
use tokio::sync::Notify;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Amqp10Source, Amqp10Subscription};
use tower_outbox::amqp091::{
    Amqp091, Amqp091Settings, Amqp091Source, Amqp091Subscription, PetiscoSubscriber, PetiscoTtl, RetryBy,
    Topology,
};
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::envelope::Envelope;
use tower_outbox::message::Settlement;
use tower_outbox::source::{Settle, Source, SourceError, Unsettled};
use tower_outbox::{Consumer, Message, Messenger, async_trait};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 9;
const MESSAGES: u64 = 30_000;

const FEW: u64 = 1_000;
const MANY: u64 = 11_000;
const DISPATCHES: u64 = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [part, who, n] = &arguments[..]
        && part == "dispatch"
    {
        black_box(dispatch(who, n.parse().expect("a number")));
        return;
    }
    let asked = |part: &str| {
        let mut parts = arguments.iter().filter(|argument| !argument.contains('-')).peekable();
        parts.peek().is_none() || parts.any(|argument| argument == part)
    };
    if asked("dispatch") {
        compare_dispatch();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads can be started");
    if asked("rabbitmq") {
        runtime.block_on(rabbitmq());
    }
    if asked("activemq") {
        runtime.block_on(activemq());
    }
    if asked("petisco") {
        runtime.block_on(petisco());
    }
}

/// Dispatches so many messages; gives the seconds and the allocations.
fn dispatch(who: &str, n: u64) -> (f64, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can be made");
    let router = Router::new().route("/bench/event", post(|| async {})).with_state(());
    let message = Event::new().message();
    let region = Region::new(ALLOCATOR);
    let begun = Instant::now();
    runtime.block_on(async {
        match who {
            "consumer" => {
                let source = AtHand { message, left: AtomicU64::new(n) };
                let settings = ConsumerSettings::default();
                let consumer = Consumer::new(source, router).with_settings(settings);
                consumer.with_graceful_shutdown(std::future::pending(), Duration::ZERO).await;
            }
            _ => {
                for _ in 0..n {
                    let response = support::one_shot(&router, request(&message));
                    assert!(response.status().is_success());
                }
            }
        }
    });
    (begun.elapsed().as_secs_f64(), region.change().allocations)
}

/// The request a consumer makes of it.
fn request(message: &Message) -> Request<Body> {
    let id = message.id().to_string();
    Request::post("/bench/event")
        .header("ce-id", id)
        .header("ce-type", "bench.event")
        .header("ce-source", HeaderValue::from_static("bench"))
        .header("ce-specversion", HeaderValue::from_static("1.0"))
        .header("ce-time", HeaderValue::from_static("2026-11-21T06:15:24.925794Z"))
        .header("content-type", HeaderValue::from_static("application/json"))
        .body(Body::from(message.body().clone()))
        .expect("it is a request")
}

fn compare_dispatch() {
    println!("dispatch of a message of 300 bytes, no broker");
    let rounds = if quick() { 3 } else { 21 };
    let (mut ratios, mut times) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..=rounds {
        let mut seconds = [0.0; 2];
        for turn in [round, round + 1] {
            seconds[turn % 2] = dispatch(["consumer", "oneshot"][turn % 2], DISPATCHES).0;
        }
        // The first round warms up.
        if round > 0 {
            ratios.push(seconds[0] / seconds[1]);
            times
                .iter_mut()
                .zip(seconds)
                .for_each(|(times, seconds)| times.push(seconds / DISPATCHES as f64 * 1e6));
        }
    }
    for (who, times) in ["consumer", "oneshot"].into_iter().zip(times) {
        let allocations = (dispatch(who, MANY).1 - dispatch(who, FEW).1) as f64 / (MANY - FEW) as f64;
        let instructions = (instructions(who, MANY) - instructions(who, FEW)) / (MANY - FEW) as f64;
        println!(
            "  {who:<9} {} µs, {instructions:.0} instructions, {allocations:.1} allocations",
            Spread::of(times)
        );
    }
    println!("  consumer / oneshot, time {:.2}   target <= 1.5", Spread::of(ratios));
}

fn instructions(who: &str, n: u64) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this file has a name"))
        .args(["dispatch", who, &n.to_string()])
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report.lines().find_map(|line| line.split("Collected :").nth(1));
    collected.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no count in: {report}"))
}

/// Gives the same message again and again.
struct AtHand {
    message: Message,
    left: AtomicU64,
}

#[async_trait]
impl Source for AtHand {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let count = self.left.load(Ordering::Relaxed).min(limit as u64);
        if count == 0 {
            return Err(SourceError::Closed);
        }
        self.left.fetch_sub(count, Ordering::Relaxed);
        let name = self.name();
        Ok((0..count)
            .map(|_| Unsettled::new(self.message.clone(), 1, false, Arc::clone(&name), Vec::new(), Forget))
            .collect())
    }

    fn name(&self) -> Arc<str> {
        "bench".into()
    }
}

struct Forget;

#[async_trait]
impl Settle for Forget {
    async fn settle(self: Box<Self>, _: Settlement) -> Result<(), SourceError> {
        Ok(())
    }
}

/// Consumes `messages` with a no-op handler.
async fn consume(source: impl Source, topic: &str, messages: u64) -> Turn {
    let (handled, done) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let handler = {
        let (handled, done) = (Arc::clone(&handled), Arc::clone(&done));
        move || async move {
            if handled.fetch_add(1, Ordering::Relaxed) + 1 == messages {
                done.notify_one();
            }
        }
    };
    let path = format!("/{}", topic.replace('.', "/"));
    let router = Router::new().route(&path, post(handler)).with_state(());
    let settings = ConsumerSettings::default().with_concurrency(64);
    let consumer = Consumer::new(source, router).with_settings(settings);
    let begun = Instant::now();
    let shutdown = async {
        done.notified().await;
    };
    consumer.with_graceful_shutdown(shutdown, Duration::from_secs(10)).await;
    (messages, begun.elapsed().as_secs_f64())
}

async fn fill(messenger: &impl Messenger, topic: &'static str, messages: u64) {
    let event = Event::new();
    for _ in 0..messages / 500 {
        let batch = (0..500).map(|_| Message::json(topic, &event).expect("the topic is one")).collect();
        messenger.send(batch).await.expect("the broker takes it");
    }
}

fn rounds_and_messages() -> (usize, u64) {
    if quick() { (3, 10_000) } else { (ROUNDS, MESSAGES) }
}

async fn rabbitmq() {
    let broker = Broker::find("bench.consume");
    let settings = Amqp091Settings::new([&broker.url]);
    let messenger = Amqp091::new(&settings).expect("the settings are good");
    let (rounds, messages) = rounds_and_messages();
    println!("{messages} messages of 300 bytes from RabbitMQ, AMQP 0-9-1, prefetch 256");
    let mut rates = Rates::new(["ours", "lapin"]);
    for round in 0..rounds {
        for who in rates.order(round) {
            fill(&messenger, broker.topic, messages).await;
            let turn = if who == 0 {
                let subscription = Amqp091Subscription::new(broker.queue()).with_prefetch(256);
                let source = Amqp091Source::new(&settings, &subscription).expect("the settings are good");
                consume(source, broker.topic, messages).await
            } else {
                lapin_alone(&broker, messages).await
            };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
}

async fn lapin_alone(broker: &Broker, messages: u64) -> Turn {
    let begun = Instant::now();
    let connection = Connection::connect(&broker.url, ConnectionProperties::default()).await;
    let connection = connection.expect("the broker opens a connection");
    let channel = connection.create_channel().await.expect("the broker opens a channel");
    channel.basic_qos(256, BasicQosOptions::default()).await.expect("the broker agrees");
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(broker.queue().into(), "raw".into(), options, table).await;
    let mut consumer = consumer.expect("the broker lets us consume");
    for _ in 0..messages {
        let delivery = consumer.next().await.expect("the next message").expect("the broker goes on");
        black_box(&delivery.data);
        delivery.ack(BasicAckOptions::default()).await.expect("the broker goes on");
    }
    connection.close(200, "done".into()).await.expect("the broker says goodbye");
    (messages, begun.elapsed().as_secs_f64())
}

async fn activemq() {
    let known =
        std::fs::read_to_string(root("target/brokers/env")).expect("no broker: run scripts/brokers up");
    let url = known.lines().find_map(|line| line.strip_prefix("ACTIVEMQ_AMQP=")).expect("it is there");
    let topic = &*format!("bench.consume.{}", std::process::id()).leak();
    let mut settings = Amqp10Settings::new([url]);
    settings.address = Some("queue://{topic}".to_owned());
    // Nothing is to wait for a disk.
    settings.durable = Some(false);
    let messenger = Amqp10::new(&settings).expect("the settings are good");
    let address = format!("queue://{topic}");
    let (rounds, messages) = rounds_and_messages();
    println!("{messages} messages of 300 bytes, not durable, from ActiveMQ, AMQP 1.0, credit 256");
    let mut rates = Rates::new(["ours", "fe2o3"]);
    for round in 0..rounds {
        for who in rates.order(round) {
            fill(&messenger, topic, messages).await;
            let turn = if who == 0 {
                let subscription = Amqp10Subscription::new(&address);
                let source = Amqp10Source::new(&settings, &subscription).expect("the settings are good");
                consume(source, topic, messages).await
            } else {
                fe2o3_alone(url, &address, messages).await
            };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
}

async fn fe2o3_alone(url: &str, address: &str, messages: u64) -> Turn {
    let begun = Instant::now();
    let container = format!("raw-{}", rand::random::<u64>());
    let connection = fe2o3_amqp::Connection::builder()
        .container_id(container)
        .sasl_profile(fe2o3_amqp::sasl_profile::SaslProfile::Anonymous)
        .open(url);
    let mut connection = connection.await.expect("the broker opens a connection");
    let mut session = fe2o3_amqp::Session::begin(&mut connection).await.expect("the broker begins a session");
    let receiver = fe2o3_amqp::Receiver::builder()
        .name("raw")
        .source(address)
        .credit_mode(fe2o3_amqp::link::receiver::CreditMode::Auto(256))
        .attach(&mut session);
    let mut receiver = receiver.await.expect("the broker lets us consume");
    for _ in 0..messages {
        let delivery = receiver.recv::<Body10<Value>>().await.expect("the broker goes on");
        black_box(delivery.body());
        receiver.accept(&delivery).await.expect("the broker goes on");
    }
    let _ = receiver.close().await;
    let _ = session.end().await;
    let _ = connection.close().await;
    (messages, begun.elapsed().as_secs_f64())
}

async fn petisco() {
    let known = |key: &str| {
        let known =
            std::fs::read_to_string(root("target/brokers/env")).expect("no broker: run scripts/brokers up");
        known.lines().find_map(|line| line.strip_prefix(key)).expect("it is there").to_owned()
    };
    let (url, python) = (known("RABBIT1_AMQP="), known("PETISCO_PYTHON="));
    let organization = format!("bench{}", std::process::id());
    let mut settings = Amqp091Settings::new([&url]);
    settings.broker.envelope = Envelope::Petisco;
    (settings.broker.organization, settings.broker.service) =
        (Some(organization.clone()), Some("bench".to_owned()));
    let subscriber = PetiscoSubscriber::event("bench.event", "CountBenchEvent");
    let ttl = PetiscoTtl::new(Some(Duration::from_secs(600)), Some(Duration::from_secs(5)));
    let topology =
        Topology::petisco(&organization, "bench").with_subscriber(subscriber.clone()).with_ttl(ttl);
    let queue = topology.queue_of(&subscriber);
    let topology = topology.topology();
    topology.apply(&settings).await.expect("the broker agrees");

    let (rounds, ours, theirs) = if quick() { (2, 5_000, 500) } else { (5, 30_000, 2_000) };
    println!("petisco's topology and envelope at RabbitMQ, {ours} messages of ours, {theirs} of petisco");
    let mut rates = Rates::new(["ours", "petisco"]);
    for round in 0..rounds {
        for who in rates.order(round) {
            let turn = if who == 0 {
                both_sides(&settings, &queue, &organization, ours).await
            } else {
                let script = [&url, &organization, &theirs.to_string()];
                let mut command = Command::new(&python);
                command.arg(root("benches/rivals/petisco_both.py")).args(script);
                let output = command.output().expect("python is there");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let report: serde_json::Value =
                    serde_json::from_slice(&output.stdout).expect("it prints JSON");
                (theirs, report["seconds"].as_f64().expect("it says how long it took"))
            };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 10"]);
    topology.clear(&settings).await.expect("the broker agrees");
}

async fn both_sides(settings: &Amqp091Settings, queue: &str, organization: &str, messages: u64) -> Turn {
    let retry = RetryBy::Petisco { organization: organization.to_owned(), service: "bench".to_owned() };
    let subscription = Amqp091Subscription::new(queue).with_retry(retry);
    let source = Amqp091Source::new(settings, &subscription).expect("the settings are good");
    let messenger = Arc::new(Amqp091::new(settings).expect("the settings are good"));
    let sending: Vec<_> = (0..256)
        .map(|n| {
            let (messenger, event) = (Arc::clone(&messenger), Event::new());
            tokio::spawn(async move {
                for _ in 0..messages / 256 + u64::from(n < messages % 256) {
                    let message = Message::json("bench.event", &event).expect("the topic is one");
                    messenger.send(vec![message]).await.expect("the broker takes it");
                }
            })
        })
        .collect();
    let turn = consume(source, "bench.event", messages).await;
    for sent in sending {
        sent.await.expect("it does not panic");
    }
    turn
}

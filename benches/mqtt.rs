//! Confirmed messages a second over MQTT, and messages consumed, against the client library alone.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench mqtt
//!     cargo bench -p tower-outbox-benches --bench mqtt -- send --quick        one part, a short run
//!
//! | part | what | against |
//! |---|---|---|
//! | send | 256 requests at once, in process, through `MessagingLayer` with `Mqtt`, one event of 300 bytes each; direct, QoS 1 | rumqttc alone: one connection, 256 confirms awaited at most; the same message |
//! | consume | messages/s from a kept session of mosquitto, handled and acknowledged, prefetch 256, `MqttSource` | rumqttc alone with the same receive maximum, which acknowledges each |
//!
//! Turns alternate; each ratio is taken within one round.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::routing::post;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{
    AckMode, AsyncClient, BrokerSessionResumePolicy, Event as MqttEvent, EventLoop, MqttOptions,
    NetworkOptions, Outgoing, PublishOptions, PublishProperties, QoS,
};
use support::broker::{ROUNDS, Rates, TURN, Turn, WINDOW, app, requests};
use support::{Event, asked, quick, root};
use tokio::sync::Notify;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::mqtt::{Mqtt, MqttSettings, MqttSource, MqttSubscription};
use tower_outbox::{Consumer, Message, Messenger};

const MESSAGES: u64 = 30_000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let known = std::fs::read_to_string(root("target/brokers/env")).unwrap_or_default();
    let known = known.lines().find_map(|line| line.strip_prefix("MOSQUITTO1_MQTT="));
    let url = std::env::args().find(|argument| argument.contains("://"));
    let url =
        url.or_else(|| known.map(str::to_owned)).expect("no broker: run scripts/brokers up, or name one");
    if asked("send") {
        send(&url).await;
    }
    if asked("consume") {
        consume(&url).await;
    }
}

fn rounds() -> usize {
    if quick() { 3 } else { ROUNDS }
}

async fn send(url: &str) {
    let topic = &*format!("bench.mqtt.{}", std::process::id()).leak();
    let mut settings = MqttSettings::new([url]);
    settings.broker.window = WINDOW as u32;
    let layer = app(Mqtt::new(&settings).expect("the settings are right"), topic);
    let raw = connect(url, "raw-send", |_| ()).await;
    let (client, events) = raw;
    tokio::spawn(drive(events));

    println!("mosquitto, MQTT 5, QoS 1, messages of 300 bytes, {} rounds", rounds());
    requests(&layer).await;
    raw_turn(&client, topic).await;
    let mut rates = Rates::new(["layer", "raw"]);
    for round in 0..rounds() {
        for who in rates.order(round) {
            let turn = if who == 0 { requests(&layer).await } else { raw_turn(&client, topic).await };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
}

/// One turn, in a task of its own as what the layer sends is.
async fn raw_turn(client: &AsyncClient, topic: &str) -> Turn {
    let (client, event, topic) = (client.clone(), Event::new(), topic.replace('.', "/"));
    let task = tokio::spawn(async move {
        let (begun, mut confirmed) = (Instant::now(), 0);
        let mut outcomes = FuturesUnordered::new();
        loop {
            if begun.elapsed() < TURN && outcomes.len() < WINDOW {
                let (body, options) = message(&event);
                let notice = client.publish_tracked(topic.clone(), body, options).await;
                outcomes.push(notice.expect("the client runs").wait_completion_async());
                continue;
            }
            let Some(outcome) = outcomes.next().await else { break };
            outcome.expect("the broker confirms");
            confirmed += 1;
        }
        (confirmed, begun.elapsed().as_secs_f64())
    });
    task.await.expect("it does not panic")
}

/// As `Mqtt` has it.
fn message(event: &Event) -> (Vec<u8>, PublishOptions) {
    let body = serde_json::to_vec(event).expect("it is JSON");
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    let properties = PublishProperties {
        content_type: Some("application/json".to_owned()),
        user_properties: vec![
            ("tower-outbox-id".to_owned(), id),
            ("tower-outbox-time".to_owned(), now.as_micros().to_string()),
        ],
        ..PublishProperties::default()
    };
    (body, PublishOptions::at_least_once().properties(properties))
}

async fn connect(url: &str, id: &str, change: impl FnOnce(&mut MqttOptions)) -> (AsyncClient, EventLoop) {
    let (_, address) = url.split_once("://").expect("it is a URL");
    let (host, port) = address.rsplit_once(':').expect("it has a port");
    let mut options = MqttOptions::new(
        format!("{id}-{}", std::process::id()),
        (host.to_owned(), port.parse::<u16>().expect("a port")),
    );
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network).set_max_request_batch(128);
    options.set_outgoing_inflight_upper_limit(WINDOW as u16);
    change(&mut options);
    let (client, mut events) = AsyncClient::builder(options).unbounded().build();
    while !matches!(events.poll().await.expect("the broker answers"), MqttEvent::Incoming(Packet::ConnAck(_)))
    {
    }
    (client, events)
}

async fn drive(mut events: EventLoop) {
    while events.poll().await.is_ok() {}
}

/// Makes a session with so many messages.
async fn fill(url: &str, id: &str, messenger: &Mqtt, topic: &'static str, messages: u64) {
    let keep = |options: &mut MqttOptions| {
        options.set_clean_start(true).set_session_expiry_interval(Some(600));
    };
    let (client, events) = connect(url, id, keep).await;
    let driver = tokio::spawn(drive(events));
    let subscribed = client.subscribe_tracked(topic.replace('.', "/"), QoS::AtLeastOnce).await;
    subscribed.expect("the client runs").wait_completion_async().await.expect("the broker agrees");
    client.disconnect().await.expect("the client runs");
    driver.await.expect("it does not panic");
    let event = Event::new();
    for _ in 0..messages / 500 {
        let batch = (0..500).map(|_| Message::json(topic, &event).expect("the topic is one")).collect();
        messenger.send(batch).await.expect("the broker takes it");
    }
}

async fn consume(url: &str) {
    let topic = &*format!("bench.mqtt.consume.{}", std::process::id()).leak();
    let settings = MqttSettings::new([url]);
    let messenger = Mqtt::new(&settings).expect("the settings are right");
    let messages = if quick() { 10_000 } else { MESSAGES };
    println!("{messages} messages of 300 bytes from mosquitto, MQTT 5, QoS 1, prefetch 256");
    let mut rates = Rates::new(["ours", "raw"]);
    for round in 0..rounds() {
        for who in rates.order(round) {
            fill(url, "consume", &messenger, topic, messages).await;
            let turn = match who {
                0 => ours(&settings, topic, messages).await,
                _ => raw(url, messages).await,
            };
            rates.push(who, turn);
        }
    }
    rates.print(["", "target >= 0.85"]);
}

async fn ours(settings: &MqttSettings, topic: &'static str, messages: u64) -> Turn {
    let subscription = MqttSubscription::new(topic.replace('.', "/"))
        .with_client_id(format!("consume-{}", std::process::id()))
        .with_prefetch(256);
    let source = MqttSource::new(settings, &subscription).expect("the settings are right");
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

async fn raw(url: &str, messages: u64) -> Turn {
    let begun = Instant::now();
    let keep = |options: &mut MqttOptions| {
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(600))
            .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
            .set_ack_mode(AckMode::Manual)
            .set_receive_maximum(Some(256));
    };
    let (client, mut events) = connect(url, "consume", keep).await;
    let (mut received, mut acknowledged) = (0, 0);
    while acknowledged < messages {
        match events.poll().await.expect("the broker goes on") {
            MqttEvent::Incoming(Packet::Publish(publish)) => {
                black_box(&publish.payload);
                received += 1;
                client.try_ack(&publish).expect("the client runs");
            }
            MqttEvent::Outgoing(Outgoing::PubAck(_)) => acknowledged += 1,
            _ => {}
        }
    }
    assert_eq!(received, messages);
    client.disconnect().await.expect("the client runs");
    while events.poll().await.is_ok() {}
    (messages, begun.elapsed().as_secs_f64())
}

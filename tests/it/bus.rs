//! From settings to a running bus.

use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, BrokerSettings};
use tower_outbox::messenger::Capabilities;
use tower_outbox::settings::BackendTable;
use tower_outbox::testing::Recording;
use tower_outbox::{
    BoxError, Bus, Failure, Health, Message, MessageQueue, Messenger, Settings, SettingsError, Unsent,
    async_trait,
};
use tracing::Level;

use crate::support::messengers::{down, fake, held, recording};
use crate::support::stores::until;
use crate::support::{MINUTE, answering, app, enqueue, enqueue_a, get, logs, messages, text, topics};

fn settings(text: &str) -> Settings {
    toml::from_str(text).unwrap()
}

/// A bus whose backend is this messenger.
async fn bus(delivery: &str, messenger: impl Messenger) -> Bus {
    let settings = settings(&format!("BACKEND = \"own\"\nDELIVERY = \"{delivery}\""));
    let builder = Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(messenger));
    builder.start().await.unwrap()
}

fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause))).unwrap_or_default();
    format!("{error}{cause}")
}

async fn assert_is_dummy(settings: &Settings) {
    let log = logs::listen();
    let bus = Bus::start(settings).await.unwrap();
    assert_eq!(get(app(bus.layer(), enqueue_a)).await.status(), StatusCode::OK);
    assert_eq!(log.find(Level::INFO, &["id", "topic", "bytes"]).len(), 1);
    assert_eq!(bus.health().await, Health::Up);
    assert!(bus.shutdown(MINUTE).await.is_clean());
}

#[tokio::test]
async fn settings_by_default_are_the_dummy() {
    assert_is_dummy(&Settings::default()).await;
}

#[tokio::test]
async fn an_empty_table_is_the_dummy() {
    assert_is_dummy(&settings("")).await;
    assert_is_dummy(&settings("BACKEND = \"dummy\"")).await;
}

#[tokio::test]
async fn the_dummy_has_no_keys() {
    let error = Bus::start(&settings("BACKEND = 'dummy'\nURLS = 'amqp://h'")).await.unwrap_err();
    assert!(matches!(&error, SettingsError::UnknownKey { key, .. } if key == "URLS"), "{error}");
}

#[tokio::test]
async fn keys_of_a_backend_without_one_ask_for_it() {
    let error = Bus::start(&settings("URLS = 'amqp://h'")).await.unwrap_err().to_string();
    assert!(error.contains("the key URLS but no BACKEND") && error.contains("amqp10"), "{error}");
    let typo = Bus::start(&settings("BACKND = 'amqp091'\nURLS = 'amqp://h'")).await.unwrap_err().to_string();
    assert!(typo.contains("unknown key BACKND; did you mean BACKEND?"), "{typo}");
}

#[tokio::test]
async fn the_tables_of_all_consumers_are_checked_at_the_start() {
    let amqp091 = "BACKEND = 'amqp091'\nURLS = 'amqp://h'\n[CONSUMERS.orders]";
    for (text, parts) in [
        (
            format!("{amqp091}\nQUEU = 'a'"),
            "unknown key CONSUMERS.ORDERS.QUEU; did you mean CONSUMERS.ORDERS.QUEUE?",
        ),
        (format!("{amqp091}\nQUEUE = 7\nPREFETCH = 'x'"), "prefetch"),
        (format!("{amqp091}\nQUEUE = ''"), "QUEUE must be the name of a queue"),
        (
            "BACKEND = 'amqp10'\nURLS = 'amqp://h'\n[CONSUMERS.orders]\nQUEUE = 'a'".to_owned(),
            "CONSUMERS.ORDERS.QUEUE",
        ),
        ("BACKEND = 'memory'\n[CONSUMERS.orders]\nQUEUE = 'a'".to_owned(), "CONSUMERS.ORDERS.QUEUE"),
    ] {
        let error = Bus::start(&settings(&text)).await.unwrap_err();
        assert!(chain(&error).contains(parts), "{text}: {error}");
    }
}

#[derive(Debug, Deserialize, PartialEq)]
struct KafkaSettings {
    brokers: Vec<String>,
    #[serde(default)]
    linger: u32,
}

fn kafka(table: &BackendTable) -> Result<impl Messenger + use<>, BoxError> {
    let settings: KafkaSettings = table.parse()?;
    if settings.brokers.is_empty() {
        return Err("BROKERS names none".into());
    }
    Ok(fake(move |batch: Vec<Message>| {
        let expected = KafkaSettings { brokers: vec!["h1".to_owned(), "h2".to_owned()], linger: 5 };
        assert_eq!(settings, expected);
        std::future::ready(Err(Unsent::new(batch, &Failure::rejected("kafka"))))
    }))
}

async fn start_kafka(keys: &str) -> Result<Bus, SettingsError> {
    let settings = settings(&format!("BACKEND = \"acme.Kafka\"\n{keys}"));
    Bus::builder(&settings).with_backend("acme.Kafka", kafka).start().await
}

#[tokio::test]
async fn a_backend_of_the_apps_own_reads_its_keys() {
    let bus =
        start_kafka("BROKERS = [\"h1\", \"h2\"]\nLinger = 5\nON_SEND_FAILURE = \"reject\"").await.unwrap();
    let unsent = bus.messenger().send(messages(["a"])).await.unwrap_err();
    assert_eq!(unsent.to_string(), "1 message(s) unsent; the first is rejected: kafka");
    assert_eq!(get(app(bus.layer(), enqueue_a)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn what_is_wrong_with_the_keys_of_an_own_backend_is_said() {
    for (keys, parts) in [
        ("BROKERS = [\"h\"]\nLINGERR = 5", ["acme.Kafka", "unknown key LINGERR; did you mean LINGER?"]),
        ("BROKER = \"h\"", ["acme.Kafka", "unknown key BROKER; did you mean BROKERS?"]),
        ("BROKERS = [\"h\"]\nLINGER = \"long\"", ["linger", "long"]),
        ("", ["missing", "brokers"]),
        ("BROKERS = []", ["acme.Kafka", "BROKERS names none"]),
    ] {
        let error = start_kafka(keys).await.unwrap_err();
        assert!(matches!(error, SettingsError::Backend { .. }), "{error:?}");
        let text = chain(&error);
        assert!(parts.iter().all(|part| text.contains(part)), "{keys}: {text}");
    }
}

#[tokio::test]
async fn an_unknown_backend_names_those_that_are_known_and_how_to_add_one() {
    let settings = settings("BACKEND = \"rabbit\"");
    let error = Bus::builder(&settings).with_backend("acme.Kafka", kafka).start().await.unwrap_err();
    let text = error.to_string();
    for part in ["\"rabbit\"", "dummy", "amqp10", "rhmsg", "acme.Kafka", "BusBuilder::with_backend"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn the_name_of_a_broker_leads_to_its_backend() {
    for (name, hint) in [
        ("rabbitmq", "RabbitMQ is amqp091 (or amqp10)"),
        ("RabbitMQ", "RabbitMQ is amqp091 (or amqp10)"),
        ("activemq", "ActiveMQ is amqp10"),
        ("artemis", "are amqp10"),
        ("amqp", "AMQP is amqp091 for RabbitMQ"),
        ("fedora-messaging", "is fedmsg"),
    ] {
        let error = Bus::start(&settings(&format!("BACKEND = {name:?}"))).await.unwrap_err().to_string();
        assert!(error.contains(hint) && error.contains("known are dummy, amqp091"), "{error}");
    }
}

#[tokio::test]
async fn an_unknown_consumer_names_the_tables_that_are_there() {
    let without = Bus::start(&settings("BACKEND = \"memory\"")).await.unwrap();
    let error = without.source("users").err().unwrap().to_string();
    assert!(error.contains("no table CONSUMERS.USERS") && error.contains("there is none"), "{error}");
    let table = "BACKEND = \"memory\"\n[CONSUMERS.orders]\n[CONSUMERS.invoices]";
    let error = Bus::start(&settings(table)).await.unwrap().source("users").err().unwrap().to_string();
    assert!(error.contains("CONSUMERS.INVOICES, CONSUMERS.ORDERS"), "{error}");
}

#[tokio::test]
async fn an_own_backend_wraps_a_built_in_one_with_the_keys_of_both() {
    let start = async |keys: &str| {
        let settings = settings(&format!("BACKEND = \"acme.RabbitMQ\"\n{keys}"));
        let bus = Bus::builder(&settings).with_backend("acme.RabbitMQ", |table| {
            let (broker, mut settings): (BrokerSettings, Amqp091Settings) = table.parse_both()?;
            assert_eq!((broker.window, settings.exchange.as_deref()), (7, Some("orders")));
            settings.broker = broker;
            Amqp091::new(&settings).map_err(BoxError::from)
        });
        bus.start().await
    };
    let keys = "URLS = \"amqp://127.0.0.1:1\"\nWINDOW = 7\nEXCHANGE = \"orders\"";
    start(keys).await.unwrap();
    for (key, nearest) in [("WINDOWS", "WINDOW"), ("EXCHANG", "EXCHANGE"), ("DELIVER", "DELIVERY")] {
        let error = chain(&start(&format!("{keys}\n{key} = 1")).await.unwrap_err());
        assert!(error.contains(&format!("unknown key {key}; did you mean {nearest}?")), "{error}");
    }
}

#[tokio::test]
async fn an_own_backend_may_take_the_place_of_a_known_one() {
    let (messenger, sent) = recording();
    let settings = settings("BACKEND = \"dummy\"");
    let bus = Bus::builder(&settings).with_backend("dummy", |_| Ok::<_, Infallible>(messenger));
    get(app(bus.start().await.unwrap().layer(), enqueue_a)).await;
    assert_eq!(sent.topics(), ["a"]);
}

#[tokio::test]
async fn the_settings_of_requests_reach_the_layer() {
    let settings = settings("[REQUEST]\nMAX_MESSAGES = 1\nMAX_BYTES = \"1kB\"");
    let bus = Bus::start(&settings).await.unwrap();
    let app = app(bus.layer(), |queue: MessageQueue| async move {
        let size = queue.enqueue(Message::new("a", vec![0; 1_000]).unwrap()).unwrap_err();
        enqueue(&queue, ["a"]);
        let count = queue.enqueue(Message::new("b", "").unwrap()).unwrap_err();
        format!("{size}\n{count}")
    });
    let text = text(get(app).await).await;
    assert!(text.contains("hold 1000 bytes") && text.contains("enqueue 1 messages"), "{text}");
}

#[tokio::test]
async fn by_default_the_client_gets_503_when_the_broker_is_down() {
    let bus = bus("direct", down(Failure::transient("down"))).await;
    let response = get(answering(bus.layer(), StatusCode::CREATED)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn direct_delivery_waits_for_the_bus() {
    let (messenger, gate, sent) = held();
    let bus = bus("direct", messenger).await;
    let mut response = std::pin::pin!(get(app(bus.layer(), enqueue_a)));
    assert!(timeout(MINUTE, &mut response).await.is_err());
    gate.open();
    response.await;
    assert_eq!(sent.topics(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn background_delivery_does_not_and_shuts_down_clean() {
    let (messenger, gate, sent) = held();
    let bus = bus("background", messenger).await;
    get(app(bus.layer(), enqueue_a)).await;
    gate.begun().await;
    assert!(sent.topics().is_empty());
    assert!(timeout(MINUTE, bus.flushed()).await.is_err());
    tokio::spawn(async move {
        tokio::time::sleep(MINUTE / 2).await;
        gate.open();
    });
    let shutdown = bus.shutdown(MINUTE).await;
    assert!(shutdown.is_clean(), "{shutdown:?}");
    assert_eq!(sent.topics(), ["a"]);
    assert!(bus.messenger().send(messages(["late"])).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn flushed_waits_for_all_that_requests_enqueued() {
    for delivery in ["direct", "background"] {
        let (messenger, gate, sent) = held();
        let bus = bus(delivery, messenger).await;
        assert!(timeout(MINUTE, bus.flushed()).await.is_ok());
        let request = tokio::spawn(get(app(bus.layer(), enqueue_a)));
        gate.begun().await;
        assert!(timeout(MINUTE, bus.flushed()).await.is_err());
        gate.open();
        bus.flushed().await;
        assert_eq!(sent.topics(), ["a"], "{delivery}");
        request.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_settings_of_the_background_reach_it() {
    let settings = settings(
        "BACKEND = \"own\"\nDELIVERY = \"background\"\n[BACKGROUND]\nMAX_MESSAGES = 1\nWHEN_FULL = \"refuse\"",
    );
    let (messenger, gate, _sent) = held();
    let builder = Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(messenger));
    let bus = builder.start().await.unwrap();
    assert_eq!(get(app(bus.layer(), enqueue_a)).await.status(), StatusCode::OK);
    gate.begun().await;
    assert_eq!(get(app(bus.layer(), enqueue_a)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_at_its_deadline_and_says_what_is_left() {
    for (delivery, left, sends) in [("direct", &[] as &[&str], 1), ("background", &["a"], 0)] {
        let bus = bus(delivery, fake(|_| std::future::pending())).await;
        let request = tokio::spawn(get(app(bus.layer(), enqueue_a)));
        tokio::task::yield_now().await;
        let begun = Instant::now();
        let shutdown = bus.shutdown(Duration::from_secs(10)).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
        assert!(!shutdown.is_clean());
        assert_eq!(
            (topics(&shutdown.left), shutdown.sends),
            (left.iter().map(ToString::to_string).collect(), sends)
        );
        request.abort();
    }
}

/// Is down; records the deadlines it is closed with.
#[derive(Clone, Default)]
struct Closing(Arc<Mutex<Vec<Duration>>>);

#[async_trait]
impl Messenger for Closing {
    async fn send(&self, _: Vec<Message>) -> Result<(), Unsent> {
        Ok(())
    }

    async fn health(&self) -> Health {
        Health::Down { reason: "no broker at h1".to_owned() }
    }

    async fn close(&self, deadline: Duration) {
        self.0.lock().unwrap().push(deadline);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_closes_the_backend_in_the_time_that_is_left() {
    for delivery in ["direct", "background"] {
        let closing = Closing::default();
        let bus = bus(delivery, closing.clone()).await;
        let slow_request = bus.layer().in_flight().token();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(slow_request);
        });
        assert!(bus.shutdown(Duration::from_secs(10)).await.is_clean());
        let deadlines: Vec<_> = closing.0.lock().unwrap().iter().map(Duration::as_millis).collect();
        assert!(matches!(deadlines[..], [5_990..=6_000]), "{deadlines:?}");
    }
}

#[tokio::test]
async fn health_is_that_of_the_backend_and_a_bad_start_is_logged() {
    let log = logs::listen();
    let bus = bus("background", Closing::default()).await;
    assert_eq!(bus.health().await, Health::Down { reason: "no broker at h1".to_owned() });
    assert!(!bus.health().await.is_up());
    tokio::task::yield_now().await;
    let warned = log.find(Level::WARN, &["reason"]);
    assert!(warned.len() == 1 && warned[0].get("reason").contains("no broker at h1"), "{warned:?}");
}

/// A decorator that records what it passes on.
struct Tee(Arc<dyn Messenger>, Recording);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Messenger for Tee {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        self.1.send(batch.clone()).await?;
        self.0.send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.0.check(message)
    }

    async fn health(&self) -> Health {
        self.0.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.0.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

#[tokio::test]
async fn a_decorator_goes_around_a_built_in_backend_below_the_delivery_mode() {
    for delivery in ["direct", "background", "durable"] {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            settings(&format!("DELIVERY = '{delivery}'\nOUTBOX.PATH = {:?}", folder.path().join("outbox")));
        let (recording, sent) = recording();
        let builder = Bus::builder(&settings).with_decorator(move |inner| Tee(inner, recording));
        let bus = builder.start().await.unwrap();
        assert_eq!(get(app(bus.layer(), enqueue_a)).await.status(), StatusCode::OK);
        until(delivery, async || sent.topics() == ["a"]).await;
        assert_eq!(bus.outbox().is_some(), delivery == "durable");
        assert!(bus.shutdown(Duration::from_secs(10)).await.is_clean(), "{delivery}");
    }
}

#[tokio::test]
async fn a_bus_that_is_dropped_goes_on() {
    let (messenger, sent) = recording();
    let bus = bus("background", messenger).await;
    let layer = bus.layer();
    drop(bus);
    tokio::task::yield_now().await;
    get(app(layer, enqueue_a)).await;
    sent.flushed().await;
    assert_eq!(sent.topics(), ["a"]);
}

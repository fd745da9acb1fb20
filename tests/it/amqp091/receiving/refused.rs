//! Faults that a person has to mend.

use std::time::{Duration, Instant};

use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tower_outbox::amqp091::{Amqp091Settings, Amqp091Source, Amqp091Subscription, RetryBy};
use tower_outbox::source::{Source, SourceError};

use super::{Queue, body, one};
use crate::peers::{Brokers, unique};

/// The error of `receive`.
async fn refusal(source: &Amqp091Source) -> String {
    match timeout(Duration::from_secs(20), source.receive(1)).await.expect("in time") {
        Err(SourceError::Unavailable(cause)) => cause.to_string(),
        other => panic!("{other:?}"),
    }
}

fn source(url: &str, subscription: &Amqp091Subscription) -> Amqp091Source {
    Amqp091Source::new(&Amqp091Settings::new([url]), subscription).unwrap()
}

/// A call of RabbitMQ's management interface.
async fn management(brokers: &Brokers, method: &str, path: &str, body: &str) {
    let address = brokers.get("RABBIT1_MANAGEMENT").trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} /api/{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_refused_read_reports_the_cure() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let user = unique("reader");
    let (path, permissions) = (format!("users/{user}"), format!("permissions/%2F/{user}"));
    management(&brokers, "PUT", &path, r#"{"password": "geheim", "tags": ""}"#).await;
    let url = queue.url.replace("://", &format!("://{user}:geheim@"));
    let unbound = Amqp091Subscription::new(&queue.name);
    for (configure, write, read, subscription, text) in [
        ("^$", ".*", ".*", &unbound, "the configure permissions of this client"),
        (".*", ".*", "^$", &unbound, "the read permissions of this client"),
        (".*", "^$", ".*", &queue.subscription(), "may write to the queue"),
    ] {
        let rights = format!(r#"{{"configure": "{configure}", "write": "{write}", "read": "{read}"}}"#);
        management(&brokers, "PUT", &permissions, &rights).await;
        let source = source(&url, subscription);
        let said = refusal(&source).await;
        assert!(said.contains(text) && said.contains("ACCESS_REFUSED") && !said.contains("geheim"), "{said}");
        // It paces itself.
        let begun = Instant::now();
        for _ in 0..4 {
            refusal(&source).await;
        }
        assert!(begun.elapsed() > Duration::from_millis(20), "{:?}", begun.elapsed());
    }
    // Once it is mended it goes on.
    let source = source(&url, &queue.subscription());
    refusal(&source).await;
    management(&brokers, "PUT", &permissions, r#"{"configure": ".*", "write": ".*", "read": ".*"}"#).await;
    while let Ok(Err(_)) = timeout(Duration::from_secs(1), source.receive(1)).await {}
    queue.send(vec![queue.message("x")]).await;
    let delivery = one(&source).await;
    assert_eq!(body(&delivery), "x");
    delivery.ack().await.unwrap();
    source.close(Duration::from_secs(5)).await;
    management(&brokers, "DELETE", &path, "").await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_refusal_of_the_broker_is_reported() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let mut nowhere = queue.subscription();
    nowhere.exchange = Some("nosuch".to_owned());
    let stranger = queue.url.replace("://", "://guest:geheim@");
    for (url, subscription, text) in [
        (queue.url.as_str(), &nowhere, "check EXCHANGE, which must exist"),
        (&stranger, &queue.subscription(), "check user and password"),
        (&format!("{}/nosuch", queue.url), &queue.subscription(), "vhost"),
    ] {
        let said = refusal(&source(url, subscription)).await;
        assert!(said.contains(text) && !said.contains("geheim"), "{said}");
    }

    // A queue that another connection has for itself.
    let owner = Connection::connect(&queue.url, ConnectionProperties::default()).await.unwrap();
    let channel = owner.create_channel().await.unwrap();
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let name = unique("exclusive");
    channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap();
    let said = refusal(&source(&queue.url, &Amqp091Subscription::new(&name))).await;
    assert!(said.contains("RESOURCE_LOCKED") && said.contains(&name), "{said}");
    let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    queue.declare(&queue.name, FieldTable::default()).await;
    let tag = "".into();
    let _consumer =
        channel.basic_consume(queue.name.as_str().into(), tag, options, FieldTable::default()).await.unwrap();
    let said = refusal(&source(&queue.url, &queue.subscription())).await;
    assert!(said.contains("other consumers"), "{said}");
}

#[test]
fn subscriptions_that_make_no_sense_are_refused() {
    let settings = Amqp091Settings::new(["amqp://localhost"]);
    let good = Amqp091Subscription::new("q");
    let petisco = |organization: &str, service: &str| RetryBy::Petisco {
        organization: organization.to_owned(),
        service: service.to_owned(),
    };
    let mut default_exchange = good.clone().with_binding("a");
    default_exchange.exchange = Some(String::new());
    let mut long = good.clone();
    long.dead_letter_routing_key = Some("x".repeat(256));
    for (subscription, key) in [
        (Amqp091Subscription::new(""), "QUEUE"),
        (Amqp091Subscription::new("q".repeat(232)), "QUEUE"),
        (good.clone().with_prefetch(0), "PREFETCH"),
        (good.clone().with_binding(""), "BINDINGS"),
        (good.clone().with_binding("a".repeat(256)), "BINDINGS"),
        (default_exchange, "EXCHANGE"),
        (long, "EXCHANGE"),
        (good.clone().with_retry(petisco("", "s")), "RETRY"),
        (good.clone().with_retry(petisco("o", &"s".repeat(250))), "RETRY"),
    ] {
        let error = Amqp091Source::new(&settings, &subscription).unwrap_err().to_string();
        assert!(error.starts_with(key), "{key}: {error}");
    }
    assert!(Amqp091Source::new(&settings, &Amqp091Subscription::new("q".repeat(231))).is_ok());
    assert!(Amqp091Source::new(&Amqp091Settings::new([""; 0]), &good).is_err());
}

#[test]
fn a_subscription_is_read_from_a_file() {
    let text = r#"
        queue = "store"
        exchange = "acme.registration"
        bindings = ["*.*.*.event.*", "store"]
        prefetch = 1
        dead_letter_exchange = "dead"
        dead_letter_routing_key = "letter"
        retry = "Petisco"
    "#;
    let read: Amqp091Subscription = toml::from_str(text).unwrap();
    assert_eq!((read.queue.as_str(), read.bindings.len(), read.prefetch), ("store", 2, 1));
    assert!(matches!(read.retry, RetryBy::Petisco { .. }));
    // Whose exchanges they are, the backend says.
    let mut settings = Amqp091Settings::new(["amqp://localhost"]);
    let error = Amqp091Source::new(&settings, &read).unwrap_err().to_string();
    assert!(error.contains("RETRY petisco needs ORGANIZATION and SERVICE"), "{error}");
    (settings.broker.organization, settings.broker.service) =
        (Some("acme".to_owned()), Some("registration".to_owned()));
    Amqp091Source::new(&settings, &read).unwrap();
    let read: Amqp091Subscription = toml::from_str("queue = \"q\"\nretry = \"delay\"").unwrap();
    assert_eq!((read.prefetch, read.retry), (64, RetryBy::Delay));
    assert!(toml::from_str::<Amqp091Subscription>("quue = \"q\"").is_err());
}

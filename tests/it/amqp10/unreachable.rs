//! Brokers that are not there, or do not answer: a send ends in time, by its setting.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings};
use tower_outbox::layer::OnSendFailure;
use tower_outbox::{Health, Message, MessageQueue, MessagingLayer, Messenger};
use tracing::Level;

use crate::support::logs;

/// The URL of a port nobody listens on.
async fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("amqp://{}", listener.local_addr().unwrap())
}

/// The URL of a port that takes connections and says nothing.
async fn silent(scheme: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
    (listener, url)
}

#[tokio::test]
async fn every_broker_down_is_said_for_each() {
    let urls = [refusing().await, refusing().await];
    let messenger = Amqp10::new(&Amqp10Settings::new(urls.clone())).unwrap();
    let unsent = messenger.send(vec![Message::new("a", "x").unwrap()]).await.unwrap_err();
    let text = unsent.to_string();
    assert!(urls.iter().all(|url| text.contains(url)) && text.contains("refused"), "{text}");
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient()));
    let Health::Down { reason } = messenger.health().await else { panic!("healthy") };
    assert!(urls.iter().all(|url| reason.contains(url)), "{reason}");
}

#[tokio::test]
async fn a_lasting_outage_is_logged_once_a_minute() {
    let log = logs::listen();
    let url = refusing().await;
    let messenger = Amqp10::new(&Amqp10Settings::new([url.clone()])).unwrap();
    for _ in 0..4 {
        assert!(messenger.send(vec![Message::new("a", "x").unwrap()]).await.is_err());
    }
    let lines = log.find(Level::WARN, &["broker", "error", "times"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = format!("{lines:?}");
    assert!(!line.contains("the next broker"), "there is only one: {line}");
    assert_eq!(line.matches("Connection refused").count(), 1, "{line}");
}

/// The client library has no connect timeout.
#[tokio::test]
async fn a_silent_broker_is_given_up_after_the_connection_timeout() {
    for scheme in ["amqp", "amqps"] {
        let (_listener, url) = silent(scheme).await;
        let mut settings = Amqp10Settings::new([url]);
        settings.broker.connection_timeout = Some(Duration::from_millis(300));
        let messenger = Amqp10::new(&settings).unwrap();
        let begun = Instant::now();
        let error = messenger.send(vec![Message::new("a", "x").unwrap()]).await.unwrap_err().to_string();
        assert!(error.contains("no connection within 300ms"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_request_ends_by_its_setting_when_every_broker_is_down() {
    for (on_send_failure, status) in
        [(OnSendFailure::Log, StatusCode::CREATED), (OnSendFailure::Reject, StatusCode::SERVICE_UNAVAILABLE)]
    {
        let settings = Amqp10Settings::new([refusing().await, refusing().await]);
        let layer =
            MessagingLayer::new(Amqp10::new(&settings).unwrap()).with_on_send_failure(on_send_failure);
        let handler = |Extension(queue): Extension<MessageQueue>| async move {
            queue.enqueue(Message::new("a", "x").unwrap()).unwrap();
            StatusCode::CREATED
        };
        let app: Router = Router::new().route("/", post(handler)).layer(layer);
        let response = app.oneshot(Request::post("/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().contains_key("retry-after"), status != StatusCode::CREATED);
    }
}

/// One attempt to connect serves all who wait for it.
#[tokio::test]
async fn concurrent_sends_share_an_attempt_to_connect() {
    let (listener, url) = silent("amqp").await;
    let mut settings = Amqp10Settings::new([url]);
    settings.broker.connection_timeout = Some(Duration::from_millis(300));
    let messenger = std::sync::Arc::new(Amqp10::new(&settings).unwrap());
    let sends: Vec<_> = (0..50)
        .map(|_| {
            let messenger = std::sync::Arc::clone(&messenger);
            tokio::spawn(async move { messenger.send(vec![Message::new("a", "x").unwrap()]).await })
        })
        .collect();
    for send in sends {
        send.await.unwrap().unwrap_err();
    }
    let mut attempts = 0;
    while tokio::time::timeout(Duration::from_millis(50), listener.accept()).await.is_ok() {
        attempts += 1;
    }
    assert_eq!(attempts, 1);
}

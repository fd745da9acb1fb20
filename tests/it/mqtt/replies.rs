//! Requests of any MQTT 5 client, and their replies.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use rumqttc::PublishProperties;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_outbox::mqtt::MqttSource;
use tower_outbox::source::Source;
use tower_outbox::{Consumer, Delivery, Messenger};

use super::raw::{Place, Raw, body, next, property, text};
use crate::peers::{Brokers, unique};
use crate::support::MINUTE;
use crate::support::counters::counted_meanwhile;

struct Responder {
    place: Place,
    /// The reply address of each request, as its handler sees it.
    asked: mpsc::UnboundedReceiver<Option<String>>,
    caller: Raw,
    answers: String,
    shutdown: CancellationToken,
    consumer: JoinHandle<usize>,
}

impl Responder {
    /// It replies below `answers/…` alone.
    async fn start() -> Self {
        let place = Place::new(&Brokers::running());
        let answers = unique("answers");
        let subscription = place.subscription().with_reply_topic(format!("{answers}/+"));
        let source = place.source(&subscription).await;
        let (called, asked) = mpsc::unbounded_channel();
        let handler = move |delivery: Delivery, body: String| async move {
            called.send(delivery.reply_address().map(str::to_owned)).unwrap();
            (StatusCode::IM_A_TEAPOT, [("x-who", "größe"), ("x-odd", "a\tb")], format!("{body} back"))
        };
        let consumer = Consumer::new(Arc::new(source), Router::new().fallback(post(handler)));
        let shutdown = CancellationToken::new();
        let consumer =
            tokio::spawn(consumer.with_graceful_shutdown(shutdown.clone().cancelled_owned(), MINUTE));
        let caller = Raw::subscribed(&place.url, &format!("{answers}/#")).await;
        Self { place, asked, caller, answers, shutdown, consumer }
    }

    /// Waits for the replies to all that is handled.
    async fn stop(self) {
        self.shutdown.cancel();
        assert_eq!(timeout(MINUTE, self.consumer).await.expect("it stops").unwrap(), 0);
    }

    /// Publishes a request, and waits until it is handled.
    async fn ask(&mut self, body: &str, answers: &str, properties: PublishProperties) -> Option<String> {
        let properties = PublishProperties { response_topic: Some(answers.to_owned()), ..properties };
        self.caller.publish(&self.place.topic, body, properties).await;
        timeout(MINUTE, self.asked.recv()).await.expect("it is handled").unwrap()
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_response_is_published_to_the_response_topic() {
    let mut responder = Responder::start().await;
    let topic = format!("{}/me", responder.answers);
    let request = PublishProperties {
        correlation_data: Some(vec![0xFF, 0, 7].into()),
        message_expiry_interval: Some(60),
        ..PublishProperties::default()
    };
    assert_eq!(responder.ask("ping", &topic, request).await.as_deref(), Some(&*topic));
    let reply = responder.caller.next().await;
    assert_eq!((super::raw::topic(&reply), body(&reply)), (&*topic, "ping back"));
    let properties = reply.properties.clone().unwrap();
    assert_eq!(properties.correlation_data.as_deref(), Some(&[0xFF, 0, 7][..]));
    assert_eq!(properties.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert!(matches!(properties.message_expiry_interval, Some(1..=60)), "{properties:?}");
    assert_eq!(
        (property(&reply, "tower-outbox-status"), property(&reply, "x-who")),
        (Some("418"), Some("größe"))
    );
    // MQTT does not carry it.
    assert_eq!(property(&reply, "x-odd"), None);
    responder.caller.assert_quiet().await;
}

/// A stranger must not make a responder publish anywhere, with its rights.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_response_topic_that_is_not_allowed_gets_no_reply() {
    let mut responder = Responder::start().await;
    let none = PublishProperties::default;
    let elsewhere = format!("{}/a/b", responder.answers);
    assert_eq!(responder.ask("stranger", &elsewhere, none()).await, None);
    responder.caller.assert_quiet().await;
    // 418 of a message that is no request makes a dead letter; the next one goes on.
    let topic = format!("{}/me", responder.answers);
    assert!(responder.ask("ping", &topic, none()).await.is_some());
    assert_eq!(body(&responder.caller.next().await), "ping back");
}

#[test]
#[ignore = "needs brokers: ./scripts/test"]
fn a_reply_that_nobody_awaits_is_dropped_and_counted() {
    let counts = counted_meanwhile(async {
        let mut responder = Responder::start().await;
        let topic = format!("{}/me", responder.answers);
        responder.caller.client.unsubscribe(format!("{}/#", responder.answers)).await.unwrap();
        // Its answer comes after the end of that subscription.
        responder.caller.subscribe(&unique("other")).await;
        assert!(responder.ask("gone", &topic, PublishProperties::default()).await.is_some());
        responder.stop().await;
    });
    let of_replies = |name: &str| name.starts_with("handled_total") || name == "late_replies_total";
    let counts: Vec<_> = counts.iter().filter(|(name, _)| of_replies(name)).collect();
    let [(handled, 1), (_, 1)] = counts[..] else { panic!("{counts:?}") };
    assert!(handled.ends_with("outcome=answered}"), "{handled}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_sent_message_carries_its_reply_address() {
    let place = Place::new(&Brokers::running());
    let source = MqttSource::new(&place.settings(), &place.subscription().with_reply_topic("a/#")).unwrap();
    super::raw::subscribed(&source, &place.settings(), &place.topic).await;
    // Later: the probe above must find the source alone.
    let mut raw = place.raw().await;
    let request = place.message("ping").with_expiry(Duration::from_secs(60));
    let request = request.with_header("reply-to", "a/b").with_header("correlation-id", "größe");
    place.messenger().send(vec![request.clone()]).await.unwrap();
    let seen = raw.next().await;
    let properties = seen.properties.clone().unwrap();
    assert_eq!(properties.response_topic.as_deref(), Some("a/b"));
    assert_eq!(properties.correlation_data.as_deref(), Some("größe".as_bytes()));
    assert_eq!((property(&seen, "reply-to"), property(&seen, "correlation-id")), (None, None));
    let received = next(&source).await;
    let view = received.view().unwrap();
    assert_eq!((view.reply_address(), &*text(&received)), (Some("a/b"), "ping"));
    for name in ["reply-to", "correlation-id"] {
        assert_eq!(view.message().header(name), request.header(name));
    }
    received.ack().await.unwrap();
    source.close(super::raw::SOON).await;
    let wrong = place.message("ping").with_header("reply-to", "a/#");
    assert!(place.messenger().check(&wrong).unwrap_err().to_string().contains("\"reply-to\" has a wildcard"));
}

//! Requests and their replies, over RabbitMQ's direct reply-to.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::time::timeout;
use tower::ServiceExt;
use tower_outbox::amqp091::{Amqp091Requester, Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::client::{Client, ReplyTimeout};
use tower_outbox::reply::Requester;
use tower_outbox::source::Source;
use tower_outbox::testing::requester_conformance::RequesterHarness;
use tower_outbox::{Bus, Consumer, Settings};

use crate::peers::{Brokers, unique};

const SOON: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_millis(300);

/// Settings with topics of their own.
fn settings() -> Amqp091Settings {
    let mut settings = Amqp091Settings::new([Brokers::running().get("RABBIT1_AMQP")]);
    settings.broker.topic_prefix = Some(unique("calls"));
    settings
}

/// A source of all requests with these topics.
fn source(settings: &Amqp091Settings) -> Arc<dyn Source> {
    let queue = settings.broker.topic_prefix.clone().unwrap();
    let subscription = Amqp091Subscription::new(queue).with_binding("#");
    Arc::new(Amqp091Source::new(settings, &subscription).unwrap())
}

async fn transport() -> RequesterHarness {
    let settings = settings();
    let requester: Arc<dyn Requester> = Arc::new(Amqp091Requester::new(&settings).unwrap());
    RequesterHarness::new(requester, move || source(&settings)).with_redelivery()
}

macro_rules! suite {
    ($($module:ident: $($check:ident)*;)*) => {$(
        mod $module {$(
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "needs brokers: ./scripts/test"]
            async fn $check() {
                let harness = super::transport().await;
                tower_outbox::testing::requester_conformance::$module::$check(harness).await;
            }
        )*}
    )*};
}

suite! {
    answering:
        a_reply_has_status_headers_and_body
        method_query_and_headers_travel
        an_error_status_is_an_answer
        a_large_body_travels_both_ways
        a_panicking_responder_is_500
        a_thousand_calls_pair_right
        two_responders_share_the_load;
    waiting:
        no_reply_in_time_is_504
        no_responder_is_503
        a_killed_responder_is_no_reply
        another_responder_answers_for_a_killed_one
        a_caller_that_goes_away_harms_no_other
        an_expired_request_is_not_handled;
}

fn request(path: &str, body: &'static str) -> Request<Body> {
    Request::post(path).extension(ReplyTimeout(Duration::from_secs(2))).body(body.into()).unwrap()
}

/// A stranger could otherwise make a responder publish to any queue, with its permissions.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_reply_goes_to_a_direct_address_only() {
    let settings = settings();
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new().fallback(post(async move |body: String| {
        called.send(body).unwrap();
        "answer"
    }));
    let responder = tokio::spawn(Consumer::new(source(&settings), router).into_future());
    let client = Client::new(Amqp091Requester::new(&settings).unwrap());
    let ready = async {
        while client.clone().oneshot(request("/ready", "ready")).await.unwrap().status() != StatusCode::OK {}
    };
    timeout(SOON, ready).await.expect("nobody responds");
    assert_eq!(calls.recv().await.unwrap(), "ready");

    let url = &settings.broker.urls[0];
    let stranger = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = stranger.create_channel().await.unwrap();
    let queue = unique("elsewhere");
    let declared = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), declared, FieldTable::default()).await.unwrap();
    let watched = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut watched = channel
        .basic_consume(queue.as_str().into(), "".into(), watched, FieldTable::default())
        .await
        .unwrap();
    let key = format!("{}.a", settings.broker.topic_prefix.as_ref().unwrap());
    let properties = BasicProperties::default().with_reply_to(queue.as_str().into());
    let options = BasicPublishOptions::default();
    channel.basic_publish("amq.topic".into(), key.into(), options, b"confused", properties).await.unwrap();
    assert_eq!(timeout(SOON, calls.recv()).await.unwrap().unwrap(), "confused");
    assert!(timeout(QUIET, watched.next()).await.is_err(), "it answers elsewhere");
    responder.abort();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_bus_asks_and_answers_over_rabbitmq() {
    let (url, name) = (Brokers::running().get("RABBIT1_AMQP").to_owned(), unique("calls"));
    let text = format!(
        "BACKEND = 'amqp091'\nURLS = '{url}'\nTOPIC_PREFIX = '{name}'\n[CONSUMERS.quotes]\nQUEUE = '{name}'\n\
         BINDINGS = 'quote.#'"
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let echo = Router::new().fallback(post(|body: String| async move { body }));
    let responder = tokio::spawn(bus.consumer("quotes", echo).unwrap().into_future());
    let client = bus.client("quotes").unwrap();
    let answered = async {
        loop {
            let Ok(response) = client.clone().oneshot(request("/quote/7", "x")).await;
            if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                return response.status();
            }
        }
    };
    assert_eq!(timeout(SOON, answered).await.expect("nobody responds"), 200);
    assert!(bus.shutdown(SOON).await.is_clean());
    timeout(SOON, responder).await.unwrap().unwrap();
}

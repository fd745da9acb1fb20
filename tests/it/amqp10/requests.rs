//! Requests and their replies, over dynamic nodes of ActiveMQ.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use fe2o3_amqp_types::messaging::{Body as AmqpBody, Data, Message as AmqpMessage, Properties};
use fe2o3_amqp_types::primitives::{Binary, Value};
use http::{Request, StatusCode};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tower::ServiceExt;
use tower_outbox::amqp10::{Amqp10Requester, Amqp10Settings, Amqp10Source, Amqp10Subscription};
use tower_outbox::client::{Client, ReplyTimeout};
use tower_outbox::reply::{RequestError, Requester};
use tower_outbox::source::Source;
use tower_outbox::testing::requester_conformance::RequesterHarness;
use tower_outbox::{Bus, Consumer, Settings};

use crate::peers::{Brokers, unique};

const SOON: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_millis(300);

/// Settings with a queue of their own for all topics.
fn settings() -> Amqp10Settings {
    Amqp10Settings::new([Brokers::running().get("ACTIVEMQ_AMQP")])
        .with_address(format!("queue://{}", unique("calls")))
}

fn source(settings: &Amqp10Settings) -> Arc<dyn Source> {
    let subscription = Amqp10Subscription::new(settings.address.clone().unwrap());
    Arc::new(Amqp10Source::new(settings, &subscription).unwrap())
}

fn transport() -> RequesterHarness {
    let settings = settings();
    let requester: Arc<dyn Requester> = Arc::new(Amqp10Requester::new(&settings).unwrap());
    RequesterHarness::new(requester, move || source(&settings))
        .with_redelivery()
        .without_knowledge_of_responders()
}

macro_rules! suite {
    ($($module:ident: $($check:ident)*;)*) => {$(
        mod $module {$(
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "needs brokers: ./scripts/test"]
            async fn $check() {
                if crate::peers::Brokers::running().without_activemq(stringify!($check)) {
                    return;
                }
                let harness = super::transport();
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
    Request::post(path).extension(ReplyTimeout(Duration::from_secs(5))).body(body.into()).unwrap()
}

/// A responder that answers "answer", and the bodies that it gets.
fn responder(settings: &Amqp10Settings) -> (tokio::task::JoinHandle<usize>, UnboundedReceiver<String>) {
    let (called, calls) = unbounded_channel();
    let router = Router::new().fallback(post(async move |body: String| {
        called.send(body).unwrap();
        "answer"
    }));
    (tokio::spawn(Consumer::new(source(settings), router).into_future()), calls)
}

async fn connect(settings: &Amqp10Settings) -> ConnectionHandle<()> {
    let connection =
        Connection::builder().container_id(unique("stranger")).sasl_profile(SaslProfile::Anonymous);
    connection.open(settings.broker.urls[0].as_str()).await.unwrap()
}

/// A stranger sends a request whose replies go to this address.
async fn ask(settings: &Amqp10Settings, body: &str, reply_to: &str) {
    let mut connection = connect(settings).await;
    let mut session = Session::begin(&mut connection).await.unwrap();
    let queue = settings.address.clone().unwrap();
    let mut sender = Sender::attach(&mut session, "stranger", queue).await.unwrap();
    let properties = Properties {
        subject: Some("quote".to_owned()),
        reply_to: Some(reply_to.to_owned()),
        ..Properties::default()
    };
    let body: AmqpBody<Value> = AmqpBody::from(Data(Binary::from(body.as_bytes().to_vec())));
    let message = AmqpMessage::builder().properties(properties).body(body).build();
    sender.send(message).await.unwrap().accepted_or("not accepted").unwrap();
    connection.close().await.unwrap();
}

/// A stranger could otherwise make a responder send to any queue, with its permissions.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_reply_goes_to_a_dynamic_node_only() {
    if Brokers::running().without_activemq("a_reply_goes_to_a_dynamic_node_only") {
        return;
    }
    let settings = settings();
    let (responder, mut calls) = responder(&settings);
    let elsewhere = format!("queue://{}", unique("elsewhere"));
    let mut connection = connect(&settings).await;
    let mut session = Session::begin(&mut connection).await.unwrap();
    let mut watched = Receiver::attach(&mut session, "watcher", elsewhere.clone()).await.unwrap();
    ask(&settings, "confused", &elsewhere).await;
    assert_eq!(timeout(SOON, calls.recv()).await.unwrap().unwrap(), "confused");
    assert!(timeout(QUIET, watched.recv::<AmqpBody<Value>>()).await.is_err(), "it answers elsewhere");
    responder.abort();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_caller_that_is_gone_harms_no_other() {
    if Brokers::running().without_activemq("a_caller_that_is_gone_harms_no_other") {
        return;
    }
    let settings = settings();
    let (responder, mut calls) = responder(&settings);
    let client = Client::new(Amqp10Requester::new(&settings).unwrap());
    for n in 0..3 {
        ask(&settings, "gone", &format!("temp-queue://ID:nobody-{n}:1:1")).await;
        let response = client.clone().oneshot(request("/quote", "here")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    let mut bodies = Vec::new();
    while let Ok(body) = calls.try_recv() {
        bodies.push(body);
    }
    bodies.sort_unstable();
    assert_eq!(bodies, ["gone", "gone", "gone", "here", "here", "here"], "a request was handled again");
    responder.abort();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_bus_asks_and_answers_over_activemq() {
    let brokers = Brokers::running();
    if brokers.without_activemq("a_bus_asks_and_answers_over_activemq") {
        return;
    }
    let (url, name) = (brokers.get("ACTIVEMQ_AMQP"), unique("calls"));
    let text = format!(
        "BACKEND = 'amqp10'\nURLS = '{url}'\nADDRESS = 'queue://{name}'\n[CONSUMERS.quotes]\nADDRESS = 'queue://{name}'"
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let echo = Router::new().fallback(post(|body: String| async move { body }));
    let responder = tokio::spawn(bus.consumer("quotes", echo).unwrap().into_future());
    let response = bus.client("quotes").unwrap().oneshot(request("/quote/7", "x")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(bus.shutdown(SOON).await.is_clean());
    timeout(SOON, responder).await.unwrap().unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_without_dynamic_nodes_is_named() {
    let settings =
        Amqp10Settings::new([Brokers::running().get("RABBIT1_AMQP")]).with_address("/topic/{topic}");
    let client = Client::new(Amqp10Requester::new(&settings).unwrap());
    let response = client.oneshot(request("/quote", "x")).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let error = response.extensions().get::<RequestError>().unwrap();
    let cause = std::error::Error::source(error).unwrap().to_string();
    assert!(cause.contains("amqp091") && cause.contains("ynamic"), "{cause}");
}

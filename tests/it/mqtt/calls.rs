//! Requests of our own callers, and their replies.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, StatusCode};
use tokio::time::timeout;
use tower::ServiceExt;
use tower_outbox::client::ReplyTimeout;
use tower_outbox::mqtt::{MqttRequester, MqttSettings, MqttSource, MqttSubscription, MqttVersion};
use tower_outbox::reply::Requester;
use tower_outbox::source::Source;
use tower_outbox::testing::requester_conformance::RequesterHarness;
use tower_outbox::{Bus, Settings};

use crate::peers::{Brokers, unique};

const SOON: Duration = Duration::from_secs(30);

async fn transport() -> RequesterHarness {
    let mut settings = MqttSettings::new([Brokers::running().get("MOSQUITTO1_MQTT")]);
    settings.broker.topic_prefix = Some(unique("calls"));
    let requester: Arc<dyn Requester> = Arc::new(MqttRequester::new(&settings).unwrap());
    let source = move || -> Arc<dyn Source> {
        let subscription = MqttSubscription::new("#")
            .with_group("quotes")
            .with_client_id(unique("responder"))
            .with_session_expiry(Duration::ZERO)
            .with_prefetch(1_000)
            .with_reply_topic("replies/#");
        Arc::new(MqttSource::new(&settings, &subscription).unwrap())
    };
    RequesterHarness::new(requester, source)
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

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_bus_asks_and_answers_over_mosquitto() {
    let (url, name) = (Brokers::running().get("MOSQUITTO1_MQTT").to_owned(), unique("calls"));
    let text = format!(
        "BACKEND = 'mqtt'\nURLS = '{url}'\nTOPIC_PREFIX = '{name}'\nREPLY_TOPIC = 'answers'\n[CONSUMERS.quotes]\n\
         TOPICS = 'quote/#'\nREPLY_TOPICS = 'answers/#'\nSESSION_EXPIRY = 0"
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let echo = Router::new().fallback(post(|body: String| async move { body }));
    let responder = tokio::spawn(bus.consumer("quotes", echo).unwrap().into_future());
    let client = bus.client("quotes").unwrap();
    let answered = async {
        loop {
            let request = Request::post("/quote/7").extension(ReplyTimeout(Duration::from_secs(2)));
            let Ok(response) = client.clone().oneshot(request.body(Body::from("x")).unwrap()).await;
            if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                return response.status();
            }
        }
    };
    assert_eq!(timeout(SOON, answered).await.expect("nobody responds"), 200);
    assert!(bus.shutdown(SOON).await.is_clean());
    timeout(SOON, responder).await.unwrap().unwrap();
}

#[test]
fn mqtt_3_1_1_has_no_requests() {
    let settings = MqttSettings::new(["mqtt://localhost"]).with_version(MqttVersion::V3);
    let error = MqttRequester::new(&settings).unwrap_err().to_string();
    assert!(error.contains("VERSION"), "{error}");
}

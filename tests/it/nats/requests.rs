//! Requests and their replies, over core NATS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use axum::Router;
use axum::body::Body;
use axum::routing::post;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_outbox::client::{Client, ReplyTimeout};
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::nats::{NatsRequester, NatsSettings, NatsSource, NatsSubscription};
use tower_outbox::reply::Requester;
use tower_outbox::source::Source;
use tower_outbox::testing::requester_conformance::RequesterHarness;
use tower_outbox::{Bus, Consumer, Settings};

use super::raw::{Place, QUIET, SOON, body, header};

async fn place() -> (Place, NatsSettings) {
    let place = Place::without_stream().await;
    let mut settings = place.settings();
    settings.broker.topic_prefix = Some(place.topic.clone());
    (place, settings)
}

async fn transport() -> RequesterHarness {
    let (_, settings) = place().await;
    let requester: Arc<dyn Requester> = Arc::new(NatsRequester::new(&settings).unwrap());
    RequesterHarness::new(requester, move || Arc::new(source(&settings)) as Arc<dyn Source>)
}

fn source(settings: &NatsSettings) -> NatsSource {
    NatsSource::new(settings, &NatsSubscription::requests([">"])).unwrap()
}

struct Responder(JoinHandle<usize>);

impl Responder {
    fn start(settings: &NatsSettings, router: Router) -> Self {
        Self(tokio::spawn(Consumer::new(Arc::new(source(settings)), router).into_future()))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn echo() -> Router {
    Router::new().fallback(post(|body: String| async move { body }))
}

fn request(path: &str, body: &'static str) -> Request<Body> {
    Request::post(path).extension(ReplyTimeout(Duration::from_secs(2))).body(body.into()).unwrap()
}

/// The first response that is no 503.
async fn answered(client: &Client, path: &str) -> Response<Body> {
    let answered = async {
        loop {
            let Ok(response) = client.clone().oneshot(request(path, "x")).await;
            if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                return response;
            }
        }
    };
    timeout(SOON, answered).await.expect("nobody responds")
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
async fn other_programs_ask_and_answer() {
    let (place, settings) = place().await;
    let _responder = Responder::start(&settings, echo());
    answered(&Client::new(NatsRequester::new(&settings).unwrap()), "/ready").await;
    let reply = place.client.request(format!("{}.a.b", place.topic), "x".into()).await.unwrap();
    assert_eq!((body(&reply), header(&reply, "tower-outbox-status")), ("x", Some("200")));

    // A service of their own framework answers with an error so.
    let subject = format!("other-{}", place.topic);
    let mut asked = place.client.subscribe(format!("{subject}.>")).await.unwrap();
    place.client.flush().await.unwrap();
    let client = place.client.clone();
    tokio::spawn(async move {
        let request = asked.next().await.unwrap();
        assert_eq!(header(&request, "Nats-Msg-Id"), None);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", "404");
        headers.insert("Nats-Service-Error", "no such order");
        client.publish_with_headers(request.reply.unwrap(), headers, "".into()).await.unwrap();
    });
    let mut settings = settings;
    settings.broker.topic_prefix = Some(subject);
    let response = answered(&Client::new(NatsRequester::new(&settings).unwrap()), "/order/7").await;
    assert_eq!(response.status(), 404);
}

/// A stranger could otherwise make a responder publish anywhere, with its permissions.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_reply_goes_to_an_inbox_only() {
    let (place, settings) = place().await;
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new().fallback(post(async move |body: String| {
        called.send(body).unwrap();
        "answer"
    }));
    let _responder = Responder::start(&settings, router);
    answered(&Client::new(NatsRequester::new(&settings).unwrap()), "/ready").await;
    assert_eq!(calls.recv().await.unwrap(), "x");
    let elsewhere = format!("elsewhere-{}", place.topic);
    let mut watched = place.client.subscribe(elsewhere.clone()).await.unwrap();
    let subject = format!("{}.a", place.topic);
    place.client.publish_with_reply(subject, elsewhere, "confused".into()).await.unwrap();
    assert_eq!(timeout(SOON, calls.recv()).await.unwrap().unwrap(), "confused");
    assert!(timeout(QUIET, watched.next()).await.is_err(), "it answers elsewhere");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn requests_beyond_the_room_are_refused_at_once() {
    let (_, settings) = place().await;
    let source = NatsSource::new(&settings, &NatsSubscription::requests([">"]).with_prefetch(1)).unwrap();
    let client = Client::new(NatsRequester::new(&settings).unwrap());
    let first = async {
        loop {
            // Until it is subscribed nobody responds.
            let _ =
                tokio::join!(timeout(QUIET, source.receive(0)), client.clone().oneshot(request("/a", "x")));
            let Ok(held) = timeout(QUIET, source.receive(1)).await else { continue };
            return held;
        }
    };
    let held = timeout(SOON, first).await.expect("nothing comes").unwrap();
    let begun = Instant::now();
    let Ok(response) = client.clone().oneshot(request("/a", "y")).await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(held);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_bus_asks_and_answers_over_nats() {
    let (place, _) = place().await;
    let text = format!(
        "BACKEND = 'nats'\nURLS = '{}'\nTOPIC_PREFIX = '{}'\n[CONSUMERS.quotes]\nPATTERN = 'requests'\nSUBJECTS = 'quote.>'\nGROUP = 'quotes'",
        place.url, place.topic
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let responder = tokio::spawn(bus.consumer("quotes", echo()).unwrap().into_future());
    let response = answered(&bus.client("quotes").unwrap(), "/quote/7").await;
    assert_eq!(response.status(), 200);
    assert!(bus.shutdown(SOON).await.is_clean());
    timeout(SOON, responder).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_stopped_responder_answers_what_it_began() {
    let (_, settings) = place().await;
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new().fallback(post(async move |body: String| {
        called.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        body
    }));
    let client = Client::new(NatsRequester::new(&settings).unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let one = ConsumerSettings::default().with_concurrency(1);
    let consumer = Consumer::new(Arc::new(source(&settings)), router).with_settings(one);
    let running = tokio::spawn(consumer.with_graceful_shutdown(shutdown, SOON));
    answered(&client, "/ready").await;
    calls.recv().await.unwrap();
    let calling: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.oneshot(request("/a", "x")).await.unwrap().status().as_u16() })
        })
        .collect();
    calls.recv().await.unwrap();
    drop(stop);
    let mut statuses = Vec::new();
    for call in calling {
        statuses.push(timeout(SOON, call).await.unwrap().unwrap());
    }
    assert!(
        statuses.contains(&200) && statuses.iter().all(|status| matches!(status, 200 | 503)),
        "{statuses:?}"
    );
    timeout(SOON, running).await.unwrap().unwrap();
}

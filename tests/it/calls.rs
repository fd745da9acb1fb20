//! Request and reply: clients, and consumers that answer.

mod answering;
mod caching;
mod channel;
mod client;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::Request;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use tower_outbox::Consumer;
use tower_outbox::channels::calls::{ChannelRequester, RequestSource};
use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{ChannelName, Requests};
use tower_outbox::client::{Client, ReplyTimeout};
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::reply::Requester;
use tower_outbox::source::Source;
use tower_outbox::testing::Memory;
use tower_outbox::testing::requester_conformance::RequesterHarness;

/// A responder, which ends when this is dropped.
struct Responder(JoinHandle<usize>);

impl Responder {
    fn start(source: Arc<dyn Source>, router: Router) -> Self {
        Self::with(source, ConsumerSettings::default(), router)
    }

    fn with(source: Arc<dyn Source>, settings: ConsumerSettings, router: Router) -> Self {
        let consumer = Consumer::new(source, router).with_settings(settings);
        Self(tokio::spawn(consumer.into_future()))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).body(body.into()).unwrap()
}

fn within(mut request: Request<Body>, wait: Duration) -> Request<Body> {
    request.extensions_mut().insert(ReplyTimeout(wait));
    request
}

async fn call(client: &Client, request: Request<Body>) -> Response {
    client.clone().oneshot(request).await.unwrap()
}

/// A client, and a router that answers it, over memory.
fn answered_by(router: Router) -> (Client, Responder, Memory) {
    let memory = Memory::new();
    let responder = Responder::start(Arc::new(memory.clone()), router);
    (Client::new(memory.clone()), responder, memory)
}

async fn memory() -> RequesterHarness {
    let memory = Memory::new();
    let requester: Arc<dyn Requester> = Arc::new(memory.clone());
    RequesterHarness::new(requester, move || Arc::new(memory.clone())).with_redelivery()
}

/// A channel of an embedded engine.
async fn channels() -> RequesterHarness {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedEngineSettings::new(folder.path().join("channels"));
    let engine: Arc<dyn Requests> = Arc::new(EmbeddedEngine::open(settings).await.unwrap());
    let name = ChannelName::new("orders").unwrap();
    let requester: Arc<dyn Requester> = Arc::new(ChannelRequester::new(Arc::clone(&engine), name.clone()));
    let source =
        move || -> Arc<dyn Source> { Arc::new(RequestSource::new(Arc::clone(&engine), name.clone())) };
    RequesterHarness::new(requester, source).with_kept(folder)
}

macro_rules! suite {
    ($transport:ident: $($module:ident: $($check:ident)*;)*) => {
        mod $transport {
            $($(
                #[tokio::test]
                async fn $check() {
                    let harness = super::$transport().await;
                    tower_outbox::testing::requester_conformance::$module::$check(harness).await;
                }
            )*)*
        }
    };
}

macro_rules! transports {
    ($($transport:ident),*) => {$(
        suite! { $transport:
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
    )*};
}

transports!(memory, channels);

//! Requests and their replies.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use http::{Request, StatusCode};
use tonic::transport::Endpoint;
use tower::ServiceExt;
use tower_outbox::client::Client;
use tower_outbox::kubemq_client::{KubemqRequester, KubemqSettings, KubemqSubscription, Pattern};
use tower_outbox::kubemq_wire::kubemq_client::KubemqClient;
use tower_outbox::reply::{RequestError, Requester};
use tower_outbox::source::Source;
use tower_outbox::testing::requester_conformance::RequesterHarness;
use tower_outbox::{Consumer, Message};

use super::face::Face;
use super::imitation::Imitation;
use super::{settings, source};

fn subscription() -> KubemqSubscription {
    KubemqSubscription::new("calls").with_pattern(Pattern::Queries).with_group("g").with_prefetch(2_000)
}

fn transport(settings: &KubemqSettings) -> RequesterHarness {
    let settings = settings.clone().with_channel("calls");
    let requester: Arc<dyn Requester> = Arc::new(KubemqRequester::new(&settings).unwrap());
    RequesterHarness::new(requester, move || Arc::new(source(&settings, &subscription())) as Arc<dyn Source>)
        .without_knowledge_of_responders()
}

async fn imitation() -> RequesterHarness {
    let server = Imitation::start().await;
    transport(&settings(&server)).with_kept(server)
}

async fn our_server() -> RequesterHarness {
    let face = Face::start().await;
    transport(&face.settings()).with_kept(face)
}

macro_rules! suite {
    ($transport:ident: $($module:ident: $($check:ident)*;)*) => {
        mod $transport {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    let harness = super::$transport().await;
                    tower_outbox::testing::requester_conformance::$module::$check(harness).await;
                }
            )*)*
        }
    };
}

suite! {
    imitation:
        answering:
            a_reply_has_status_headers_and_body
            method_query_and_headers_travel
            an_error_status_is_an_answer
            a_panicking_responder_is_500
            a_thousand_calls_pair_right
            two_responders_share_the_load;
        waiting:
            no_reply_in_time_is_504
            no_responder_is_503
            a_killed_responder_is_no_reply
            a_caller_that_goes_away_harms_no_other
            an_expired_request_is_not_handled;
}

suite! {
    our_server:
        answering:
            a_reply_has_status_headers_and_body
            a_large_body_travels_both_ways
            a_thousand_calls_pair_right
            two_responders_share_the_load;
        waiting:
            no_reply_in_time_is_504;
}

/// The caller of a command gets the status, and no body.
#[tokio::test]
async fn commands_of_other_clients_are_answered() {
    let server = Imitation::start().await;
    let commands = KubemqSubscription::new("calls.>").with_pattern(Pattern::Commands);
    let router = Router::new().fallback(async || (StatusCode::CONFLICT, "no"));
    let responder =
        tokio::spawn(Consumer::new(Arc::new(source(&settings(&server), &commands)), router).into_future());
    let url = format!("http://{}", server.address);
    let mut client = KubemqClient::new(Endpoint::from_shared(url).unwrap().connect_lazy());
    let request = || tower_outbox::kubemq_wire::Request {
        request_id: "7".to_owned(),
        request_type_data: 1,
        client_id: "python".to_owned(),
        channel: "calls.a".to_owned(),
        body: "x".into(),
        timeout: 200,
        ..Default::default()
    };
    let response = loop {
        match client.send_request(request()).await {
            Ok(response) => break response.into_inner(),
            Err(status) => assert!(status.message().contains("Error 301"), "{status}"),
        }
    };
    assert!(!response.executed && response.body.is_empty(), "{response:?}");
    assert_eq!(response.error, "409 Conflict: no");
    responder.abort();
}

#[tokio::test]
async fn a_bus_has_clients_over_kubemq() {
    let server = Imitation::start().await;
    let text = format!(
        "BACKEND = 'kubemq'\nURLS = '{}'\nCHANNEL = 'calls'\n[CONSUMERS.quotes]\nCHANNEL = 'calls'\nPATTERN = 'queries'",
        server.url()
    );
    let bus = tower_outbox::Bus::start(&toml::from_str(&text).unwrap()).await.unwrap();
    let router = Router::new().route("/order/quote", post(async |body: String| format!("{body}!")));
    tokio::spawn(bus.consumer("quotes", router).unwrap().into_future());
    let client: Client = bus.client("quotes").unwrap();
    let response = loop {
        let request = Request::post("/order/quote").body(axum::body::Body::from("7")).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        if response.status() != StatusCode::GATEWAY_TIMEOUT {
            break response;
        }
    };
    assert_eq!((response.status(), crate::support::text(response).await), (StatusCode::OK, "7!".to_owned()));
}

#[tokio::test]
async fn a_request_that_can_never_be_sent_says_so() {
    let requester = KubemqRequester::new(&KubemqSettings::new(["kubemq://h"])).unwrap();
    let delayed = Message::new("a", "").unwrap().with_delay(Duration::from_secs(1));
    let refused = requester.request(delayed).await.unwrap_err();
    let RequestError::Rejected(cause) = refused else { panic!("{refused}") };
    assert!(cause.to_string().contains("does not delay requests"), "{cause}");
}

//! Requests over channels.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post as on_post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::task::yield_now;
use tokio::time::timeout;
use tower_outbox::channels::calls::{ChannelRequester, RequestSource};
use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{ChannelName, Content, Pattern, Reply, Request, RequestKind, Requests};
use tower_outbox::client::Client;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::{Bus, Delivery, Settings};

use super::{Responder, call, post, within};
use crate::support::stores::STUCK;
use crate::support::text;

async fn engine(folder: &Path) -> Arc<dyn Requests> {
    let settings = EmbeddedEngineSettings::new(folder.join("channels"));
    Arc::new(EmbeddedEngine::open(settings).await.unwrap())
}

fn name(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

async fn responder(engine: &Arc<dyn Requests>, pattern: &str, router: Router) -> Responder {
    let source = RequestSource::new(Arc::clone(engine), Pattern::new(pattern).unwrap());
    Responder::start(Arc::new(source.subscribed().await.unwrap()), router)
}

/// Sends a request as another program does.
async fn foreign(engine: &Arc<dyn Requests>, kind: RequestKind, content: Content) -> Reply {
    let request = Request { kind, content, timeout: STUCK };
    timeout(STUCK, engine.request(&name("orders.quote"), request)).await.unwrap().unwrap().reply
}

#[tokio::test]
async fn requests_of_other_programs_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path()).await;
    let handler = |delivery: Delivery, headers: HeaderMap, body: String| async move {
        let reply =
            format!("{} {} {body}", delivery.reply_address().unwrap(), headers["tenant"].to_str().unwrap());
        (StatusCode::from_bytes(headers["status"].as_bytes()).unwrap(), reply)
    };
    let _responder =
        responder(&engine, "orders.*", Router::new().route("/orders/quote", on_post(handler))).await;
    for kind in [RequestKind::Command, RequestKind::Query] {
        for (status, executed, error) in
            [("200", true, ""), ("422", false, "422 Unprocessable Entity: orders.quote acme 5")]
        {
            let tags = [("tenant", "acme"), ("status", status)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
            let content = Content { body: Bytes::from_static(b"5"), tags: tags.into(), ..Content::default() };
            let reply = foreign(&engine, kind, content).await;
            assert_eq!((reply.executed, reply.error.as_str()), (executed, error));
            assert_eq!(reply.body, "orders.quote acme 5");
        }
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_answered_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path()).await;
    let _responder = responder(&engine, "orders.*", Router::new().fallback(|| async {})).await;
    let tags = vec![("tower-outbox-topic".to_owned(), "a b".to_owned())];
    let reply = foreign(&engine, RequestKind::Query, Content { tags, ..Content::default() }).await;
    assert!(!reply.executed && reply.error.contains("blank"), "{}", reply.error);
    let many = (0..1_001).map(|n| (format!("n-{n}"), String::new())).collect();
    let reply = foreign(&engine, RequestKind::Query, Content { tags: many, ..Content::default() }).await;
    assert!(!reply.executed && reply.error.contains("1,000 headers"), "{}", reply.error);
}

#[tokio::test]
async fn answers_of_other_programs_are_replies() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path()).await;
    let mut requests = engine
        .subscribe_requests(RequestKind::Query, &Pattern::new("orders").unwrap(), None, 0)
        .await
        .unwrap();
    let client = Client::new(ChannelRequester::new(Arc::clone(&engine), name("orders")));
    let replies = [
        (Reply { executed: true, body: "5 EUR".into(), ..Reply::default() }, 200, "5 EUR"),
        (Reply { error: "no stock".into(), ..Reply::default() }, 500, "no stock"),
        (
            Reply { tags: vec![("tower-outbox-status".into(), "101".into())], ..Reply::default() },
            502,
            "the reply cannot be read",
        ),
    ];
    for (reply, status, body) in replies {
        let calling = call(&client, post("/order/quote", "7"));
        let answering = async {
            let incoming = requests.next().await.unwrap();
            assert_eq!(incoming.content.tag("tower-outbox-topic"), Some("order.quote"));
            incoming.responder.answer(reply).unwrap();
        };
        let (response, ()) = tokio::join!(calling, answering);
        assert_eq!(response.status(), status);
        assert_eq!(text(response).await, body);
    }
}

#[tokio::test]
async fn a_request_is_retried_while_its_caller_waits() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path()).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let handler = move |delivery: Delivery| async move {
        assert_eq!(delivery.attempt(), counted.fetch_add(1, Ordering::SeqCst) + 1);
        let status = if delivery.attempt() < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, [("retry-after", "0")], format!("{}", delivery.failures().len()))
    };
    let source = RequestSource::new(Arc::clone(&engine), name("orders")).subscribed().await.unwrap();
    let settings = ConsumerSettings::default().with_retry_requests(true);
    let _responder =
        Responder::with(Arc::new(source), settings, Router::new().route("/order", on_post(handler)));
    let client = Client::new(ChannelRequester::new(engine, name("orders")));
    let response = call(&client, within(post("/order", ""), STUCK)).await;
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (200, "2"));
}

#[tokio::test]
async fn a_paused_or_closed_responder_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path()).await;
    let source = RequestSource::new(Arc::clone(&engine), name("orders")).subscribed().await.unwrap();
    let consumer = tower_outbox::Consumer::new(source, Router::new().fallback(|| async {}));
    let (handle, client) = (consumer.handle(), Client::new(ChannelRequester::new(engine, name("orders"))));
    let stopped = tokio::spawn(consumer.with_graceful_shutdown(
        {
            let client = client.clone();
            async move {
                until(&client, 200).await;
                handle.pause();
                until(&client, 503).await;
                handle.resume();
                until(&client, 200).await;
            }
        },
        Duration::from_secs(10),
    ));
    assert_eq!(timeout(STUCK, stopped).await.unwrap().unwrap(), 0);
    until(&client, 503).await;
}

async fn until(client: &Client, status: u16) {
    let so = async {
        while call(client, post("/order", "")).await.status() != status {
            yield_now().await;
        }
    };
    timeout(STUCK, so).await.unwrap_or_else(|_| panic!("it does not become {status}"));
}

#[tokio::test]
async fn a_bus_of_channels_has_clients_and_responders() {
    let folder = tempfile::tempdir().unwrap();
    let settings = format!(
        "BACKEND = 'channels'\nPATH = '{}'\n[CLIENTS.prices]\nCHANNEL = 'orders'\n[CONSUMERS.orders]\nPATTERN = 'requests'\nCHANNEL = 'orders'",
        folder.path().join("channels").display()
    );
    let bus = Bus::start(&toml::from_str::<Settings>(&settings).unwrap()).await.unwrap();
    let app = Router::new().route("/order", on_post(|body: String| async { body }));
    let _consumer = tokio::spawn(bus.consumer("orders", app).unwrap().into_future());
    for name in ["orders", "prices"] {
        until(&bus.client(name).unwrap(), 200).await;
    }
    assert_eq!(call(&bus.client("others").unwrap(), post("/order", "")).await.status(), 503);
    assert!(bus.client("a b").is_err());
    assert!(bus.shutdown(Duration::from_secs(10)).await.is_clean());
}

//! A consumer that answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post as on_post;
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;
use tower_outbox::client::Client;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::reply::{RequestError, Requester};
use tower_outbox::testing::Memory;
use tower_outbox::{Bus, Delivery, Message, MessageQueue, MessagingLayer, Messenger, Settings};

use super::{Responder, answered_by, call, post, within};
use crate::support::counters::{counted, expect};
use crate::support::logs::listen;
use crate::support::messengers::recording;
use crate::support::{enqueue, soon, text};

#[tokio::test(start_paused = true)]
async fn a_handler_sees_where_its_reply_goes() {
    let handler = |delivery: Delivery| async move { format!("{:?}", delivery.reply_address()) };
    let (client, _responder, memory) = answered_by(Router::new().route("/order", on_post(handler)));
    assert_eq!(text(call(&client, post("/order", "")).await).await, "Some(\"memory\")");
    let (called, mut calls) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| async move {
        called.send(delivery.reply_address().map(str::to_owned)).unwrap();
    };
    drop(_responder);
    let _responder =
        Responder::start(Arc::new(memory.clone()), Router::new().route("/event", on_post(handler)));
    memory.send(vec![Message::new("event", "").unwrap()]).await.unwrap();
    assert_eq!(soon(calls.recv()).await, Some(None));
}

#[tokio::test(start_paused = true)]
async fn only_a_request_chooses_its_method_and_query() {
    let (called, mut calls) = mpsc::unbounded_channel();
    let handler = move |request: axum::extract::Request| async move {
        called.send(format!("{} {}", request.method(), request.uri())).unwrap();
    };
    let memory = Memory::new();
    let _responder = Responder::start(Arc::new(memory.clone()), Router::new().fallback(handler));
    let message = Message::new("order.7", "").unwrap();
    let message =
        message.with_header("tower-outbox-method", "DELETE").with_header("tower-outbox-query", "all");
    memory.send(vec![message]).await.unwrap();
    assert_eq!(soon(calls.recv()).await.unwrap(), "POST /order/7");
}

#[tokio::test(start_paused = true)]
async fn messages_of_the_handler_leave_before_its_reply() {
    let (recording, sent) = recording();
    let handler = |queue: MessageQueue, status: String| async move {
        enqueue(&queue, ["order.quoted"]);
        StatusCode::from_u16(status.parse().unwrap()).unwrap()
    };
    let router = Router::new().route("/order", on_post(handler)).layer(MessagingLayer::new(recording));
    let (client, _responder, _) = answered_by(router);
    for (status, topics) in [("422", &[][..]), ("500", &[]), ("201", &["order.quoted"])] {
        assert_eq!(call(&client, post("/order", status)).await.status().as_str(), status);
        assert_eq!(sent.topics(), topics);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_request_is_retried_by_setting() {
    for (retries, attempts, status) in [(false, 1, 503), (true, 3, 200)] {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let handler = move || async move {
            match counted.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]),
                _ => (StatusCode::OK, [("retry-after", "0")]),
            }
        };
        let memory = Memory::new();
        let settings = ConsumerSettings::default().with_retry_requests(retries);
        let router = Router::new().route("/order", on_post(handler));
        let _responder = Responder::with(Arc::new(memory.clone()), settings, router);
        let response = call(&Client::new(memory), post("/order", "")).await;
        assert_eq!((response.status().as_u16(), calls.load(Ordering::SeqCst)), (status, attempts));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_is_the_answer() {
    let memory = Memory::new();
    let settings = ConsumerSettings::default().with_retry_requests(true).with_max_attempts(2);
    let handler = || async { (StatusCode::BAD_GATEWAY, [("retry-after", "1")], "broken") };
    let router = Router::new().route("/order", on_post(handler)).route(
        "/later",
        on_post(|| async { (StatusCode::BAD_GATEWAY, [("retry-after", "60")], "too late") }),
    );
    let _responder = Responder::with(Arc::new(memory.clone()), settings, router);
    let client = Client::new(memory.clone());
    assert_eq!(text(call(&client, post("/order", "")).await).await, "broken");
    // A wait beyond the deadline is no retry.
    assert_eq!(text(call(&client, post("/later", "")).await).await, "too late");
    memory.wait_idle().await;
    assert!(memory.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_413_and_a_response_over_it_500() {
    let memory = Memory::new();
    let settings = ConsumerSettings::default().with_max_bytes(10);
    let router = Router::new().route("/order", on_post(|| async { "more than ten bytes" }));
    let _responder = Responder::with(Arc::new(memory.clone()), settings, router);
    let client = Client::new(memory.clone());
    let response = call(&client, post("/order", "more than ten bytes")).await;
    assert_eq!(
        (response.status().as_u16(), text(response).await.as_str()),
        (413, "the body is larger than 10 bytes")
    );
    assert_eq!(call(&client, post("/order", "few")).await.status(), 500);
    memory.wait_idle().await;
    assert!(memory.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_504_before_its_caller_gives_up() {
    let memory = Memory::new();
    let settings = ConsumerSettings::default().with_timeout(Duration::from_secs(1));
    let router = Router::new().route("/order", on_post(std::future::pending::<()>));
    let _responder = Responder::with(Arc::new(memory.clone()), settings, router);
    let response = call(&Client::new(memory), post("/order", "")).await;
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (504, "the responder failed"));
}

#[tokio::test(start_paused = true)]
async fn a_reply_has_no_headers_about_a_connection() {
    let handler = || async {
        let headers = ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "x-own"];
        let headers: HeaderMap =
            headers.map(|name| (name.parse().unwrap(), "close".parse().unwrap())).into_iter().collect();
        (headers, "body")
    };
    let (client, _responder, _) = answered_by(Router::new().route("/order", on_post(handler)));
    let response = call(&client, post("/order", "")).await;
    let names: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
    assert!(names.contains(&"x-own") && !names.contains(&"connection") && names.len() <= 2, "{names:?}");
}

#[test]
fn requests_and_replies_are_counted() {
    let counts = counted(async {
        let handler = |wait: String| async move {
            tokio::time::sleep(Duration::from_secs(wait.parse().unwrap())).await;
        };
        let (client, responder, _memory) = answered_by(Router::new().route("/order", on_post(handler)));
        call(&client, post("/order", "0")).await;
        call(&client, post("/order", "60")).await;
        call(&client, post("/", "")).await;
        drop(
            soon(async {
                tokio::time::timeout(Duration::from_secs(1), call(&client, post("/order", "2"))).await
            })
            .await,
        );
        tokio::time::sleep(Duration::from_secs(10)).await;
        drop(responder);
        tokio::time::sleep(Duration::from_secs(10)).await;
        call(&client, within(post("/order", "0"), Duration::from_secs(1))).await;
    });
    let wanted = expect([
        ("handle_seconds{consumer=memory}", 2),
        ("handled_total{consumer=memory,outcome=answered}", 2),
        ("handled_total{consumer=memory,outcome=expired}", 1),
        ("late_replies_total", 1),
        ("received_total{consumer=memory}", 3),
        ("request_seconds", 5),
        ("requests_total{outcome=cancelled}", 1),
        ("requests_total{outcome=no_reply}", 1),
        ("requests_total{outcome=no_responder}", 1),
        ("requests_total{outcome=refused}", 1),
        ("requests_total{outcome=replied}", 1),
    ]);
    assert_eq!(counts, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_bus_has_the_settings_of_its_table() {
    let settings = "BACKEND = 'memory'\n[CONSUMERS.orders]\n[CLIENTS.Orders]\nTIMEOUT = '2s'";
    let bus = Bus::start(&toml::from_str::<Settings>(settings).unwrap()).await.unwrap();
    let handler = |wait: String| async move {
        tokio::time::sleep(Duration::from_secs(wait.parse().unwrap())).await;
    };
    let app = Router::new().route("/order", on_post(handler));
    let consumer = tokio::spawn(bus.consumer("orders", app).unwrap().into_future());
    for (client, wait, status) in [("orders", "1", 200), ("orders", "3", 504), ("others", "3", 200)] {
        let client = bus.client(client).unwrap();
        assert_eq!(call(&client, post("/order", wait.to_owned())).await.status(), status);
    }
    assert!(bus.shutdown(Duration::from_secs(10)).await.is_clean());
    consumer.await.unwrap();
    assert_eq!(call(&bus.client("orders").unwrap(), post("/order", "1")).await.status(), 503);
}

#[tokio::test]
async fn a_backend_without_requests_has_no_clients() {
    let bus = |text: &str| toml::from_str::<Settings>(text);
    let bus_of = bus("BACKEND = 'rhmsg'\nURLS = 'amqp://127.0.0.1:1'").unwrap();
    let error = Bus::start(&bus_of).await.unwrap().client("orders").unwrap_err().to_string();
    assert!(error.contains("sends no requests"), "{error}");
    let dummy = Bus::start(&Settings::default()).await.unwrap().client("orders").unwrap();
    assert_eq!(call(&dummy, post("/order", "")).await.status(), 503);
    for text in ["[CLIENTS.orders]\nTIMEOUT = 0", "[CLIENTS.orders]\nMAX_BYTES = 0"] {
        let error = bus(text).unwrap_err().to_string();
        assert!(error.contains("CLIENTS.ORDERS."), "{error}");
    }
    let unknown = bus("BACKEND = 'memory'\n[CLIENTS.orders]\nTIMEOUTS = 1").unwrap();
    let error = Bus::start(&unknown).await.unwrap_err().to_string();
    assert!(error.contains("did you mean CLIENTS.ORDERS.TIMEOUT?"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn log_lines_of_a_handler_name_its_message() {
    let logs = listen();
    let handler = || async { tracing::info!(target: "tower_outbox", at_work = true) };
    let (client, _responder, memory) = answered_by(Router::new().fallback(handler));
    let event = Message::new("order.created", "").unwrap();
    memory.send(vec![event.clone()]).await.unwrap();
    memory.wait_idle().await;
    call(&client, post("/order/quote", "")).await;
    let lines = logs.find(tracing::Level::INFO, &["at_work"]);
    let spans: Vec<_> = lines.iter().map(|line| line.spans.last().unwrap()).collect();
    assert_eq!(spans[0].get("id"), event.id().to_string());
    for (span, topic) in spans.into_iter().zip(["order.created", "order.quote"]) {
        assert_eq!((span.get("topic"), span.get("attempt"), span.get("consumer")), (topic, "1", "memory"));
    }
    assert_eq!(lines.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_at_its_deadline_is_no_reply() {
    let (_, _responder, memory) =
        answered_by(Router::new().route("/order", on_post(std::future::pending::<()>)));
    let wait = Duration::from_secs(1);
    let request = Message::new("order", "").unwrap().with_expiry(wait);
    let error = soon(memory.request(request)).await.unwrap_err();
    assert!(matches!(error, RequestError::NoReply(of) if of == wait), "{error}");
}

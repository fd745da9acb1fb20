//! A consumer at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::routing::post;
use axum::{Json, Router};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::message::Scalar;
use tower_outbox::testing::Recording;
use tower_outbox::{Consumer, Delivery, Message, MessageId, MessageQueue, MessagingLayer};

use super::{RunningConsumer, next, path, until};
use crate::support::stores::STUCK;
use tower_outbox::testing::source_conformance::{SourceHarness, id};

pub(super) async fn a_handler_sees_the_message_as_a_request(harness: SourceHarness) {
    let (called, mut calls) = mpsc::unbounded_channel();
    let handler = move |method: Method,
                        uri: Uri,
                        headers: HeaderMap,
                        MessageId(id): MessageId,
                        delivery: Delivery,
                        body: Bytes| async move {
        called.send((method, uri, headers, id, delivery, body)).unwrap();
    };
    let running = RunningConsumer::start(
        &harness,
        ConsumerSettings::default(),
        Router::new().route(&path(&harness), post(handler)),
    );
    let message = harness.message(7).with_header("who", "Jo");
    harness.messenger.send(vec![message.clone()]).await.unwrap();
    let (method, uri, headers, id, delivery, body) = next(&mut calls).await;
    assert_eq!((method, uri.path()), (Method::POST, path(&harness).as_str()));
    assert_eq!((id, &body), (message.id(), message.body()));
    assert_eq!(headers["ce-id"], message.id().to_string());
    assert_eq!(headers["ce-type"], harness.topic);
    for (name, value) in [("ce-specversion", "1.0"), ("who", "Jo"), ("content-type", "application/json")] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(delivery.attempt(), 1);
    assert!(!delivery.redelivered() || !harness.capabilities.redelivered);
    assert_eq!(delivery.source(), &*harness.source.name());
    assert!(delivery.age() < STUCK);
    running.stop().await;
}

pub(super) async fn no_more_are_handled_at_once_than_allowed(harness: SourceHarness) {
    let (now, most, gate) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (now, most, gate) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&gate));
        move || async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
            now.fetch_sub(1, Ordering::SeqCst);
        }
    };
    let settings = ConsumerSettings::default().with_concurrency(4);
    let running =
        RunningConsumer::start(&harness, settings, Router::new().route(&path(&harness), post(handler)));
    let handle = running.handle.clone();
    harness.send(40).await;
    until(|| now.load(Ordering::SeqCst) == 4).await;
    gate.add_permits(40);
    until(|| handle.status().acked == 40).await;
    assert_eq!(most.load(Ordering::SeqCst), 4);
    running.stop().await;
}

pub(super) async fn a_key_is_handled_in_order_while_others_go_on(harness: SourceHarness) {
    let (called, mut calls) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let handler = {
        let go_on = Arc::clone(&go_on);
        move |Json(body): Json<Value>| async move {
            let n = body["n"].as_u64().unwrap();
            called.send(n).unwrap();
            if n == 0 {
                go_on.notified().await;
            }
        }
    };
    let settings = ConsumerSettings::default().with_concurrency(8);
    let running =
        RunningConsumer::start(&harness, settings, Router::new().route(&path(&harness), post(handler)));
    let keyed = |n: u64, key: &str| harness.message(n).with_key(key);
    let mut messages = vec![keyed(0, "a"), keyed(1, "a"), keyed(2, "a")];
    messages.extend((3..10).map(|n| keyed(n, "b")));
    harness.messenger.send(messages).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        seen.push(next(&mut calls).await);
    }
    let of = |seen: &[u64], of_a: bool| seen.iter().copied().filter(|n| (*n < 3) == of_a).collect::<Vec<_>>();
    assert_eq!((of(&seen, true), of(&seen, false)), (vec![0], (3..10).collect()), "the others go on");
    go_on.notify_one();
    assert_eq!((next(&mut calls).await, next(&mut calls).await), (1, 2));
    running.stop().await;
}

pub(super) async fn one_key_that_stands_still_does_not_fetch_everything(harness: SourceHarness) {
    let given = Arc::new(AtomicUsize::new(0));
    let source = Kept { source: Arc::clone(&harness.source), given: Arc::clone(&given) };
    let app = Router::new().route(&path(&harness), post(std::future::pending::<StatusCode>));
    let settings = ConsumerSettings::default().with_concurrency(2);
    let consumer = Consumer::new(source, app).with_settings(settings);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let running = tokio::spawn(consumer.with_graceful_shutdown(shutdown, Duration::ZERO));
    harness.messenger.send((0..100).map(|n| harness.message(n).with_key("a")).collect()).await.unwrap();
    until(|| given.load(Ordering::SeqCst) > 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(given.load(Ordering::SeqCst) <= 8, "{} are held", given.load(Ordering::SeqCst));
    drop(stop);
    timeout(STUCK, running).await.expect("it does not stop").unwrap();
}

pub(super) async fn enqueued_messages_are_sent_on_success_with_their_causation(harness: SourceHarness) {
    let recording = Recording::new();
    let sent = recording.listen();
    let handler = |queue: MessageQueue, Json(body): Json<Value>| async move {
        queue.enqueue(Message::json("follow.up", &body).unwrap()).unwrap();
        StatusCode::from_u16(u16::try_from(body["status"].as_u64().unwrap()).unwrap()).unwrap()
    };
    let app = Router::new().route(&path(&harness), post(handler)).layer(MessagingLayer::new(recording));
    let running = RunningConsumer::start(&harness, ConsumerSettings::default(), app);
    let first = harness.message_with(&json!({"status": 200}));
    let second = harness.message_with(&json!({"status": 202})).with_header("correlation_id", "order-7");
    let failing = harness.message_with(&json!({"status": 422}));
    let handle = running.handle.clone();
    for message in [&first, &second, &failing] {
        let before = handle.status();
        harness.messenger.send(vec![message.clone()]).await.unwrap();
        until(|| handle.status() != before && handle.status().handling == 0).await;
    }
    until(|| handle.status().dead == 1).await;
    running.stop().await;
    let sent = sent.messages();
    assert_eq!(sent.len(), 2);
    let header = |message: &Message, name: &str| message.header(name).map(Scalar::to_string);
    let id = |message: &Message| Some(message.id().to_string());
    assert_eq!(header(&sent[0], "correlation_id"), id(&first));
    assert_eq!(header(&sent[0], "causation_id"), id(&first));
    assert_eq!(header(&sent[1], "correlation_id").as_deref(), Some("order-7"));
    assert_eq!(header(&sent[1], "causation_id"), id(&second));
}

pub(super) async fn a_pause_lets_nothing_more_come(harness: SourceHarness) {
    let running = RunningConsumer::start(
        &harness,
        ConsumerSettings::default(),
        Router::new().route(&path(&harness), post(|| async {})),
    );
    let handle = running.handle.clone();
    harness.send(1).await;
    until(|| handle.status().acked == 1).await;
    handle.pause();
    until(|| handle.status().paused).await;
    // The consumer itself must have seen it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    harness.send(10).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(handle.status().acked, 1);
    handle.resume();
    until(|| handle.status().acked == 11).await;
    running.stop().await;
}

pub(super) async fn a_shutdown_finishes_running_handlers_and_leaves_the_rest(harness: SourceHarness) {
    let (called, mut calls) = mpsc::unbounded_channel();
    let go_on = Arc::new(Semaphore::new(0));
    let handler = {
        let go_on = Arc::clone(&go_on);
        move |request: Request| async move {
            called.send(()).unwrap();
            go_on.acquire().await.unwrap().forget();
            drop(request);
        }
    };
    let settings = ConsumerSettings::default().with_concurrency(2);
    let running =
        RunningConsumer::start(&harness, settings, Router::new().route(&path(&harness), post(handler)));
    let handle = running.handle.clone();
    harness.send(5).await;
    next(&mut calls).await;
    next(&mut calls).await;
    let stopping = tokio::spawn(running.stop());
    // The consumer itself must have seen it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    go_on.add_permits(10);
    assert_eq!(timeout(STUCK, stopping).await.unwrap().unwrap(), 0);
    let status = handle.status();
    assert_eq!((status.acked, status.handling), (2, 0), "what had begun has ended, and nothing else began");
    assert!(calls.try_recv().is_err());
}

pub(super) async fn a_handler_past_the_deadline_is_delivered_again(harness: SourceHarness) {
    let (called, mut calls) = mpsc::unbounded_channel();
    let handler = move || async move {
        called.send(()).unwrap();
        std::future::pending::<()>().await;
    };
    let app = Router::new().route(&path(&harness), post(handler));
    let sent = harness.send(1).await;
    // The source goes on after this consumer.
    let source = Kept { source: Arc::clone(&harness.source), given: Arc::default() };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let running =
        tokio::spawn(Consumer::new(source, app).with_graceful_shutdown(shutdown, Duration::from_millis(20)));
    next(&mut calls).await;
    drop(stop);
    assert_eq!(timeout(STUCK, running).await.expect("it does not stop").unwrap(), 1);
    let again = harness.receive_one().await;
    assert_eq!(id(&again), sent[0].id());
    again.ack().await.unwrap();
}

/// A source that is not closed, and counts what it gives.
struct Kept {
    source: Arc<dyn tower_outbox::source::Source>,
    given: Arc<AtomicUsize>,
}

#[tower_outbox::async_trait]
impl tower_outbox::source::Source for Kept {
    async fn receive(
        &self,
        limit: usize,
    ) -> Result<Vec<tower_outbox::source::Unsettled>, tower_outbox::source::SourceError> {
        let received = self.source.receive(limit).await?;
        self.given.fetch_add(received.len(), Ordering::SeqCst);
        Ok(received)
    }

    fn name(&self) -> Arc<str> {
        self.source.name()
    }
}

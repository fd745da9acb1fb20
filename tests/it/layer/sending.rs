//! When messages leave, and that sending comes to its end.

use std::pin::pin;
use std::time::Duration;

use http::StatusCode;
use tokio::time::timeout;
use tower_outbox::{EnqueueError, MessageQueue, MessagingLayer};

use crate::support::messengers::{held, recording};
use crate::support::{MINUTE, app, enqueue, enqueue_a, get, message, service};

#[tokio::test(start_paused = true)]
async fn messages_are_sent_in_order_before_the_head_goes_out() {
    let (messenger, gate, sent) = held();
    let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move {
        enqueue(&queue, ["a", "b", "c"]);
        StatusCode::CREATED
    });
    let mut response = pin!(get(app));
    assert!(timeout(MINUTE, &mut response).await.is_err(), "the head went out before the confirm");
    gate.begun().await;
    assert!(sent.topics().is_empty());
    gate.open();
    assert_eq!(response.await.status(), StatusCode::CREATED);
    assert_eq!(sent.topics(), ["a", "b", "c"]);
}

#[tokio::test]
async fn the_messages_of_a_request_leave_as_one_batch() {
    let (batches, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let messenger = crate::support::messengers::fake(move |batch| {
        batches.send(batch.len()).unwrap();
        std::future::ready(Ok(()))
    });
    let app =
        app(MessagingLayer::new(messenger), |queue: MessageQueue| async move { enqueue(&queue, ["a", "b"]) });
    get(app).await;
    assert_eq!(seen.recv().await, Some(2));
    assert!(seen.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_gone_while_sending_does_not_stop_it() {
    let (messenger, gate, sent) = held();
    let layer = MessagingLayer::new(messenger);
    let app = app(layer.clone(), |queue: MessageQueue| async move { enqueue(&queue, ["a", "b"]) });
    assert!(timeout(Duration::from_secs(1), get(app)).await.is_err());
    gate.begun().await;
    assert_eq!(layer.in_flight().len(), 1);
    gate.open();
    layer.in_flight().wait_idle().await;
    assert_eq!(sent.topics(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn in_flight_counts_the_sends_until_they_end() {
    let (messenger, gate, _sent) = held();
    let layer = MessagingLayer::new(messenger);
    let app = app(layer.clone(), enqueue_a);
    assert!(layer.in_flight().is_empty());
    let requests: Vec<_> = (0..3).map(|_| tokio::spawn(get(app.clone()))).collect();
    for _ in 0..3 {
        gate.begun().await;
    }
    assert_eq!(layer.in_flight().len(), 3);
    assert!(timeout(MINUTE, layer.in_flight().wait_idle()).await.is_err());
    gate.pass(2);
    assert!(timeout(MINUTE, layer.in_flight().wait_idle()).await.is_err());
    gate.open();
    layer.in_flight().wait_idle().await;
    assert!(layer.in_flight().is_empty());
    for request in requests {
        assert_eq!(request.await.unwrap().status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_does_not_wait_for_the_send_of_another() {
    let (messenger, gate, sent) = held();
    let app = app(MessagingLayer::new(messenger), enqueue_a);
    let stuck = tokio::spawn(get(app.clone()));
    gate.begun().await;
    let next = tokio::spawn(get(app));
    gate.begun().await;
    gate.pass(2);
    timeout(MINUTE, async { (stuck.await.unwrap(), next.await.unwrap()) }).await.unwrap();
    assert_eq!(sent.topics(), ["a", "a"]);
}

fn assert_closed(queue: &MessageQueue) {
    assert!(queue.is_closed());
    for handle in [queue.clone(), queue.always()] {
        assert!(matches!(handle.enqueue(message("late")), Err(EnqueueError::Closed)));
    }
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handle_kept_past_any_outcome_is_closed() {
    let (messenger, sent) = recording();
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let layer = MessagingLayer::new(messenger);
    for outcome in ["200", "404", "error", "gone"] {
        let keep = keep.clone();
        let service = service(&layer, move |queue| {
            keep.send(queue).unwrap();
            async move {
                match outcome {
                    "error" => Err("broken".into()),
                    "gone" => std::future::pending().await,
                    status => Ok(http::Response::builder().status(status).body(String::new()).unwrap()),
                }
            }
        });
        let request = tower::ServiceExt::oneshot(service, http::Request::new(()));
        let _ = timeout(Duration::from_secs(1), request).await;
        assert_closed(&kept.recv().await.unwrap());
    }
    layer.in_flight().wait_idle().await;
    assert!(sent.topics().is_empty());
}

#[tokio::test]
async fn a_queue_is_closed_while_its_messages_are_sent() {
    let (messenger, gate, sent) = held();
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let app = app(MessagingLayer::new(messenger), move |queue: MessageQueue| async move {
        enqueue(&queue, ["a"]);
        keep.send(queue).unwrap();
    });
    let request = tokio::spawn(get(app));
    gate.begun().await;
    assert_closed(&kept.recv().await.unwrap());
    gate.open();
    request.await.unwrap();
    assert_eq!(sent.topics(), ["a"]);
}

//! Messages that cannot be sent.

use std::sync::{Arc, Mutex};

use http::header::RETRY_AFTER;
use http::{HeaderName, StatusCode};
use tower_outbox::layer::OnSendFailure;
use tower_outbox::messenger::Overloaded;
use tower_outbox::{Failure, Message, MessageQueue, MessagingLayer, Unsent};

use crate::support::messengers::{down, fake, panicking};
use crate::support::{answering, app, enqueue, get, text, topics};

fn transient() -> Failure {
    Failure::transient("the broker is down")
}

async fn assert_503(response: axum::response::Response) {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let seconds: u32 = response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!(seconds > 0);
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn by_default_the_client_gets_503_when_sending_fails() {
    for failure in [transient(), Failure::rejected("too large")] {
        let layer = MessagingLayer::new(down(failure));
        assert_503(get(answering(layer, StatusCode::CREATED)).await).await;
    }
}

#[tokio::test]
async fn by_log_the_response_stays_when_sending_fails() {
    for failure in [transient(), Failure::rejected("too large")] {
        let layer = MessagingLayer::new(down(failure)).with_on_send_failure(OnSendFailure::Log);
        let response = get(answering(layer, StatusCode::CREATED)).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(text(response).await, "body");
    }
}

#[tokio::test]
async fn by_reject_the_client_gets_503_and_nothing_of_the_response() {
    for failure in [transient(), Failure::rejected("too large")] {
        let layer = MessagingLayer::new(down(failure)).with_on_send_failure(OnSendFailure::Reject);
        let app = app(layer, |queue: MessageQueue| async move {
            enqueue(&queue, ["a"]);
            ([(HeaderName::from_static("x-secret"), "1")], "body")
        });
        let response = get(app).await;
        assert!(!response.headers().contains_key("x-secret"));
        assert_503(response).await;
    }
}

#[tokio::test]
async fn one_unsent_message_is_enough_for_503() {
    let messenger = fake(|mut batch: Vec<Message>| {
        let unsent = batch.split_off(batch.len() - 1);
        std::future::ready(Err(Unsent::new(unsent, &transient())))
    });
    let layer = MessagingLayer::new(messenger).with_on_send_failure(OnSendFailure::Reject);
    assert_503(get(answering(layer, StatusCode::OK)).await).await;
}

#[tokio::test]
async fn by_reject_a_confirmed_batch_keeps_its_response() {
    let layer =
        MessagingLayer::new(tower_outbox::dummy::Dummy::new()).with_on_send_failure(OnSendFailure::Reject);
    assert_eq!(get(answering(layer, StatusCode::OK)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_empty_unsent_is_a_confirm() {
    let messenger = fake(|_| std::future::ready(Err(Unsent::default())));
    let layer = MessagingLayer::new(messenger)
        .with_on_send_failure(OnSendFailure::Reject)
        .with_on_unsent(|_| panic!("nothing is unsent"));
    assert_eq!(get(answering(layer, StatusCode::OK)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_hook_is_given_what_is_unsent_with_its_failures() {
    let hooked = Arc::new(Mutex::new(Vec::new()));
    let messenger = fake(|batch: Vec<Message>| {
        let failures = [transient(), Failure::rejected("forbidden")];
        // The first is confirmed.
        std::future::ready(Err(batch.into_iter().skip(1).zip(failures).collect()))
    });
    let layer = MessagingLayer::new(messenger).with_on_unsent({
        let hooked = Arc::clone(&hooked);
        move |unsent| hooked.lock().unwrap().extend(unsent)
    });
    let app = app(layer, |queue: MessageQueue| async move { enqueue(&queue, ["a", "b", "c"]) });
    assert_503(get(app).await).await;
    let hooked = hooked.lock().unwrap();
    assert_eq!(topics(hooked.iter().map(|(message, _)| message)), ["b", "c"]);
    assert_eq!(hooked[0].1.to_string(), "transient: the broker is down");
    assert_eq!(hooked[1].1.to_string(), "rejected: forbidden");
}

#[tokio::test(start_paused = true)]
async fn the_hook_is_called_when_the_client_has_gone() {
    let (hooked, mut unsent) = tokio::sync::mpsc::unbounded_channel();
    let messenger = fake(|batch| async {
        tokio::time::sleep(crate::support::MINUTE).await;
        Err(Unsent::new(batch, &transient()))
    });
    let layer = MessagingLayer::new(messenger).with_on_unsent(move |unsent| hooked.send(unsent).unwrap());
    let request = get(answering(layer, StatusCode::OK));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), request).await.is_err());
    assert_eq!(topics(&unsent.recv().await.unwrap().into_messages()), ["a", "audit"]);
}

#[tokio::test]
async fn a_full_buffer_gives_503_whatever_the_setting() {
    for on_send_failure in [OnSendFailure::Log, OnSendFailure::Reject] {
        let messenger = down(Failure::transient(Overloaded::new("the buffer is full")));
        let layer = MessagingLayer::new(messenger).with_on_send_failure(on_send_failure);
        assert_503(get(answering(layer, StatusCode::CREATED)).await).await;
    }
}

#[tokio::test]
async fn a_response_that_is_no_success_stays_when_its_audit_events_cannot_be_sent() {
    for failure in [transient(), Failure::transient(Overloaded::new("the buffer is full"))] {
        let layer = MessagingLayer::new(down(failure)).with_on_send_failure(OnSendFailure::Reject);
        let response = get(answering(layer, StatusCode::NOT_FOUND)).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(text(response).await, "body");
    }
}

#[tokio::test]
async fn a_messenger_that_panics_is_a_send_that_failed() {
    for after_waiting in [false, true] {
        let layer = MessagingLayer::new(panicking(after_waiting));
        let log = answering(layer.clone().with_on_send_failure(OnSendFailure::Log), StatusCode::CREATED);
        let reject = answering(layer.clone(), StatusCode::CREATED);
        // Twice: the service survives.
        for _ in 0..2 {
            let response = get(log.clone()).await;
            assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::CREATED, "body"));
            assert_503(get(reject.clone()).await).await;
        }
        assert!(layer.in_flight().is_empty());
    }
}

#[tokio::test]
async fn a_messenger_that_panics_leaves_a_4xx_response_alone() {
    for after_waiting in [false, true] {
        let layer = MessagingLayer::new(panicking(after_waiting)).with_on_send_failure(OnSendFailure::Reject);
        assert_eq!(get(answering(layer, StatusCode::CONFLICT)).await.status(), StatusCode::CONFLICT);
    }
}

#[tokio::test]
async fn a_hook_that_panics_leaves_the_service_alive() {
    let layer = MessagingLayer::new(down(transient())).with_on_unsent(|_| panic!("the hook panics"));
    for _ in 0..2 {
        assert_503(get(answering(layer.clone(), StatusCode::OK)).await).await;
    }
    assert!(layer.in_flight().is_empty());
}

//! The end of a message by its handler's answer: each row of the table of `Consumer`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{Request, StatusCode};
use serde_json::json;
use tokio::sync::mpsc;
use tower::service_fn;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::{BoxError, Delivery, Message};

use super::{RunningConsumer, next, path, until};
use tower_outbox::testing::source_conformance::{Dead, SourceHarness};

/// Attempts come at once.
fn settings() -> ConsumerSettings {
    ConsumerSettings::default().with_max_backoff(Duration::from_millis(5))
}

/// One message, answered so at its attempts and with 200 afterwards: it comes that often, and not once more.
async fn comes_again(harness: &SourceHarness, answers: Vec<Response>) -> Vec<Instant> {
    let count = u32::try_from(answers.len()).unwrap();
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let (called, mut calls) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| async move {
        called.send((delivery.attempt(), Instant::now())).unwrap();
        answers.lock().unwrap().pop_front().unwrap_or_else(|| StatusCode::OK.into_response())
    };
    let running =
        RunningConsumer::start(harness, settings(), Router::new().route(&path(harness), post(handler)));
    harness.send(1).await;
    let mut times = Vec::new();
    for attempt in 1..=count + 1 {
        let (seen, at) = next(&mut calls).await;
        assert_eq!(seen, attempt);
        times.push(at);
    }
    assert_eq!(running.stop().await, 0);
    assert!(calls.try_recv().is_err(), "it came once more");
    harness.dead(0).await;
    times
}

/// One message that becomes a dead letter, after so many calls.
async fn dies(harness: &SourceHarness, message: Message, router: Router, settings: ConsumerSettings) -> Dead {
    let running = RunningConsumer::start(harness, settings, router);
    harness.messenger.send(vec![message.clone()]).await.unwrap();
    let dead = harness.dead(1).await.remove(0);
    let handle = running.handle.clone();
    running.stop().await;
    assert_eq!((dead.id, handle.status().dead), (message.id(), 1));
    dead
}

pub(super) async fn a_success_is_acknowledged(harness: SourceHarness) {
    let answer = |body: axum::Json<serde_json::Value>| async move {
        StatusCode::from_u16(200 + u16::try_from(body["n"].as_u64().unwrap()).unwrap()).unwrap()
    };
    let running =
        RunningConsumer::start(&harness, settings(), Router::new().route(&path(&harness), post(answer)));
    let handle = running.handle.clone();
    harness.send(7).await;
    until(|| handle.status().acked == 7).await;
    running.stop().await;
    let status = handle.status();
    assert_eq!((status.acked, status.retried, status.dead), (7, 0, 0));
    harness.dead(0).await;
}

pub(super) async fn a_temporary_failure_is_retried(harness: SourceHarness) {
    let statuses = [408, 425, 429, 500, 502, 503, 504];
    comes_again(
        &harness,
        statuses.map(|status| StatusCode::from_u16(status).unwrap().into_response()).into(),
    )
    .await;
}

pub(super) async fn retry_after_is_kept(harness: SourceHarness) {
    let wait = (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]);
    let times = comes_again(&harness, vec![wait.into_response()]).await;
    assert!(times[1] - times[0] >= Duration::from_secs(1), "{:?}", times[1] - times[0]);
}

pub(super) async fn a_handler_that_takes_too_long_has_failed(harness: SourceHarness) {
    let settings = settings().with_timeout(Duration::from_millis(50)).with_max_attempts(2);
    let router = Router::new().route(&path(&harness), post(std::future::pending::<StatusCode>));
    let dead = dies(&harness, harness.message(0), router, settings).await;
    assert_eq!(dead.reasons.len(), 2);
    assert!(dead.reasons.iter().all(|reason| reason.contains("no answer within 50ms")), "{dead:?}");
}

pub(super) async fn a_panic_has_failed(harness: SourceHarness) {
    async fn panics() -> StatusCode {
        panic!("the test's own panic")
    }
    let router = Router::new().route(&path(&harness), post(panics));
    let dead = dies(&harness, harness.message(0), router, settings().with_max_attempts(2)).await;
    assert!(dead.reasons.iter().all(|reason| reason.contains("the handler panicked")), "{dead:?}");
}

pub(super) async fn an_error_of_the_service_has_failed(harness: SourceHarness) {
    let service = service_fn(|_: Request<Body>| async { Err::<Response, BoxError>("no database".into()) });
    let running = RunningConsumer::start(&harness, settings().with_max_attempts(2), service);
    harness.send(1).await;
    let dead = harness.dead(1).await.remove(0);
    assert_eq!(dead.reasons.len(), 2);
    assert!(dead.reasons.iter().all(|reason| reason.contains("no database")), "{dead:?}");
    running.stop().await;
}

pub(super) async fn after_the_last_attempt_it_is_a_dead_letter(harness: SourceHarness) {
    let failing = |delivery: Delivery| async move {
        (StatusCode::BAD_GATEWAY, format!("attempt {}", delivery.attempt()))
    };
    let router = Router::new().route(&path(&harness), post(failing));
    let dead = dies(&harness, harness.message(0), router, settings().with_max_attempts(3)).await;
    assert_eq!(dead.reasons.len(), 3, "{dead:?}");
    assert!(dead.reasons[0].contains("502") && dead.reasons[0].contains("attempt 1"), "{dead:?}");
    assert!(
        dead.reasons[2].contains("given up after 3 attempts") && dead.reasons[2].contains("attempt 3"),
        "{dead:?}"
    );
}

pub(super) async fn any_other_status_is_a_dead_letter_at_once(harness: SourceHarness) {
    let statuses = [302, 400, 401, 403, 409, 410, 422];
    let answer = |body: axum::Json<serde_json::Value>| async move {
        let status = u16::try_from(body["status"].as_u64().unwrap()).unwrap();
        (StatusCode::from_u16(status).unwrap(), format!("because {status}"))
    };
    let running =
        RunningConsumer::start(&harness, settings(), Router::new().route(&path(&harness), post(answer)));
    for (count, status) in statuses.into_iter().enumerate() {
        let message = harness.message_with(&json!({"status": status}));
        harness.messenger.send(vec![message.clone()]).await.unwrap();
        let dead = harness.dead(count + 1).await;
        let dead = dead.iter().find(|dead| dead.id == message.id()).unwrap();
        let [reason] = &dead.reasons[..] else { panic!("{dead:?}") };
        assert!(
            reason.starts_with(&status.to_string()) && reason.ends_with(&format!("because {status}")),
            "{reason}"
        );
    }
    running.stop().await;
}

pub(super) async fn no_handler_is_a_dead_letter_at_once(harness: SourceHarness) {
    let router = Router::new().route("/somewhere/else", post(|| async {}));
    let dead = dies(&harness, harness.message(0), router, settings()).await;
    assert_eq!(dead.reasons.len(), 1);
    assert!(dead.reasons[0].contains("no handler has this route"), "{dead:?}");
}

pub(super) async fn too_large_is_a_dead_letter_at_once(harness: SourceHarness) {
    let router = Router::new().route(&path(&harness), post(|| async {}));
    let message = harness.message_with(&json!({"text": "x".repeat(200)}));
    let dead = dies(&harness, message, router, settings().with_max_bytes(100)).await;
    assert!(dead.reasons[0].contains("larger than 100 bytes"), "{dead:?}");
}

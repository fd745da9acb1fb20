//! How a transaction ends: by what becomes of its request.

use std::future::{Future, pending, ready};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::StreamExt;
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tower_outbox::layer::OnSendFailure;
use tower_outbox::{MessageQueue, MessagingLayer, Tx};
use tracing::Level;

use super::place::{Place, both, created, insert, post, quiet, strings};
use crate::support::stores::{QUIET, STUCK};
use crate::support::{enqueue, logs, text};

/// An app that writes a row, enqueues its event, and then does this.
fn app<P: Place, Fut>(layer: &MessagingLayer, then: fn() -> Fut) -> Router
where
    Fut: Future<Output = Response> + Send + 'static,
{
    let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
        both::<P>(&mut tx, &queue).await;
        then().await
    };
    Router::new().route("/", any(handler)).layer(layer.clone())
}

/// An app that writes a row and an order of nobody, which is found out when it is committed.
fn app_of_nobody<P: Place>(layer: &MessagingLayer) -> Router {
    let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| {
        both::<P>(&mut tx, &queue).await;
        enqueue(&queue.always(), ["audit"]);
        P::execute(&mut tx, "INSERT INTO orders VALUES ('nobody')").await.unwrap();
        StatusCode::CREATED
    };
    Router::new().route("/", any(handler)).layer(layer.clone())
}

pub async fn a_success_commits_both_before_its_head_goes_out<P: Place>(place: P) {
    let layer = place.layer().await;
    let app = app::<P, _>(&layer, || ready("done".into_response()));
    let response = post(&app).await;
    place.assert(true, "when the head is there").await;
    assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, "done"));
}

pub async fn a_success_without_messages_commits_its_rows<P: Place>(place: P) {
    let handler = async |mut tx: Tx<P::Kind>| insert::<P>(&mut tx, "Jo").await;
    let app = Router::new().route("/", any(handler)).layer(place.layer().await);
    assert_eq!(post(&app).await.status(), StatusCode::OK);
    assert_eq!((place.rows().await, place.events().await), (1, vec![]));
}

pub async fn any_other_response_leaves_neither<P: Place>(place: P) {
    let layer = place.layer().await;
    for (status, grpc) in [(101, "0"), (304, "0"), (400, "0"), (404, "0"), (500, "0"), (503, "0"), (200, "7")]
    {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            both::<P>(&mut tx, &queue).await;
            (StatusCode::from_u16(status).unwrap(), [("grpc-status", grpc)])
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), status);
        quiet(&layer).await;
        place.assert(false, &format!("{status} {grpc}")).await;
    }
}

pub async fn the_one_rule_of_the_layer_decides<P: Place>(place: P) {
    let layer = place.layer().await.with_success(|response| response.status.as_u16() < 400);
    let redirect = app::<P, _>(&layer, || ready(StatusCode::SEE_OTHER.into_response()));
    assert_eq!(post(&redirect).await.status(), StatusCode::SEE_OTHER);
    place.assert(true, "303 is a success here").await;
}

pub async fn an_error_of_the_service_leaves_neither<P: Place>(place: P) {
    use axum::extract::FromRequestParts;
    let layer = place.layer().await;
    let service = tower::service_fn(async |request: Request<()>| {
        let (mut parts, ()) = request.into_parts();
        let mut tx = Tx::<P::Kind>::from_request_parts(&mut parts, &()).await.unwrap();
        both::<P>(&mut tx, parts.extensions.get().unwrap()).await;
        Err::<http::Response<String>, _>("broken")
    });
    let service = tower_layer::Layer::layer(&layer, service);
    assert_eq!(service.oneshot(Request::new(())).await.unwrap_err(), "broken");
    quiet(&layer).await;
    place.assert(false, "an error").await;
}

pub async fn a_panic_leaves_neither_caught_or_not<P: Place>(place: P) {
    let layer = place.layer().await;
    let app = app::<P, _>(&layer, || async { panic!("the handler panics") });
    let caught = app.clone().layer(CatchPanicLayer::new());
    assert_eq!(post(&caught).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let request = tokio::spawn(async move { post(&app).await });
    assert!(request.await.unwrap_err().is_panic());
    quiet(&layer).await;
    place.assert(false, "a panic").await;
}

pub async fn a_timeout_outside_leaves_neither<P: Place>(place: P) {
    let layer = place.layer().await;
    let app = app::<P, _>(&layer, pending)
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, QUIET));
    assert_eq!(post(&app).await.status(), StatusCode::REQUEST_TIMEOUT);
    quiet(&layer).await;
    place.assert(false, "a timeout").await;
}

pub async fn a_client_gone_before_the_handler_is_done_leaves_neither<P: Place>(place: P) {
    let layer = place.layer().await;
    assert!(timeout(QUIET, post(&app::<P, _>(&layer, pending))).await.is_err());
    quiet(&layer).await;
    place.assert(false, "the client has gone").await;
}

pub async fn a_request_dropped_where_there_is_no_runtime_leaves_neither<P: Place>(place: P) {
    let layer = place.layer().await;
    let app = app::<P, _>(&layer, pending);
    let mut request = Box::pin(async move { post(&app).await });
    assert!(timeout(QUIET, &mut request).await.is_err());
    std::thread::spawn(move || drop(request)).join().unwrap();
    quiet(&layer).await;
    place.assert(false, "the client has gone").await;
    // Nothing holds a lock on the row any more.
    assert_eq!(post(&self::app::<P, _>(&layer, || ready(().into_response()))).await.status(), StatusCode::OK);
    place.assert(true, "the next").await;
}

pub async fn a_commit_that_fails_leaves_neither_and_answers_500<P: Place>(place: P) {
    for on_send_failure in [OnSendFailure::Log, OnSendFailure::Reject] {
        let layer = place.layer().await.with_on_send_failure(on_send_failure);
        let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| {
            both::<P>(&mut tx, &queue).await;
            P::execute(&mut tx, "INSERT INTO orders VALUES ('nobody')").await.unwrap();
            (StatusCode::CREATED, "done")
        };
        let response = post(&Router::new().route("/", any(handler)).layer(layer.clone())).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key(RETRY_AFTER));
        assert_eq!(text(response).await, "");
        quiet(&layer).await;
        place.assert(false, "the constraint does not hold").await;
    }
}

pub async fn what_leaves_always_leaves_when_the_commit_fails<P: Place>(place: P) {
    let layer = place.layer().await;
    assert_eq!(post(&app_of_nobody::<P>(&layer)).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    quiet(&layer).await;
    assert_eq!((place.rows().await, place.events().await), (0, strings(&["audit"])));
}

pub async fn what_leaves_always_leaves_when_the_request_fails<P: Place>(place: P) {
    let layer = place.layer().await;
    for status in [StatusCode::CONFLICT, StatusCode::OK] {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            both::<P>(&mut tx, &queue).await;
            enqueue(&queue.always(), ["audit"]);
            status
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), status);
    }
    let gone = async |mut tx: Tx<P::Kind>, queue: MessageQueue| {
        insert::<P>(&mut tx, "Al").await;
        created(&queue);
        enqueue(&queue.always(), ["audit"]);
        pending::<()>().await;
    };
    let app = Router::new().route("/", any(gone)).layer(layer.clone());
    assert!(timeout(QUIET, post(&app)).await.is_err());
    quiet(&layer).await;
    let events = strings(&["audit", "user.created", "audit", "audit"]);
    assert_eq!((place.rows().await, place.events().await), (1, events));
}

pub async fn a_transaction_held_by_a_task_is_an_error_that_says_so<P: Place>(place: P) {
    let layer = place.layer().await;
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
        both::<P>(&mut tx, &queue).await;
        enqueue(&queue.always(), ["audit"]);
        let (end, wait) = oneshot::channel::<()>();
        ended.send(end).unwrap();
        tokio::spawn(async move {
            let _ = wait.await;
            drop(tx);
        });
        StatusCode::CREATED
    };
    let app = Router::new().route("/", any(handler)).layer(layer.clone());
    let log = logs::listen();
    let response = tokio::task::LocalSet::new().run_until(post(&app)).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(log.find(Level::ERROR, &[]).len(), 1, "{:?}", log.events());
    end.recv().await.unwrap().send(()).unwrap();
    quiet(&layer).await;
    assert_eq!((place.rows().await, place.events().await.len()), (0, 1), "only what leaves always");
}

pub async fn a_transaction_held_by_a_streaming_body_is_an_error_that_says_so<P: Place>(place: P) {
    let layer = place.layer().await;
    let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| {
        both::<P>(&mut tx, &queue).await;
        let rows = futures_util::stream::once(async move {
            let written = P::execute(&mut tx, "INSERT INTO users VALUES ('late')").await;
            written.map(|()| Bytes::from("late"))
        });
        Body::from_stream(rows.boxed())
    };
    let app = Router::new().route("/", any(handler)).layer(layer.clone());
    let response = timeout(STUCK, app.oneshot(Request::new(Body::empty()))).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(response).await, "");
    quiet(&layer).await;
    place.assert(false, "the body held it").await;
}

pub async fn a_statement_that_failed_and_was_ignored_leaves_neither<P: Place>(place: P) {
    let layer = place.layer().await;
    for with_event in [true, false] {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            insert::<P>(&mut tx, "Jo").await;
            if with_event {
                created(&queue);
            }
            P::execute(&mut tx, P::spoil()).await.unwrap_err();
            StatusCode::CREATED
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), StatusCode::INTERNAL_SERVER_ERROR, "with event: {with_event}");
        quiet(&layer).await;
        place.assert(false, "it was spoilt").await;
    }
    let rejected = async |mut tx: Tx<P::Kind>| {
        P::execute(&mut tx, P::spoil()).await.unwrap_err();
        StatusCode::BAD_REQUEST
    };
    // More than the pool has connections: each is as good as new.
    for _ in 0..12 {
        let app = Router::new().route("/", any(rejected)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), StatusCode::BAD_REQUEST);
        quiet(&layer).await;
    }
    assert_eq!(post(&app::<P, _>(&layer, || ready(().into_response()))).await.status(), StatusCode::OK);
    place.assert(true, "the next").await;
}

pub async fn an_event_that_cannot_be_stored_takes_its_row_along<P: Place>(place: P) {
    let layer = place.layer().await;
    let handler = {
        let rename = place.tables().rename_messages();
        move |mut tx: Tx<P::Kind>, queue: MessageQueue| {
            let rename = rename.clone();
            async move {
                both::<P>(&mut tx, &queue).await;
                P::execute(&mut tx, &rename).await.unwrap();
            }
        }
    };
    let app = Router::new().route("/", any(handler)).layer(layer.clone());
    assert_eq!(post(&app).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    quiet(&layer).await;
    place.assert(false, "there was no outbox").await;
}

pub async fn ends_are_counted_and_logged<P: Place>(place: P) {
    let layer = place.layer().await;
    let failing = app::<P, _>(&layer, || ready(StatusCode::CONFLICT.into_response()));
    let log = logs::listen();
    // On this thread alone, where it is listened to.
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            assert_eq!(post(&failing).await.status(), StatusCode::CONFLICT);
            quiet(&layer).await;
            assert_eq!(post(&app_of_nobody::<P>(&layer)).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        })
        .await;
    let failed = [log.alarms("foreign key"), log.alarms("FOREIGN KEY")].concat();
    assert!(failed.iter().any(|event| event.is_error() && event.has("cause")), "{failed:?}");
}

pub async fn a_transaction_ended_by_hand_is_500_and_its_event_is_not_sent<P: Place>(place: P) {
    let layer = place.layer().await;
    for end in ["COMMIT", "ROLLBACK"] {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            both::<P>(&mut tx, &queue).await;
            P::execute(&mut tx, end).await.unwrap();
            StatusCode::CREATED
        };
        let log = logs::listen();
        let alarms = log.alarms("use savepoints").len();
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), StatusCode::INTERNAL_SERVER_ERROR, "{end}");
        assert_eq!(log.alarms("use savepoints").len(), alarms + 1, "{end}");
        assert_eq!((place.rows().await, place.events().await), (i64::from(end == "COMMIT"), vec![]), "{end}");
        place.clear().await;
        place.assert_nothing_is_left_open().await;
    }
}

pub async fn a_transaction_ended_by_hand_is_500_without_events_too<P: Place>(place: P) {
    let layer = place.layer().await;
    // A transaction begun in its place is not that of the request either.
    for end in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN"] {
        let handler = move |mut tx: Tx<P::Kind>| async move {
            insert::<P>(&mut tx, "Jo").await;
            P::execute(&mut tx, end).await.unwrap();
            StatusCode::CREATED
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        let status = post(&app).await.status();
        // SQLite cannot tell one transaction from another.
        let expected = match (end, <P::Kind as sqlx::Database>::NAME) {
            ("COMMIT; BEGIN", "SQLite") => StatusCode::CREATED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        assert_eq!(status, expected, "{end}");
        assert_eq!(place.rows().await, i64::from(end != "ROLLBACK"), "{end}");
        place.clear().await;
        place.assert_nothing_is_left_open().await;
    }
}

//! The counts of transactions, by how they end.

use std::future::{Future, pending, ready};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_outbox::{Message, MessageQueue, MessagingLayer, Tx};
use tracing::Level;

use super::handled::consume;
use super::place::{Lite, Pg, Place, ask, both, insert, post, quiet};
use crate::support::counters::{Counts, counted_meanwhile, expect};
use crate::support::logs::{self, Logs};
use crate::support::stores::{QUIET, until};

/// Each of these on both databases, on this thread alone.
macro_rules! on_both {
    ($($behaviour:ident)*) => {
        mod postgres { $(
            #[test]
            #[ignore = "needs brokers: ./scripts/test"]
            fn $behaviour() {
                super::$behaviour(super::Pg::new());
            }
        )* }

        mod sqlite { $(
            #[test]
            fn $behaviour() {
                super::$behaviour(super::Lite::new());
            }
        )* }
    };
}

on_both! {
    commits_are_counted
    rollbacks_are_counted_and_their_reasons_logged
    commits_that_fail_are_counted
    a_panic_while_it_is_committed_leaves_neither_answers_500_and_counts_as_failed
    messages_that_were_handled_before_are_counted
}

/// The counts of transactions, and of messages that do not leave.
fn counted(test: impl Future<Output = ()>) -> Counts {
    let mut counts = counted_meanwhile(test);
    counts.retain(|name, _| {
        ["transactions_", "dropped_", "stored_", "unsent_"].iter().any(|of| name.starts_with(of))
    });
    counts
}

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

fn commits_are_counted<P: Place>(place: impl Future<Output = P>) {
    let counts = counted(async {
        let place = place.await;
        let layer = place.layer().await;
        assert_eq!(post(&app::<P, _>(&layer, || ready(().into_response()))).await.status(), StatusCode::OK);
        let without_event =
            Router::new().route("/", any(async |mut tx: Tx<P::Kind>| insert::<P>(&mut tx, "Al").await));
        assert_eq!(post(&without_event.layer(layer)).await.status(), StatusCode::OK);
    });
    assert_eq!(counts, expect([("transactions_total{outcome=committed}", 2), ("stored_total", 1)]));
}

/// The reasons of the transactions that were rolled back.
fn rolled_back(log: &Logs) -> Vec<String> {
    let said = log.find(Level::INFO, &["reason"]).into_iter();
    said.filter(|event| !event.has("messages")).map(|event| event.get("reason").to_owned()).collect()
}

fn rollbacks_are_counted_and_their_reasons_logged<P: Place>(place: impl Future<Output = P>) {
    let log = logs::listen();
    let counts = counted(async {
        let place = place.await;
        let layer = place.layer().await;
        let app = |then: fn() -> Answer| app::<P, _>(&layer, then);
        assert_eq!(post(&app(|| Box::pin(ready(StatusCode::CONFLICT.into_response())))).await.status(), 409);
        quiet(&layer).await;

        let service = tower_layer::Layer::layer(
            &layer,
            tower::service_fn(async |request: Request<()>| {
                use axum::extract::FromRequestParts;
                let mut parts = request.into_parts().0;
                let mut tx = Tx::<P::Kind>::from_request_parts(&mut parts, &()).await.unwrap();
                both::<P>(&mut tx, parts.extensions.get().unwrap()).await;
                Err::<http::Response<String>, _>("broken")
            }),
        );
        assert_eq!(service.oneshot(Request::new(())).await.unwrap_err(), "broken");
        quiet(&layer).await;

        let panics = app(|| Box::pin(async { panic!("the handler panics") })).layer(CatchPanicLayer::new());
        assert_eq!(post(&panics).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        quiet(&layer).await;

        assert!(timeout(QUIET, post(&app(|| Box::pin(pending())))).await.is_err());
        quiet(&layer).await;

        let (release, held) = watch::channel(());
        let holds = async move |mut tx: Tx<P::Kind>, queue: MessageQueue| {
            both::<P>(&mut tx, &queue).await;
            let mut held = held.clone();
            tokio::spawn(async move {
                let _ = held.changed().await;
                drop(tx);
            });
        };
        let holds = Router::new().route("/", any(holds)).layer(layer.clone());
        assert_eq!(post(&holds).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        drop(release);
        until("the last is rolled back", async || rolled_back(&log).len() == 5).await;
    });
    assert_eq!(rolled_back(&log), ["status", "error", "panic", "cancelled", "held"]);
    let expected = [
        ("transactions_total{outcome=rolled_back}", 5),
        ("dropped_total{reason=status}", 1),
        ("dropped_total{reason=error}", 1),
        ("dropped_total{reason=panic}", 1),
        ("dropped_total{reason=cancelled}", 1),
        ("dropped_total{reason=held}", 1),
    ];
    assert_eq!(counts, expect(expected));
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

fn commits_that_fail_are_counted<P: Place>(place: impl Future<Output = P>) {
    let counts = counted(async {
        let place = place.await;
        let layer = place.layer().await;
        let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| {
            both::<P>(&mut tx, &queue).await;
            P::execute(&mut tx, "INSERT INTO orders VALUES ('nobody')").await.unwrap();
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        quiet(&layer).await;
    });
    let expected = [("transactions_total{outcome=failed}", 1), ("dropped_total{reason=transaction}", 1)];
    assert_eq!(counts, expect(expected));
}

/// The body of a message that cannot be dropped: one that was stored before is dropped while its transaction is committed.
struct PanicsOnDrop;

impl AsRef<[u8]> for PanicsOnDrop {
    fn as_ref(&self) -> &[u8] {
        b"{}"
    }
}

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("the body is dropped");
    }
}

fn a_panic_while_it_is_committed_leaves_neither_answers_500_and_counts_as_failed<P: Place>(
    place: impl Future<Output = P>,
) {
    let counts = counted(async {
        let place = place.await;
        let layer = place.layer().await.with_idempotency_key();
        let request = |body: fn() -> Bytes, row: &'static str, then: &'static str| {
            let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
                insert::<P>(&mut tx, row).await;
                queue.enqueue(Message::new("first", body()).unwrap()).unwrap();
                queue.enqueue(Message::new(then, "").unwrap()).unwrap();
            };
            let app = Router::new().route("/", any(handler)).layer(layer.clone());
            let request = Request::post("/").header("idempotency-key", "k").body(Body::empty()).unwrap();
            async move { ask(&app, request).await.status() }
        };
        assert_eq!(request(Bytes::new, "Jo", "second").await, StatusCode::OK);
        let panics = request(|| Bytes::from_owner(PanicsOnDrop), "Al", "third");
        assert_eq!(panics.await, StatusCode::INTERNAL_SERVER_ERROR);
        quiet(&layer).await;
        let names = place.texts("SELECT name FROM users").await;
        assert_eq!(
            (names, place.events().await),
            (vec!["Jo".to_owned()], vec!["first".to_owned(), "second".to_owned()])
        );
        // Nothing holds a lock any more.
        assert_eq!(request(Bytes::new, "Al", "third").await, StatusCode::OK);
        place.assert_nothing_is_left_open().await;
    });
    let expected = [
        ("transactions_total{outcome=committed}", 2),
        ("transactions_total{outcome=failed}", 1),
        ("dropped_total{reason=transaction}", 2),
        ("stored_total", 2),
    ];
    assert_eq!(counts, expect(expected));
}

fn messages_that_were_handled_before_are_counted<P: Place>(place: impl Future<Output = P>) {
    let counts = counted(async {
        let place = place.await;
        let layer = place.layer().await;
        let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| both::<P>(&mut tx, &queue).await;
        let app = Router::new().route("/user/asked", any(handler)).layer(layer.clone());
        let message = [crate::support::message("user.asked")];
        for _ in 0..3 {
            assert_eq!(consume(&app, &message).await, 1);
        }
        quiet(&layer).await;
    });
    let expected = [
        ("transactions_total{outcome=committed}", 1),
        ("transactions_total{outcome=already_handled}", 2),
        ("stored_total", 1),
    ];
    assert_eq!(counts, expect(expected));
}

//! One request has one transaction, and says what is wrong when it cannot have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::any;
use http::StatusCode;
use http::header::RETRY_AFTER;
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::dummy::Dummy;
use tower_outbox::fallback::Fallback;
use tower_outbox::tx::TxRejection;
use tower_outbox::{Message, MessageQueue, MessagingLayer, Tx};
use tracing::Level;

use super::place::{Lite, Place, ask, both, created, insert, post, quiet, strings};
use crate::support::messengers::Minimal;
use crate::support::{logs, text};

pub async fn a_middleware_and_the_handler_have_the_same_transaction<P: Place>(place: P) {
    let layer = place.layer().await;
    for status in [StatusCode::CONFLICT, StatusCode::OK] {
        let before = from_fn(async |mut tx: Tx<P::Kind>, request: Request, next: Next| {
            insert::<P>(&mut tx, "Jo").await;
            drop(tx);
            next.run(request).await
        });
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            // It sees the row, which nobody else does.
            P::execute(&mut tx, "INSERT INTO orders VALUES ('Jo')").await.unwrap();
            P::execute(&mut tx, "UPDATE users SET name = 'Al'").await.unwrap();
            P::execute(&mut tx, "UPDATE orders SET name = 'Al'").await.unwrap();
            created(&queue);
            status
        };
        let app = Router::new().route("/", any(handler)).layer(before).layer(layer.clone());
        assert_eq!(post(&app).await.status(), status);
        quiet(&layer).await;
        place.assert(status == StatusCode::OK, "two extractions").await;
    }
    assert_eq!(place.texts("SELECT name FROM users").await, ["Al"]);
}

pub async fn two_at_once_are_an_error_that_says_the_cure<P: Place>(place: P) {
    let handler = async |_one: Tx<P::Kind>, two: Result<Tx<P::Kind>, TxRejection>| {
        let rejection = two.unwrap_err();
        assert!(matches!(rejection, TxRejection::Held));
        rejection
    };
    let app = Router::new().route("/", any(handler)).layer(place.layer().await);
    let response = post(&app).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text(response).await.contains("drop it before the next is extracted"));
}

pub async fn without_the_layer_is_an_error_that_says_the_cure<P: Place>(_place: P) {
    let response = post(&Router::new().route("/", any(async |_: Tx<P::Kind>| {}))).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text(response).await.contains("add tower_outbox::MessagingLayer around this route"));
}

pub async fn another_messenger_or_database_is_an_error_that_says_the_cure<P: Place>(place: P) {
    let app = Router::new().route("/", any(async |_: Tx<P::Kind>| {}));
    let response = post(&app.clone().layer(MessagingLayer::new(Dummy::new()))).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let said = text(response).await;
    assert!(said.contains("is no outbox in") && said.contains("DELIVERY = \"transactional\""), "{said}");

    let other = Router::new().route("/", any(async |_: Tx<sqlx::Postgres>| {}));
    let response = post(&other.layer(Lite::new().await.layer().await)).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text(response).await.contains("PostgresStore"));
    drop(place);
}

pub async fn nested_layers_have_one_transaction<P: Place>(place: P) {
    let layer = place.layer().await;
    let to_500 = from_fn(async |mut tx: Tx<P::Kind>, request: Request, next: Next| {
        insert::<P>(&mut tx, "before").await;
        drop(tx);
        let response = next.run(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    });
    let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| both::<P>(&mut tx, &queue).await;
    let inner = Router::new().route("/", any(handler)).layer(layer.clone());
    assert_eq!(post(&inner.clone().layer(to_500).layer(layer.clone())).await.status(), 500);
    quiet(&layer).await;
    place.assert(false, "the outer one decides").await;
    assert_eq!(post(&inner.layer(layer.clone())).await.status(), 200);
    place.assert(true, "once").await;
}

/// Answers 200 whatever is inside.
async fn to_200(queue: MessageQueue, request: Request, next: Next) -> StatusCode {
    queue.enqueue(Message::new("before", "x").unwrap()).unwrap();
    next.run(request).await;
    StatusCode::OK
}

pub async fn an_inner_call_that_failed_leaves_neither_row_nor_event<P: Place>(place: P) {
    let layer = place.layer().await;
    for persisted in [false, true] {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            both::<P>(&mut tx, &queue).await;
            if persisted {
                assert_eq!(queue.persist(&mut *tx).await.unwrap(), 1);
            }
            StatusCode::CONFLICT
        };
        let inner = Router::new().route("/", any(handler)).layer(layer.clone());
        let app = inner.layer(from_fn(to_200)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), StatusCode::OK);
        quiet(&layer).await;
        assert_eq!((place.rows().await, place.events().await), (0, strings(&["before"])), "{persisted}");
        place.clear().await;
    }
}

pub async fn a_retry_between_two_layers_commits_the_call_that_succeeds<P: Place>(place: P) {
    let layer = place.layer().await;
    let tries = Arc::new(AtomicUsize::new(0));
    let handler = {
        let tries = Arc::clone(&tries);
        move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            both::<P>(&mut tx, &queue).await;
            if tries.fetch_add(1, Ordering::SeqCst) < 2 { StatusCode::CONFLICT } else { StatusCode::OK }
        }
    };
    let inner = Router::new().route("/", any(handler)).layer(layer.clone());
    let again = from_fn(move |request: Request, _: Next| {
        let (inner, queue) = (inner.clone(), request.extensions().get::<MessageQueue>().cloned().unwrap());
        async move {
            loop {
                let mut request = Request::post("/").body(Body::empty()).unwrap();
                request.extensions_mut().insert(queue.clone());
                let response = ask(&inner, request).await;
                if response.status() == StatusCode::OK {
                    return response;
                }
            }
        }
    });
    let app = Router::new().route("/", any(async || {})).layer(again).layer(layer.clone());
    assert_eq!(post(&app).await.status(), StatusCode::OK);
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    place.assert(true, "once").await;
}

pub async fn an_inner_call_that_failed_takes_along_who_shares_its_transaction<P: Place>(place: P) {
    let log = logs::listen();
    let layer = place.layer().await;
    let to_200 = from_fn(async |mut tx: Tx<P::Kind>, queue: MessageQueue, request: Request, next: Next| {
        insert::<P>(&mut tx, "before").await;
        created(&queue);
        queue.always().enqueue(Message::new("audit", "x").unwrap()).unwrap();
        drop(tx);
        next.run(request).await;
        StatusCode::OK
    });
    let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| {
        both::<P>(&mut tx, &queue).await;
        StatusCode::CONFLICT
    };
    let inner = Router::new().route("/", any(handler)).layer(layer.clone());
    assert_eq!(post(&inner.layer(to_200).layer(layer.clone())).await.status(), 500);
    quiet(&layer).await;
    assert_eq!((place.rows().await, place.events().await), (0, strings(&["audit"])));
    assert_eq!(log.find(Level::ERROR, &[]).len(), 1, "{:?}", log.events());
}

pub async fn decorators_and_handles_keep_the_transaction<P: Place>(place: P) {
    let (background, _worker) = Background::new(place.outbox().await, BackgroundSettings::default());
    let layers = [
        MessagingLayer::new(Arc::new(place.outbox().await)),
        MessagingLayer::new(background),
        MessagingLayer::new(Fallback::new(place.outbox().await, Dummy::new())),
        MessagingLayer::new(tower::Layer::layer(
            &tower_outbox::chaos::ChaosLayer::default(),
            place.outbox().await,
        )),
        MessagingLayer::new(Minimal(place.outbox().await)),
    ];
    for (index, layer) in layers.into_iter().enumerate() {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            insert::<P>(&mut tx, &index.to_string()).await;
            created(&queue);
        };
        assert_eq!(post(&Router::new().route("/", any(handler)).layer(layer)).await.status(), StatusCode::OK);
    }
    assert_eq!((place.rows().await, place.events().await.len()), (5, 5));
}

pub async fn no_connection_in_time_is_503<P: Place>(place: P) {
    let layer = place.narrow().await;
    let inner = Router::new().route("/", any(async |_: Tx<P::Kind>| {})).layer(layer.clone());
    let handler = {
        let inner = inner.clone();
        // A request of its own, while this one has the only connection.
        move |_tx: Tx<P::Kind>| async move { post(&inner).await }
    };
    let app = Router::new().route("/", any(handler)).layer(layer.clone());
    let response = post(&app).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(RETRY_AFTER));
    quiet(&layer).await;
    assert_eq!(post(&inner).await.status(), StatusCode::OK);
}

pub async fn a_savepoint_is_part_of_it<P: Place>(place: P) {
    let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| {
        P::nested(&mut tx, "INSERT INTO users VALUES ('Jo')", true).await.unwrap();
        P::nested(&mut tx, "INSERT INTO users VALUES ('Al')", false).await.unwrap();
        P::nested(&mut tx, P::spoil(), true).await.ok();
        created(&queue);
    };
    let app = Router::new().route("/", any(handler)).layer(place.layer().await);
    let status = post(&app).await.status();
    // RAISE(ROLLBACK) takes all of it along.
    let lite = std::any::TypeId::of::<P>() == std::any::TypeId::of::<Lite>();
    assert_eq!(status, if lite { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK });
    place.assert(!lite, "savepoints").await;
}

pub async fn after_the_response_there_is_none<P: Place>(place: P) {
    use axum::extract::FromRequestParts;
    let (give, mut given) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |request: Request| async move {
        give.send(request.into_parts().0).unwrap();
    };
    let app = Router::new().route("/", any(handler)).layer(place.layer().await);
    assert_eq!(post(&app).await.status(), StatusCode::OK);
    let mut parts = given.recv().await.unwrap();
    let rejection = Tx::<P::Kind>::from_request_parts(&mut parts, &()).await.unwrap_err();
    assert!(matches!(rejection, TxRejection::Closed), "{rejection}");
    assert_eq!(place.events().await, strings(&[]));
}

//! Requests that are sent again with the same `Idempotency-Key`.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use http::{Method, Request, StatusCode};
use tower_outbox::{Message, MessageQueue, MessagingLayer, Messenger, Tx};
use uuid::Uuid;

use super::place::{Place, ask, created, quiet, strings};
use crate::support::enqueue;

type Ids = Arc<Mutex<Vec<Uuid>>>;

/// An app that enqueues two events, with or without the transaction, and writes down their ids.
fn app<P: Place>(layer: MessagingLayer, status: StatusCode) -> (Router, Ids) {
    let ids = Ids::default();
    let write = |queue: &MessageQueue, ids: &Ids| {
        for topic in ["a", "b"] {
            ids.lock().unwrap().push(queue.enqueue(crate::support::message(topic)).unwrap());
        }
    };
    let (tx_ids, plain_ids) = (Arc::clone(&ids), Arc::clone(&ids));
    let with_tx = async move |_tx: Tx<P::Kind>, queue: MessageQueue| {
        write(&queue, &tx_ids);
        status
    };
    let plain = async move |queue: MessageQueue| {
        write(&queue, &plain_ids);
        status
    };
    let app = Router::new().route("/", any(with_tx)).route("/plain", any(plain));
    (app.layer(layer.with_idempotency_key()), ids)
}

async fn send(app: &Router, method: Method, path: &str, key: &str) -> StatusCode {
    let request = Request::builder().method(method).uri(path).header("idempotency-key", key);
    ask(app, request.body(Body::empty()).unwrap()).await.status()
}

pub async fn a_request_sent_again_makes_the_same_ids_and_stores_them_once<P: Place>(place: P) {
    let (app, ids) = app::<P>(place.layer().await, StatusCode::CREATED);
    // The quotes are those of the header's format.
    for key in ["\"k-1\"", "\"k-1\"", "k-1"] {
        assert_eq!(send(&app, Method::POST, "/", key).await, StatusCode::CREATED);
    }
    let ids = ids.lock().unwrap().clone();
    assert!(ids[..2] == ids[2..4] && ids[..2] == ids[4..] && ids[0] != ids[1], "{ids:?}");
    assert!(ids.iter().all(|id| id.get_version_num() == 5));
    assert_eq!(place.events().await, strings(&["a", "b"]));
}

pub async fn another_key_path_or_method_makes_other_ids<P: Place>(place: P) {
    let (app, ids) = app::<P>(place.layer().await, StatusCode::CREATED);
    send(&app, Method::POST, "/", "k").await;
    send(&app, Method::POST, "/", "l").await;
    send(&app, Method::PUT, "/", "k").await;
    send(&app, Method::POST, "/plain", "k").await;
    let mut ids = ids.lock().unwrap().clone();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), place.events().await.len()), (8, 8));
}

pub async fn an_id_of_the_handler_stays<P: Place>(place: P) {
    let id = Message::new("a", "").unwrap().id();
    let handler = move |_tx: Tx<P::Kind>, queue: MessageQueue| async move {
        let message = Message::new("a", "").unwrap().with_id(id);
        assert_eq!(queue.enqueue(message).unwrap(), id);
    };
    let app = Router::new().route("/", any(handler)).layer(place.layer().await.with_idempotency_key());
    for _ in 0..2 {
        assert_eq!(send(&app, Method::POST, "/", "k").await, StatusCode::OK);
    }
    assert_eq!(place.events().await, strings(&["a", "a"]));
}

pub async fn what_is_appended_or_persisted_is_stored_once_too<P: Place>(place: P) {
    let (app, _ids) = app::<P>(place.layer().await, StatusCode::CREATED);
    for _ in 0..2 {
        assert_eq!(send(&app, Method::POST, "/plain", "k").await, StatusCode::CREATED);
    }
    assert_eq!(place.events().await, strings(&["a", "b"]));
    place.clear().await;
    let handler = {
        let place = place.clone();
        move |queue: MessageQueue| async move {
            created(&queue);
            // The row has no part in this.
            place.clear_rows().await;
            place.own(&queue, true).await.unwrap();
            enqueue(&queue, ["late"]);
        }
    };
    let app = Router::new().route("/", any(handler)).layer(place.layer().await.with_idempotency_key());
    for _ in 0..2 {
        assert_eq!(send(&app, Method::POST, "/", "k").await, StatusCode::OK);
    }
    assert_eq!(place.events().await, strings(&["user.created", "late"]));
}

pub async fn a_try_that_failed_does_not_count<P: Place>(place: P) {
    let layer = place.layer().await;
    let (failing, _ids) = app::<P>(layer.clone(), StatusCode::CONFLICT);
    assert_eq!(send(&failing, Method::POST, "/", "k").await, StatusCode::CONFLICT);
    quiet(&layer).await;
    let (app, _ids) = app::<P>(layer, StatusCode::CREATED);
    assert_eq!(send(&app, Method::POST, "/", "k").await, StatusCode::CREATED);
    assert_eq!(place.events().await, strings(&["a", "b"]));
}

pub async fn a_try_that_ended_its_transaction_by_hand_does_not_count<P: Place>(place: P) {
    let app = |layer: MessagingLayer, by_hand: bool| {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            enqueue(&queue, ["a"]);
            if by_hand {
                P::execute(&mut tx, "COMMIT").await.unwrap();
            }
        };
        Router::new().route("/", any(handler)).layer(layer.with_idempotency_key())
    };
    let layer = place.layer().await;
    for (by_hand, status, events) in [
        (true, StatusCode::INTERNAL_SERVER_ERROR, 0),
        (false, StatusCode::OK, 1),
        (true, StatusCode::INTERNAL_SERVER_ERROR, 1),
    ] {
        assert_eq!(send(&app(layer.clone(), by_hand), Method::POST, "/", "k").await, status);
        quiet(&layer).await;
        assert_eq!(place.events().await.len(), events);
    }
}

pub async fn keys_that_are_none_are_400<P: Place>(place: P) {
    let (app, ids) = app::<P>(place.layer().await, StatusCode::CREATED);
    let long = "x".repeat(256);
    for key in ["", "\"\"", "\"open", "a\tb", &long] {
        assert_eq!(send(&app, Method::POST, "/", key).await, StatusCode::BAD_REQUEST, "{key:?}");
    }
    let two = Request::post("/").header("idempotency-key", "a").header("idempotency-key", "b");
    assert_eq!(ask(&app, two.body(Body::empty()).unwrap()).await.status(), StatusCode::BAD_REQUEST);
    assert!(ids.lock().unwrap().is_empty(), "no handler ran");
}

pub async fn without_the_setting_the_header_means_nothing<P: Place>(place: P) {
    let handler = async |queue: MessageQueue| enqueue(&queue, ["a"]);
    let outbox = place.outbox().await;
    assert!(outbox.capabilities().outbox.is_some());
    let app = Router::new().route("/", any(handler)).layer(MessagingLayer::new(outbox));
    for key in ["k", "k", ""] {
        assert_eq!(send(&app, Method::POST, "/", key).await, StatusCode::OK);
    }
    assert_eq!(place.events().await, strings(&["a", "a", "a"]));
}

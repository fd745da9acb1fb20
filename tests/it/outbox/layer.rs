//! An outbox behind the layer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use http::header::RETRY_AFTER;
use http::{Method, Request, StatusCode};
use tokio::time::timeout;
use tower::{Service, ServiceExt};
use tower_outbox::dummy::Dummy;
use tower_outbox::layer::OnSendFailure;
use tower_outbox::outbox::{Outbox, Relay};
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, Store, WhenFull};
use tower_outbox::{MessageQueue, MessagingLayer};

use super::spied::Spied;
use super::{embedded, quick};
use crate::support::fuse::fuse;
use crate::support::messengers::Minimal;
use crate::support::stores::{QUIET, STUCK, batch, confirm, depth, lease_all, limits, list, open, until};
use crate::support::{answering, app, enqueue, get, request, service, topics};

/// A layer whose relay does not run: what is stored stays.
fn layer(store: impl Store) -> (MessagingLayer, Relay<Dummy>) {
    let (outbox, relay) = Outbox::new(Dummy::new(), Arc::new(store), quick());
    (MessagingLayer::new(outbox), relay)
}

/// A store that is full with one message.
async fn full(folder: &Path) -> EmbeddedStore {
    let settings = EmbeddedStoreSettings::new(folder).with_limits(limits(3, WhenFull::Refuse));
    let store = open(&settings).await.unwrap();
    store.append(batch("filler", 3)).await.unwrap();
    store
}

async fn stored(store: &(impl Store + ?Sized)) -> Vec<String> {
    let entries = list(store).await;
    topics(entries.iter().map(|entry| entry.message.as_ref().unwrap()))
}

async fn post(app: Router) -> axum::response::Response {
    app.oneshot(Request::post("/").body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_success_is_answered_when_its_messages_are_stored_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let inner = embedded(folder.path()).await;
    let (store, spy) = Spied::new(inner.clone());
    let (layer, _relay) = layer(store);
    let door = spy.appending.acquire_many(u32::MAX >> 3).await.unwrap();
    let rest = spy.appending.available_permits();
    spy.appending.forget_permits(rest);
    let mut response = std::pin::pin!(get(answering(layer, StatusCode::CREATED)));
    assert!(timeout(QUIET, &mut response).await.is_err(), "it is not stored yet");
    assert_eq!(spy.appends.load(Ordering::SeqCst), 1);
    assert_eq!(depth(&inner).await, (0, 0));
    drop(door);
    let response = timeout(STUCK, response).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(stored(&inner).await, ["a", "audit"]);
}

#[tokio::test]
async fn a_store_failure_is_503_with_every_setting() {
    for on_send_failure in [OnSendFailure::Log, OnSendFailure::Reject] {
        let folder = tempfile::tempdir().unwrap();
        let store = full(folder.path()).await;
        let (layer, _relay) = layer(store.clone());
        let layer = layer.with_on_send_failure(on_send_failure);
        // A GET is let in, and is refused when its messages are to be stored.
        let response = get(answering(layer.clone(), StatusCode::CREATED)).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert_eq!(depth(&store).await, (3, 0));
        store.close().await;
        let response = get(answering(layer, StatusCode::CREATED)).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "a closed store");
    }
}

#[tokio::test]
async fn a_full_outbox_rejects_requests_before_their_handler_runs() {
    let folder = tempfile::tempdir().unwrap();
    let store = full(folder.path()).await;
    let (layer, _relay) = layer(store.clone());
    let calls = Arc::new(AtomicUsize::new(0));
    let app = app(layer, {
        let calls = Arc::clone(&calls);
        move |method: Method, queue: MessageQueue| async move {
            calls.fetch_add(1, Ordering::SeqCst);
            if method != Method::GET {
                enqueue(&queue, ["a"]);
            }
        }
    });
    for _ in 0..3 {
        let response = post(app.clone()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(get(app.clone()).await.status(), StatusCode::OK);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    confirm(&store, &lease_all(&store, 3).await).await;
    until("requests are let in again", async || post(app.clone()).await.status() == StatusCode::OK).await;
    assert_eq!(stored(&store).await, ["a"]);
}

#[tokio::test]
async fn a_users_decorator_keeps_the_admission_of_the_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let store = full(folder.path()).await;
    let (outbox, _relay) = Outbox::new(Dummy::new(), Arc::new(store), quick());
    let app =
        app(MessagingLayer::new(Minimal(outbox)), async || -> StatusCode { panic!("the handler runs") });
    assert_eq!(post(app).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_its_batch_whole_or_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded(folder.path()).await;
    let (layer, _relay) = layer(store.clone());
    let (mut expected, mut answered) = (0, 0);
    // The disk answers when it likes: each place is tried several times.
    for polls in (0..12).cycle().take(120) {
        let done = Arc::new(AtomicUsize::new(0));
        let mut service = service(&layer, {
            let done = Arc::clone(&done);
            move |queue: MessageQueue| {
                let done = Arc::clone(&done);
                async move {
                    enqueue(&queue, ["a", "b"]);
                    tokio::task::yield_now().await;
                    enqueue(&queue, ["c"]);
                    done.fetch_add(1, Ordering::SeqCst);
                    Ok(http::Response::new(String::new()))
                }
            }
        });
        let response = fuse(polls, service.call(Request::new(()))).await;
        answered += usize::from(response.is_some());
        timeout(STUCK, layer.in_flight().wait_idle()).await.unwrap();
        expected += 3 * done.load(Ordering::SeqCst) as u64;
        assert_eq!(depth(&store).await.0, expected, "dropped after {polls} polls");
    }
    assert!(answered < 110, "{answered} of 120 were answered: too few were dropped");
    let stored = stored(&store).await;
    assert!(stored.chunks(3).all(|batch| batch == ["a", "b", "c"]));
}

#[tokio::test]
async fn a_request_that_fails_stores_what_leaves_always_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded(folder.path()).await;
    let (layer, _relay) = layer(store.clone());
    for status in [StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR] {
        assert_eq!(get(answering(layer.clone(), status)).await.status(), status);
    }
    assert_eq!(stored(&store).await, ["audit", "audit"]);
    let failing = app(layer.clone(), |queue: MessageQueue| async move {
        enqueue(&queue, ["a"]);
        StatusCode::CONFLICT
    });
    assert_eq!(failing.oneshot(request()).await.unwrap().status(), StatusCode::CONFLICT);
    layer.in_flight().wait_idle().await;
    assert_eq!(depth(&store).await, (2, 0));
}

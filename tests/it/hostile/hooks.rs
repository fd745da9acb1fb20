//! Hooks of the app that panic: of the layer, of a messenger, of the pool of a database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::messenger::Overloaded;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::{SqlStoreSettings, SqliteStore};
use tower_outbox::{Failure, MessageQueue, MessagingLayer, Messenger};
use tracing::Level;

use crate::support::messengers::{down, recording};
use crate::support::stores::{STUCK, until};
use crate::support::{app, enqueue, enqueue_a, get, logs, messages};

/// Enqueues `a`, and `audit` that leaves in any case.
async fn enqueue_both(queue: MessageQueue) {
    enqueue(&queue, ["a"]);
    enqueue(&queue.always(), ["audit"]);
}

/// Layers with one hook that panics.
fn panicking(layer: &MessagingLayer) -> [MessagingLayer; 3] {
    let odd = |topic: &'static str| {
        layer
            .clone()
            .with_enrich(move |_, _, message| assert!(message.topic().as_str() != topic, "it panics"))
    };
    [layer.clone().with_success(|_| panic!("it panics")), odd("a"), odd("audit")]
}

#[tokio::test]
async fn a_hook_of_the_layer_that_panics_is_as_a_handler_that_panics() {
    for index in 0..3 {
        let (inner, sent) = recording();
        let (background, worker) = Background::new(inner, BackgroundSettings::default().with_max_messages(1));
        let worker = tokio::spawn(worker.with_graceful_shutdown(std::future::pending(), STUCK));
        let layer = MessagingLayer::new(background);
        let log = logs::listen();
        let odd = app(panicking(&layer)[index].clone(), enqueue_both).layer(CatchPanicLayer::new());
        for _ in 0..5 {
            let post = http::Request::post("/").body(axum::body::Body::empty()).unwrap();
            assert_eq!(odd.clone().oneshot(post).await.unwrap().status(), 500, "hook {index}");
            layer.in_flight().wait_idle().await;
        }
        assert_eq!(sent.topics(), ["audit"; 5], "hook {index}");
        assert_eq!(
            log.find(Level::INFO, &["messages", "reason"]).len(),
            5,
            "hook {index}: {:?}",
            log.events()
        );
        // Nothing is left reserved.
        let post = http::Request::post("/").body(axum::body::Body::empty()).unwrap();
        assert_eq!(app(layer.clone(), enqueue_a).oneshot(post).await.unwrap().status(), 200);
        layer.in_flight().wait_idle().await;
        assert_eq!(sent.topics().len(), 6);
        worker.abort();
    }
}

#[tokio::test]
async fn a_hook_for_what_is_unsent_that_panics_changes_no_answer() {
    let refusing = down(Failure::transient(Overloaded::new("it is full")));
    let layer = MessagingLayer::new(refusing).with_on_unsent(|_| panic!("it panics"));
    assert_eq!(get(app(layer, enqueue_a)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

async fn file(options: SqlitePoolOptions) -> (TempDir, SqlitePool) {
    let folder = tempfile::tempdir().unwrap();
    let file = SqliteConnectOptions::new().filename(folder.path().join("app.db")).create_if_missing(true);
    let pool = options.connect_with(file).await.unwrap();
    SqliteStore::migrate(&pool, &SqlStoreSettings::default()).await.unwrap();
    (folder, pool)
}

#[tokio::test]
async fn a_relay_goes_on_when_a_hook_of_its_pool_has_panicked() {
    let panics = Arc::new(AtomicUsize::new(0));
    let hook = Arc::clone(&panics);
    let options = SqlitePoolOptions::new().before_acquire(move |_, _| {
        let less = |left: usize| left.checked_sub(1);
        let left = hook.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        assert!(left.is_err(), "it panics");
        Box::pin(async { Ok(true) })
    });
    let (_folder, pool) = file(options).await;
    let settings = SqlStoreSettings::default().with_lease(Duration::from_millis(300));
    let store = SqliteStore::open(pool, &settings).await.unwrap();
    let (inner, sent) = recording();
    let (outbox, relay) = Outbox::new(inner, Arc::new(store), RelaySettings::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let relay = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, STUCK));
    outbox.send(messages(["a"])).await.unwrap();
    until("a leaves", async || sent.topics() == ["a"]).await;
    // Enough for every task that asks for a connection.
    panics.store(12, Ordering::SeqCst);
    until("all have panicked", async || panics.load(Ordering::SeqCst) == 0).await;
    outbox.send(messages(["b"])).await.unwrap();
    until("b leaves", async || sent.topics() == ["a", "b"]).await;
    stop.send(()).unwrap();
    assert_eq!(relay.await.unwrap().pending, 0);
}

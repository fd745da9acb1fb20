//! Code of the app that panics, and times without end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use http::StatusCode;
use tokio::sync::oneshot;
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::layer::OnSendFailure;
use tower_outbox::message::Settlement;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::source::{self, Source, SourceError};
use tower_outbox::store::{
    Counts, EmbeddedStore, EmbeddedStoreSettings, EntryState, Filter, Lease, Leased, Page, Store, StoreError,
    Unstored,
};
use tower_outbox::testing::Memory;
use tower_outbox::{
    Bus, Consumer, Failure, Message, MessagingLayer, Messenger, Settings, Unsent, async_trait,
};

use crate::support::messengers::{fake, recording};
use crate::support::stores::{STUCK, open, until};
use crate::support::{MINUTE, app, enqueue_a, get, logs, message, messages, soon};

/// An error that nobody can read.
struct Unreadable(&'static str);

impl fmt::Debug for Unreadable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("Debug panics")
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(self.0 != "Display", "Display panics");
        f.write_str("it says something")
    }
}

impl std::error::Error for Unreadable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.0 {
            "source" => panic!("source() panics"),
            // Its own cause, for ever.
            "cycle" => Some(self),
            _ => None,
        }
    }
}

const UNREADABLE: [&str; 3] = ["Display", "source", "cycle"];

/// Hands back messages of the topic `odd`, each time with an error that nobody can read; sends the others.
fn unreadable(
    kind: &'static str,
    failure: fn(Unreadable) -> Failure,
) -> (impl Messenger, tower_outbox::testing::Sent) {
    let (inner, sent) = recording();
    let inner = Arc::new(inner);
    let messenger = fake(move |batch: Vec<Message>| {
        let inner = Arc::clone(&inner);
        async move {
            let (odd, even) = batch.into_iter().partition(|message| message.topic().as_str() == "odd");
            inner.send(even).await.unwrap();
            Unsent::new(odd, &failure(Unreadable(kind))).into_result()
        }
    });
    (messenger, sent)
}

#[tokio::test]
async fn a_relay_goes_on_when_an_error_of_its_messenger_cannot_be_read() {
    for kind in UNREADABLE {
        for failure in [|error| Failure::rejected(error), |error| Failure::transient(error)] {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&EmbeddedStoreSettings::new(folder.path())).await.unwrap();
            let (messenger, sent) = unreadable(kind, failure);
            let settings = RelaySettings::default().with_max_attempts(2);
            let (outbox, relay) = Outbox::new(messenger, Arc::new(store), settings);
            let handle = outbox.handle();
            let (stop, stopped) = oneshot::channel::<()>();
            let relay = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, STUCK));
            outbox.send(messages(["a", "odd", "b"])).await.unwrap();
            let mut dead = Filter::default();
            dead.state = Some(EntryState::Dead);
            until("odd is a dead letter", async || handle.count(&dead).await.unwrap() == 1).await;
            until("the others have left", async || sent.topics().len() == 2).await;
            outbox.send(messages(["c"])).await.unwrap();
            until("the next leaves", async || sent.topics() == ["a", "b", "c"]).await;
            assert!(outbox.health().await.is_up());
            stop.send(()).unwrap();
            assert_eq!(relay.await.unwrap().pending, 0, "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_background_worker_goes_on_when_an_error_of_its_messenger_cannot_be_read() {
    for kind in UNREADABLE {
        let (messenger, sent) = unreadable(kind, Failure::rejected);
        let (background, worker) = Background::new(messenger, BackgroundSettings::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = tokio::spawn(worker.with_graceful_shutdown(async { drop(stopped.await) }, MINUTE));
        background.send(messages(["a", "odd", "b"])).await.unwrap();
        background.send(messages(["c"])).await.unwrap();
        soon(sent.flushed()).await;
        assert!(background.health().await.is_up());
        stop.send(()).unwrap();
        assert!(worker.await.unwrap().is_empty());
        assert_eq!(sent.topics(), ["a", "b", "c"], "{kind}");
    }
}

#[tokio::test]
async fn a_request_is_answered_when_an_error_of_the_messenger_cannot_be_read() {
    for kind in UNREADABLE {
        let failing =
            fake(move |batch| async move { Err(Unsent::new(batch, &Failure::transient(Unreadable(kind)))) });
        let layer = MessagingLayer::new(failing).with_on_send_failure(OnSendFailure::Reject);
        let response = get(app(layer, enqueue_a)).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{kind}");
    }
}

#[tokio::test]
async fn a_log_line_holds_no_line_breaks_and_has_an_end() {
    let log = logs::listen();
    let failing = fake(move |batch| async move {
        let error = format!("first\nERROR forged line\u{1b}[31m {}", "x".repeat(100_000));
        Err(Unsent::new(batch, &Failure::transient(error)))
    });
    get(app(MessagingLayer::new(failing), enqueue_a)).await;
    let [unsent] = &log.unsent()[..] else { panic!("one event: {:?}", log.events()) };
    let line = unsent.to_string();
    assert!(line.len() < 5_000 && !line.contains(['\n', '\u{1b}']), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_goes_on_when_an_error_of_its_service_cannot_be_read() {
    for kind in UNREADABLE {
        let bus = Memory::new();
        bus.send(messages(["a"])).await.unwrap();
        let service = tower::service_fn(move |_: axum::extract::Request| async move {
            Err::<axum::response::Response, _>(Unreadable(kind))
        });
        let idle = bus.clone();
        soon(
            Consumer::new(bus.clone(), service)
                .with_graceful_shutdown(async move { idle.wait_idle().await }, MINUTE),
        )
        .await;
        assert_eq!(bus.dead_letters().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_without_end_is_a_long_wait() {
    let bus = Memory::new();
    bus.send(messages(["a", "b"])).await.unwrap();
    let later = || async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", u64::MAX.to_string())]) };
    let router = Router::new().route("/a", post(later)).route("/b", post(|| async {}));
    let consumer = Consumer::new(bus.clone(), router);
    let handle = consumer.handle();
    let settled = async move {
        while handle.status().retried + handle.status().acked < 2 || handle.status().handling > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(consumer.with_graceful_shutdown(settled, Duration::MAX)).await;
    assert_eq!(bus.len(), 1);
}

#[tokio::test]
async fn a_shutdown_with_a_deadline_without_end_waits_for_all() {
    for delivery in ["direct", "background", "durable"] {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "BACKEND = 'memory'\nDELIVERY = '{delivery}'\n[OUTBOX]\nPATH = {:?}\nMAX_BACKOFF = '{}s'\nEXPIRY = '{}s'",
            folder.path().join("outbox"),
            u64::MAX,
            u64::MAX,
        );
        let settings: Settings = toml::from_str(&text).unwrap();
        let bus = Bus::start(&settings).await.unwrap();
        assert_eq!(get(app(bus.layer(), enqueue_a)).await.status(), StatusCode::OK);
        let left = tokio::time::timeout(STUCK, bus.shutdown(Duration::MAX)).await.unwrap();
        assert!(left.is_clean() && left.stored == 0, "{delivery}: {left:?}");
    }
}

#[tokio::test]
async fn a_lease_without_end_is_one() {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
    use tower_outbox::store::{SqlStoreSettings, SqliteStore};

    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(folder.path().join("app.db")).create_if_missing(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let settings = SqlStoreSettings::default().with_lease(Duration::MAX).with_inbox_retention(Duration::MAX);
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool, &settings).await.unwrap();
    let (inner, sent) = recording();
    let settings = RelaySettings::default().with_max_backoff(Duration::MAX).with_expiry(Duration::MAX);
    let (outbox, relay) = Outbox::new(inner, Arc::new(store), settings);
    let (stop, stopped) = oneshot::channel::<()>();
    let relay = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, Duration::MAX));
    let never = message("never").with_delay(Duration::MAX);
    outbox.send(vec![message("a"), never]).await.unwrap();
    until("it leaves", async || sent.topics() == ["a"]).await;
    stop.send(()).unwrap();
    assert_eq!(tokio::time::timeout(STUCK, relay).await.unwrap().unwrap().pending, 1);
}

/// A store that panics so often when it is to lease, and when it is to settle; and so often gives nothing.
struct Panicking(EmbeddedStore, Arc<[AtomicUsize; 3]>);

fn is_one_of(left: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
}

fn panic_as_often_as(left: &AtomicUsize) {
    assert!(!is_one_of(left), "it panics");
}

#[async_trait]
impl Store for Panicking {
    async fn append(&self, batch: Vec<Message>) -> Result<(), Unstored> {
        self.0.append(batch).await
    }
    async fn lease(&self, limit: usize) -> Result<Vec<Leased>, StoreError> {
        panic_as_often_as(&self.1[0]);
        if is_one_of(&self.1[2]) { Ok(Vec::new()) } else { self.0.lease(limit).await }
    }
    async fn settle(&self, settled: &[(Lease, Settlement)]) -> Result<(), StoreError> {
        panic_as_often_as(&self.1[1]);
        self.0.settle(settled).await
    }
    async fn list(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        self.0.list(filter, after, limit).await
    }
    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<usize, StoreError> {
        self.0.requeue(positions, pace).await
    }
    async fn drop_messages(&self, positions: &[u64]) -> Result<usize, StoreError> {
        self.0.drop_messages(positions).await
    }
    async fn counts(&self) -> Result<Counts, StoreError> {
        self.0.counts().await
    }
    fn location(&self) -> String {
        self.0.location()
    }
    async fn close(&self) {
        self.0.close().await;
    }
}

#[tokio::test]
async fn a_relay_whose_store_panics_is_down_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&EmbeddedStoreSettings::new(folder.path())).await.unwrap();
    let panics = Arc::new([usize::MAX, 2, 0].map(AtomicUsize::new));
    let (inner, sent) = recording();
    let store = Panicking(store, Arc::clone(&panics));
    let (outbox, relay) = Outbox::new(inner, Arc::new(store), RelaySettings::default());
    outbox.send(messages(["a", "b"])).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let relay = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, STUCK));
    until("it is down", async || !outbox.health().await.is_up()).await;
    panics[0].store(0, Ordering::SeqCst);
    until("both leave", async || sent.topics() == ["a", "b"]).await;
    assert!(outbox.health().await.is_up());
    let handle = outbox.handle();
    until("both are settled", async || handle.status().await.unwrap().counts.pending == 0).await;
    stop.send(()).unwrap();
    assert_eq!(relay.await.unwrap().pending, 0);
}

#[tokio::test]
async fn a_relay_whose_store_gives_nothing_is_down_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&EmbeddedStoreSettings::new(folder.path())).await.unwrap();
    let empty = Arc::new([0, 0, usize::MAX].map(AtomicUsize::new));
    let (inner, sent) = recording();
    let (outbox, relay) =
        Outbox::new(inner, Arc::new(Panicking(store, Arc::clone(&empty))), RelaySettings::default());
    outbox.send(messages(["a"])).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let relay = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, STUCK));
    until("it is down", async || !outbox.health().await.is_up()).await;
    empty[2].store(0, Ordering::SeqCst);
    until("it leaves", async || sent.topics() == ["a"]).await;
    assert!(outbox.health().await.is_up());
    stop.send(()).unwrap();
    assert_eq!(relay.await.unwrap().pending, 0);
}

#[tokio::test]
async fn a_relay_that_was_dropped_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&EmbeddedStoreSettings::new(folder.path())).await.unwrap();
    let (outbox, relay) = Outbox::new(recording().0, Arc::new(store), RelaySettings::default());
    assert!(outbox.health().await.is_up(), "another process may run the relay");
    let relay = tokio::spawn(relay.with_graceful_shutdown(std::future::pending(), STUCK));
    tokio::task::yield_now().await;
    relay.abort();
    relay.await.unwrap_err();
    assert!(!outbox.health().await.is_up());
}

#[tokio::test]
async fn a_background_worker_that_was_dropped_is_down() {
    let (background, worker) = Background::new(recording().0, BackgroundSettings::default());
    assert!(background.health().await.is_up());
    drop(worker);
    assert!(!background.health().await.is_up());
}

/// A source that panics as often as this, and when it is paused or closed.
struct PanickingSource(Memory, AtomicUsize);

#[async_trait]
impl Source for PanickingSource {
    async fn receive(&self, limit: usize) -> Result<Vec<source::Unsettled>, SourceError> {
        panic_as_often_as(&self.1);
        self.0.receive(limit).await
    }
    async fn pause(&self) {
        panic!("the source panics");
    }
    async fn close(&self, _: Duration) {
        panic!("the source panics");
    }
    fn name(&self) -> Arc<str> {
        "panicking".into()
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_whose_source_panics_goes_on() {
    let bus = Memory::new();
    bus.send(messages(["a", "b"])).await.unwrap();
    let router = Router::new().route("/a", post(|| async {})).route("/b", post(|| async {}));
    let consumer = Consumer::new(PanickingSource(bus.clone(), AtomicUsize::new(3)), router);
    let handle = consumer.handle();
    let idle = bus.clone();
    soon(consumer.with_graceful_shutdown(async move { idle.wait_idle().await }, MINUTE)).await;
    assert_eq!(handle.status().acked, 2);
}

/// A received message may be older than 1970.
#[test]
fn a_message_of_any_time_is_a_line_of_json_or_an_error() {
    use tower_outbox::amqp091::{from_json_line, to_json_line};
    let epoch = std::time::SystemTime::UNIX_EPOCH;
    let line = |time| to_json_line(&Message::json("a", &serde_json::json!({})).unwrap().with_time(time));
    let landing = epoch - Duration::from_secs(14_182_940);
    let text = line(landing + Duration::from_millis(900)).unwrap();
    assert!(text.contains(r#""sent-at":"1969-07-20T20:17:40+00:00""#), "{text}");
    assert_eq!(from_json_line(&text).unwrap().time(), landing);
    for time in [epoch + Duration::from_secs(253_402_300_800), epoch - Duration::from_secs(1 << 40)] {
        let error = std::error::Error::source(&line(time).unwrap_err()).unwrap().to_string();
        assert!(error.contains("before the year 0 or after 9999"), "{error}");
    }
}

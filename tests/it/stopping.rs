//! Shutdown: consumers first, then sends, the relay and the connections. Nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tower_outbox::bus::ServeError;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, Filter, Store};
use tower_outbox::{Bus, EnqueueError, Message, MessageQueue, Settings};

use crate::peers::{Brokers, RabbitQueue, numbered, sequence, unique};
use crate::support::messengers::fake;
use crate::support::stores::until;
use crate::support::{MINUTE, enqueue, messages};

const STUCK: Duration = Duration::from_secs(30);

/// A bus over a queue on disk, which survives it.
async fn bus(folder: &std::path::Path) -> Bus {
    let text = format!("BACKEND = 'embedded'\nPATH = '{}'\n[CONSUMERS.users]", folder.display());
    Bus::start(&toml::from_str::<Settings>(&text).unwrap()).await.unwrap()
}

/// A handler that waits to be let on, then enqueues a message.
#[derive(Clone, Default)]
struct Slow {
    begun: Arc<Notify>,
    go: Arc<Notify>,
}

impl Slow {
    fn router(&self) -> Router {
        let slow = self.clone();
        let handle = move |queue: MessageQueue| async move {
            slow.begun.notify_one();
            slow.go.notified().await;
            queue.enqueue(Message::new("mail.sent", "").unwrap()).map(|_| StatusCode::OK)
        };
        Router::new().route("/user/created", post(handle.clone())).route("/", get(handle))
    }
}

/// The topics of the messages in the queue of a bus that has stopped.
async fn left(folder: &std::path::Path) -> Vec<String> {
    let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(folder)).await.unwrap();
    let page = store.list(&Filter::default(), None, 10).await.unwrap();
    page.entries.iter().map(|entry| entry.message.as_ref().unwrap().topic().to_string()).collect()
}

#[tokio::test]
async fn a_consumer_in_mid_message_finishes_before_the_bus_closes_its_connections() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, slow) = (bus(folder.path()).await, Slow::default());
    bus.messenger().send(messages(["user.created"])).await.unwrap();
    let consumer = tokio::spawn(bus.consumer("users", slow.router()).unwrap().into_future());
    slow.begun.notified().await;
    let shutdown = async {
        let stopped = bus.shutdown(MINUTE);
        tokio::pin!(stopped);
        assert!(timeout(Duration::from_millis(50), &mut stopped).await.is_err(), "it waits for the handler");
        slow.go.notify_one();
        stopped.await
    };
    assert!(timeout(STUCK, shutdown).await.unwrap().is_clean());
    assert_eq!(consumer.await.unwrap(), 0);
    drop(bus);
    assert_eq!(left(folder.path()).await, ["mail.sent"]);
}

#[tokio::test]
async fn a_handler_that_hangs_is_stopped_in_time_and_its_message_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, slow) = (bus(folder.path()).await, Slow::default());
    bus.messenger().send(messages(["user.created"])).await.unwrap();
    let consumer = tokio::spawn(bus.consumer("users", slow.router()).unwrap().into_future());
    slow.begun.notified().await;
    let begun = Instant::now();
    assert!(bus.shutdown(Duration::from_millis(400)).await.is_clean());
    assert!((300..4_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!(timeout(STUCK, consumer).await.unwrap().unwrap(), 1);
    drop(bus);
    assert_eq!(left(folder.path()).await, ["user.created"]);
}

#[tokio::test]
async fn a_consumer_that_begins_after_the_shutdown_receives_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bus = bus(folder.path()).await;
    bus.messenger().send(messages(["user.created"])).await.unwrap();
    let consumer = bus.consumer("users", Slow::default().router()).unwrap();
    assert!(bus.shutdown(MINUTE).await.is_clean());
    assert_eq!(timeout(STUCK, consumer).await.unwrap(), 0);
    drop(bus);
    assert_eq!(left(folder.path()).await, ["user.created"]);
}

#[tokio::test]
async fn serve_finishes_requests_and_messages_before_the_bus_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, handler, receiver) = (bus(folder.path()).await, Slow::default(), Slow::default());
    bus.messenger().send(messages(["user.created"])).await.unwrap();
    let consumer = tokio::spawn(bus.consumer("users", receiver.router()).unwrap().into_future());
    receiver.begun.notified().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let app = handler.router().layer(bus.layer());
    let serve = bus.serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) }, MINUTE);
    let client = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        handler.begun.notified().await;
        stop.send(()).unwrap();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        handler.go.notify_one();
        receiver.go.notify_one();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    };
    let (served, ()) = timeout(STUCK, async { tokio::join!(serve.into_future(), client) }).await.unwrap();
    served.unwrap();
    assert_eq!(consumer.await.unwrap(), 0);
    drop(bus);
    assert_eq!(left(folder.path()).await, ["mail.sent", "mail.sent"]);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let listener = Bus::listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = format!("{:?}", Bus::listen(address.as_str()).await.unwrap_err());
    assert!(error.contains(&format!("cannot listen on {address}")) && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn serve_ends_at_its_deadline_and_returns_the_unsent_messages() {
    let settings: Settings = toml::from_str("BACKEND = 'own'\nDELIVERY = 'background'").unwrap();
    let hangs = |_: &_| Ok::<_, std::convert::Infallible>(fake(|_| std::future::pending()));
    let bus = Bus::builder(&settings).with_backend("own", hangs).start().await.unwrap();
    let app = Router::new().route("/", get(async |queue: MessageQueue| enqueue(&queue, ["a"])));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (answered, stop) = oneshot::channel::<()>();
    let deadline = Duration::from_millis(300);
    let serve = bus
        .serve(listener, app.layer(bus.layer()))
        .with_graceful_shutdown(async { drop(stop.await) }, deadline);
    let client = async {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        answered.send(()).unwrap();
    };
    let (served, ()) = timeout(STUCK, async { tokio::join!(serve.into_future(), client) }).await.unwrap();
    let Err(ServeError::Unsent(left)) = served else { panic!("{served:?}") };
    assert_eq!(left.left.len(), 1);
}

/// Two lives of an app: the first is shut down in mid-stream.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_shutdown_in_mid_stream_loses_nothing_and_makes_no_dead_letters() {
    const MESSAGES: usize = 200;
    let brokers = Brokers::running();
    let (topic, done) = (unique("stopping"), unique("stopping.done"));
    let followed = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &done).await;
    let text = format!(
        "BACKEND = 'amqp091'\nURLS = '{}'\nMANDATORY = true\n[CONSUMERS.users]\nQUEUE = '{topic}'\nBINDINGS = ['{topic}']\nCONCURRENCY = 8",
        brokers.get("RABBIT1_AMQP"),
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    let (handled, half) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let router = Router::new().fallback({
        let (handled, half, done) = (Arc::clone(&handled), Arc::clone(&half), done.clone());
        move |queue: MessageQueue, body: String| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            queue.enqueue(Message::json(done.clone(), &body).unwrap())?;
            if handled.fetch_add(1, Ordering::Relaxed) == MESSAGES / 2 {
                half.notify_one();
            }
            Ok::<_, EnqueueError>(())
        }
    });
    let start = async || {
        let bus = Bus::start(&settings).await.unwrap();
        let consumer = tokio::spawn(bus.consumer("users", router.clone()).unwrap().into_future());
        (bus, consumer)
    };
    let (bus, consumer) = start().await;
    // Mandatory: rejected until the queue is there.
    until("the queue is there", async || bus.messenger().send(numbered(&topic, 1)).await.is_ok()).await;
    bus.messenger().send(numbered(&topic, MESSAGES)).await.unwrap();
    timeout(STUCK, half.notified()).await.unwrap();
    assert!(bus.shutdown(STUCK).await.is_clean());
    assert_eq!(consumer.await.unwrap(), 0, "every handler has ended");
    assert!(handled.load(Ordering::Relaxed) < MESSAGES, "it stopped in mid-stream");
    let (bus, consumer) = start().await;
    until("the rest is handled", async || handled.load(Ordering::Relaxed) > MESSAGES).await;
    assert!(bus.shutdown(STUCK).await.is_clean());
    assert_eq!(consumer.await.unwrap(), 0);
    assert_eq!(handled.load(Ordering::Relaxed), MESSAGES + 1, "an acknowledged message does not come again");
    let mut numbers = sequence(&followed.drain().await);
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (0..MESSAGES as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_redirect_of_a_message_handler_sends_nothing_whatever_success_says() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "BACKEND = 'embedded'\nSUCCESS = '2xx,3xx'\nPATH = '{}'\n[CONSUMERS.users]",
        folder.path().display()
    );
    let bus = Bus::start(&toml::from_str::<Settings>(&text).unwrap()).await.unwrap();
    bus.messenger().send(messages(["user.created"])).await.unwrap();
    let handled = Arc::new(Notify::new());
    let router = Router::new().fallback({
        let handled = Arc::clone(&handled);
        move |queue: MessageQueue| async move {
            enqueue(&queue, ["mail.sent"]);
            handled.notify_one();
            StatusCode::SEE_OTHER
        }
    });
    let consumer = tokio::spawn(bus.consumer("users", router).unwrap().into_future());
    timeout(STUCK, handled.notified()).await.unwrap();
    assert!(bus.shutdown(STUCK).await.is_clean());
    assert_eq!(consumer.await.unwrap(), 0);
    drop(bus);
    assert_eq!(left(folder.path()).await, ["user.created"], "a dead letter, without its follow-up");
}

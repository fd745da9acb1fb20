//! One message is at fault: its neighbours are not blamed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::post;
use http::{Request, StatusCode};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_outbox::amqp091::{Amqp091, Amqp091Settings};
use tower_outbox::layer::OnSendFailure;
use tower_outbox::outbox::{Outbox, OutboxHandle, RelaySettings};
use tower_outbox::store::{EmbeddedStoreSettings, Filter};
use tower_outbox::{Message, MessageQueue, MessagingLayer, Messenger};

use crate::peers::{Brokers, RabbitQueue, numbered, sequence, unique};
use crate::support::frames::{HEADER, METHOD, Then, Way, changed, connection_close};
use crate::support::stores;

/// An expiration that arrives as none at the broker, which closes the channel over it (406).
const EXPIRY: Duration = Duration::from_millis(987_654_321);
/// A number that arrives as none at the broker, which closes the connection over it (541).
const NUMBER: f64 = 1234.5;
/// A header over which the connection is reset.
const RESET: &str = "reset-over-me";

fn see(frame: &[u8]) -> Then {
    if frame[0] != HEADER {
        return Then::Pass;
    }
    let nan = f64::NAN.to_be_bytes();
    let other =
        changed(frame, b"987654321", b"x87654321").or_else(|| changed(frame, &NUMBER.to_be_bytes(), &nan));
    match other {
        Some(other) => Then::Change(other),
        None if changed(frame, RESET.as_bytes(), RESET.as_bytes()).is_some() => Then::Cut,
        None => Then::Pass,
    }
}

async fn way(brokers: &Brokers) -> Way {
    Way::to(brokers.get("RABBIT1_AMQP"), see).await
}

fn messenger(way: &Way) -> Amqp091 {
    Amqp091::new(&Amqp091Settings::new([&way.url])).unwrap()
}

/// Closes the channel.
fn bad(message: Message) -> Message {
    message.with_expiry(EXPIRY)
}

/// Closes the connection.
fn worse(message: Message) -> Message {
    message.with_header("number", NUMBER)
}

/// Cuts the connection, and nobody says why.
fn worst(message: Message) -> Message {
    message.with_header("word", RESET)
}

fn harmless(message: Message) -> Message {
    message
}

/// The messages of a batch, made bad where `at` says so.
fn batch(topic: &str, count: usize, at: &[usize], spoil: fn(Message) -> Message) -> Vec<Message> {
    let one = |(n, message)| if at.contains(&n) { spoil(message) } else { message };
    numbered(topic, count).into_iter().enumerate().map(one).collect()
}

/// Sends a batch with bad ones in it: just these come back, rejected, and the others arrive.
async fn just_the_bad_come_back(at: &[usize], count: usize, spoil: fn(Message) -> Message) {
    let brokers = Brokers::running();
    let topic = unique("blame");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let way = way(&brokers).await;
    let messenger = messenger(&way);
    let batch = batch(&topic, count, at, spoil);
    let guilty: Vec<_> = at.iter().map(|at| batch[*at].id()).collect();
    let unsent = messenger.send(batch).await.unwrap_err();
    let back: Vec<_> = unsent.iter().map(|(message, failure)| (message.id(), failure.kind())).collect();
    let expected: Vec<_> = guilty.into_iter().map(|id| (id, "rejected")).collect();
    assert_eq!(back, expected, "{unsent}");
    let mut arrived = sequence(&queue.drain().await);
    arrived.sort_unstable();
    arrived.dedup();
    let innocent: Vec<_> = (0..count).filter(|n| !at.contains(n)).map(|n| n as u64).collect();
    assert_eq!(arrived, innocent);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_the_message_that_closes_the_channel_is_rejected() {
    just_the_bad_come_back(&[1], 4, bad).await;
    just_the_bad_come_back(&[0, 17, 18, 49], 50, bad).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_the_message_that_closes_the_connection_is_rejected() {
    just_the_bad_come_back(&[1], 4, worse).await;
    just_the_bad_come_back(&[0, 30], 40, worse).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_the_message_that_cuts_the_connection_is_transient() {
    let brokers = Brokers::running();
    let topic = unique("blame");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let way = way(&brokers).await;
    let messenger = messenger(&way);
    messenger.send(numbered("a", 1)).await.unwrap();
    let unsent = messenger.send(batch(&topic, 8, &[3], worst)).await.unwrap_err();
    assert_eq!(unsent.len(), 1, "{unsent}");
    let (message, failure) = unsent.iter().next().unwrap();
    assert!(message.header("word").is_some() && failure.is_transient(), "{unsent}");
    let mut arrived = sequence(&queue.drain().await);
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, [0, 1, 2, 4, 5, 6, 7]);
}

/// RabbitMQ's own limit, 128 MiB, which nobody knows before it was told.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_the_message_with_too_large_a_body_is_rejected() {
    let brokers = Brokers::running();
    let topic = unique("blame");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let messenger = Amqp091::new(&Amqp091Settings::new([brokers.get("RABBIT1_AMQP")])).unwrap();
    let large = Message::new(topic.clone(), vec![b'x'; (128 << 20) + 1]).unwrap();
    messenger.check(&large).unwrap();
    let mut batch = numbered(&topic, 4);
    batch[1] = large.clone();
    let unsent = messenger.send(batch).await.unwrap_err();
    let back: Vec<_> = unsent.iter().map(|(message, failure)| (message.id(), failure.kind())).collect();
    assert_eq!(back, [(large.id(), "rejected")], "{unsent}");
    let mut arrived = sequence(&queue.drain().await);
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, [0, 2, 3]);
    let refused = messenger.check(&large).unwrap_err().to_string();
    assert!(refused.contains("max_message_size"), "{refused}");
}

/// An app whose handler enqueues a message, as the path wants it.
fn app(messenger: Amqp091, topic: &str) -> Router {
    let topic = topic.to_owned();
    let handler = move |queue: MessageQueue, Path(kind): Path<String>| {
        let message = numbered(&topic, 1).remove(0);
        let spoil = match kind.as_str() {
            "bad" => bad,
            "worse" => worse,
            _ => harmless,
        };
        std::future::ready(queue.enqueue(spoil(message)).map(|_| StatusCode::CREATED))
    };
    let layer = MessagingLayer::new(messenger).with_on_send_failure(OnSendFailure::Reject);
    Router::new().route("/{kind}", post(handler)).layer(layer)
}

/// Many requests at once, of which `each` round has one bad: all others are answered by 201.
async fn just_the_bad_request_fails(kind: &'static str) {
    let brokers = Brokers::running();
    let topic = unique("blame");
    let way = way(&brokers).await;
    let app = app(messenger(&way), &topic);
    let call = async |app: Router, kind: &str| {
        let request = Request::post(format!("/{kind}")).body(Body::empty()).unwrap();
        app.oneshot(request).await.unwrap().status()
    };
    assert_eq!(call(app.clone(), "good").await, StatusCode::CREATED);
    for round in 0..5 {
        let mut requests = JoinSet::new();
        for n in 0..20 {
            let (app, is_bad) = (app.clone(), n == round * 4);
            requests.spawn(async move { (is_bad, call(app, if is_bad { kind } else { "good" }).await) });
        }
        while let Some(ended) = requests.join_next().await {
            let (is_bad, status) = ended.unwrap();
            let expected = if is_bad { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CREATED };
            assert_eq!(status, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn of_many_requests_just_the_one_that_closes_the_channel_fails() {
    just_the_bad_request_fails("bad").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_the_request_that_closes_the_connection_fails() {
    just_the_bad_request_fails("worse").await;
}

/// An outbox before this messenger, with its relay running.
async fn durable(messenger: Amqp091, folder: &std::path::Path) -> (Outbox<Amqp091>, OutboxHandle) {
    let store = stores::open(&EmbeddedStoreSettings::new(folder)).await.unwrap();
    let settings = RelaySettings::default().with_max_attempts(4).with_max_backoff(Duration::from_millis(20));
    let (outbox, relay) = Outbox::new(messenger, Arc::new(store), settings);
    tokio::spawn(relay.into_future());
    let handle = outbox.handle();
    (outbox, handle)
}

async fn until_left(handle: &OutboxHandle, dead: u64) {
    stores::until("nothing is pending", async || handle.status().await.unwrap().counts.pending == 0).await;
    assert_eq!(handle.status().await.unwrap().counts.dead, dead);
}

/// Stores messages with bad ones among them: just these become dead letters.
async fn just_the_bad_are_dead_letters(spoil: fn(Message) -> Message, reason: &str) {
    let brokers = Brokers::running();
    let topic = unique("blame");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let way = way(&brokers).await;
    let folder = tempfile::tempdir().unwrap();
    let (outbox, handle) = durable(messenger(&way), folder.path()).await;
    let batch = batch(&topic, 50, &[7, 31], spoil);
    let guilty: HashSet<_> = [batch[7].id(), batch[31].id()].into();
    outbox.send(batch).await.unwrap();
    until_left(&handle, 2).await;
    let dead = handle.list(&Filter::default(), None, 10).await.unwrap().entries;
    let ids = dead.iter().filter_map(|entry| Some(entry.message.as_ref()?.id()));
    assert_eq!(ids.collect::<HashSet<_>>(), guilty);
    for entry in dead {
        assert!(entry.explain().contains(reason), "{}", entry.explain());
    }
    let arrived: HashSet<_> = sequence(&queue.drain().await).into_iter().collect();
    assert_eq!(arrived, (0..50).filter(|n| ![7, 31].contains(n)).collect());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_stored_messages_that_close_the_channel_are_dead_letters() {
    just_the_bad_are_dead_letters(bad, "PRECONDITION_FAILED").await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_stored_messages_that_close_the_connection_are_dead_letters() {
    just_the_bad_are_dead_letters(worse, "INTERNAL_ERROR").await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_stored_messages_that_cut_the_connection_become_dead_letters() {
    just_the_bad_are_dead_letters(worst, "given up after 4 attempts").await;
}

/// A broker that goes away over and over, as when it restarts: nobody is at fault.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_that_goes_away_makes_no_dead_letters() {
    let brokers = Brokers::running();
    let forced =
        || Then::Answer(connection_close(320, "CONNECTION_FORCED - broker forced connection closure"));
    for cut in [|| Then::Cut, forced as fn() -> Then] {
        let topic = unique("blame");
        let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
        let ends = AtomicUsize::new(0);
        // The first 12 messages that are published end the connection, wherever they are.
        let see = move |frame: &[u8]| match frame[0] {
            HEADER if ends.fetch_add(1, Ordering::SeqCst) < 12 => cut(),
            _ => Then::Pass,
        };
        let way = Way::to(brokers.get("RABBIT1_AMQP"), see).await;
        let folder = tempfile::tempdir().unwrap();
        let store = stores::open(&EmbeddedStoreSettings::new(folder.path())).await.unwrap();
        let settings = RelaySettings::default().with_max_backoff(Duration::from_millis(20));
        let (outbox, relay) = Outbox::new(messenger(&way), Arc::new(store), settings);
        tokio::spawn(relay.into_future());
        outbox.send(numbered(&topic, 30)).await.unwrap();
        until_left(&outbox.handle(), 0).await;
        let arrived: HashSet<_> = sequence(&queue.drain().await).into_iter().collect();
        assert_eq!(arrived, (0..30).collect());
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_missing_exchange_is_told_a_thousand_messages_with_few_round_trips() {
    let brokers = Brokers::running();
    let way = way(&brokers).await;
    let mut settings = Amqp091Settings::new([&way.url]);
    settings.exchange = Some(unique("missing"));
    let unsent = Amqp091::new(&settings).unwrap().send(numbered("a", 1_000)).await.unwrap_err();
    assert_eq!(unsent.len(), 1_000);
    assert!(unsent.iter().all(|(_, failure)| !failure.is_transient()), "{unsent}");
    assert!(way.seen().channels < 10, "{:?}", way.seen());
}

/// Sends a batch of which the broker closes the channel over one message, for a reason that we know nothing of: here 311 in place of 406.
async fn odd_error(see: impl Fn(&[u8]) -> Then + Send + Sync + 'static) -> Way {
    let brokers = Brokers::running();
    let topic = unique("blame");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let odd = |bytes: &[u8]| changed(bytes, &[0, 20, 0, 40, 1, 150], &[0, 20, 0, 40, 1, 55]);
    let way = Way::and_back(brokers.get("RABBIT1_AMQP"), see, odd).await;
    let batch = batch(&topic, 6, &[2], bad);
    let guilty = batch[2].id();
    let unsent = messenger(&way).send(batch).await.unwrap_err();
    let back: Vec<_> = unsent.iter().map(|(message, failure)| (message.id(), failure.kind())).collect();
    assert_eq!(back, [(guilty, "rejected")], "{unsent}");
    let mut arrived = sequence(&queue.drain().await);
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, [0, 1, 3, 4, 5]);
    way
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_odd_error_of_the_channel_blames_just_its_message() {
    odd_error(see).await;
}

/// As when a message was on its way to the socket while the broker closed its channel.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_connection_that_ends_while_a_batch_is_looked_through_blames_just_the_message() {
    let ends = AtomicUsize::new(0);
    let late = move |frame: &[u8]| match (frame[0], &frame[7..]) {
        // After the first channel.close-ok the broker expects channel.open, and gets the frame again.
        (METHOD, [0, 20, 0, 41, ..]) if ends.fetch_add(1, Ordering::SeqCst) == 0 => {
            Then::Change([frame, frame].concat())
        }
        _ => see(frame),
    };
    let way = odd_error(late).await;
    assert!(way.seen().connections > 1, "{:?}", way.seen());
}

/// Others go on while one batch is looked through.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn batches_of_others_pass_while_one_is_looked_through() {
    let brokers = Brokers::running();
    let topic = unique("blame");
    let way = way(&brokers).await;
    let messenger = Arc::new(messenger(&way));
    let mut tasks = JoinSet::new();
    for n in 0..8 {
        let (messenger, topic) = (Arc::clone(&messenger), topic.clone());
        tasks.spawn(async move {
            for _ in 0..10 {
                let at: &[usize] = if n == 0 { &[5] } else { &[] };
                let unsent = messenger.send(batch(&topic, 20, at, bad)).await.err().unwrap_or_default();
                assert_eq!(unsent.len(), at.len(), "{unsent}");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

//! Several engines and other programs on the same channels.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::timeout;
use tower_outbox::channels::jetstream::JetstreamEngine;
use tower_outbox::channels::{
    ChannelKind, ChannelLimits, Channels as AppChannels, Engine, EngineError, Events, Pattern, Policy,
    QueueMessage, Queues, Receive, Settle, Start, StreamSubscription, Streams, Subscribe, Which,
};
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use super::super::{content, message, name};
use super::Channels;

const SOON: Duration = Duration::from_secs(20);
/// Short, so that a dead engine is soon known.
const ACK_WAIT: Duration = Duration::from_secs(2);

async fn send(engine: &JetstreamEngine, bodies: &[&str]) {
    let messages = bodies.iter().map(|body| (name("q"), message((*body).to_owned())));
    for sent in engine.send(messages.collect()).await {
        sent.unwrap();
    }
}

fn wait(max: usize) -> Receive {
    Receive { max, wait: SOON, ..Receive::default() }
}

/// The stream of the queue, and its first sequence.
async fn stream(channels: &Channels) -> (async_nats::jetstream::stream::Stream, u64) {
    let client = async_nats::connect(&channels.url).await.unwrap();
    let stream = format!("{}-queue-q", channels.prefix);
    let stream = async_nats::jetstream::new(client).get_stream(stream).await.unwrap();
    let first = stream.cached_info().state.first_sequence;
    (stream, first)
}

async fn bodies(engine: &JetstreamEngine, max: usize) -> Vec<String> {
    let received = engine.receive(&name("q"), wait(max)).await.unwrap();
    received
        .messages
        .iter()
        .map(|message| String::from_utf8(message.content.body.to_vec()).unwrap())
        .collect()
}

/// Runs an engine until it dies without a word.
async fn dies<T: Send + 'static>(
    channels: &Channels,
    with: impl AsyncFnOnce(JetstreamEngine) -> T + Send + 'static,
) -> T {
    let settings = channels.settings().with_ack_wait(ACK_WAIT);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let got = tokio::task::spawn_blocking(move || {
        handle.block_on(async {
            let engine = JetstreamEngine::open(settings).await.unwrap();
            let got = with(engine.clone()).await;
            // Without a destructor, as in a process that is killed.
            std::mem::forget(engine);
            got
        })
    });
    let got = got.await.unwrap();
    runtime.shutdown_background();
    got
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn two_engines_share_the_messages_of_a_queue() {
    let channels = Channels::new();
    let (one, other) = (channels.open().await, channels.open().await);
    send(&one, &["a", "b", "c"]).await;
    assert_eq!(bodies(&one, 2).await, ["a", "b"]);
    assert_eq!(bodies(&other, 2).await, ["c"]);
    let (waiting, ()) = tokio::join!(bodies(&other, 1), async { send(&one, &["d"]).await });
    assert_eq!(waiting, ["d"]);
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_a_dead_engine_go_to_another_one() {
    let channels = Channels::new();
    dies(&channels, async |engine| {
        send(&engine, &["a", "b"]).await;
        let received = engine.receive(&name("q"), wait(2)).await.unwrap();
        assert_eq!(received.messages.len(), 2);
        engine.settle(received.receipt, Which::Sequences(vec![2]), Settle::Ack).await.unwrap();
    })
    .await;
    let engine = JetstreamEngine::open(channels.settings().with_ack_wait(ACK_WAIT)).await.unwrap();
    let begun = Instant::now();
    let received = engine.receive(&name("q"), wait(2)).await.unwrap();
    let message = &received.messages[0];
    assert_eq!((&*message.content.body, message.receives, message.redelivered), (&b"a"[..], 1, true));
    assert!(begun.elapsed() < SOON / 2);
    engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    assert!(engine.peek(&name("q"), 10, Duration::ZERO).await.unwrap().messages.is_empty());
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_held_message_stays_with_its_engine_beyond_ack_wait() {
    let channels = Channels::new();
    let settings = channels.settings().with_ack_wait(Duration::from_secs(1));
    let (one, other) = (
        JetstreamEngine::open(settings.clone()).await.unwrap(),
        JetstreamEngine::open(settings).await.unwrap(),
    );
    send(&one, &["a"]).await;
    let held = one.receive(&name("q"), Receive { visibility: None, ..wait(1) }).await.unwrap();
    let receive = Receive { wait: Duration::from_secs(3), ..wait(1) };
    assert!(other.receive(&name("q"), receive).await.unwrap().messages.is_empty());
    one.settle(held.receipt, Which::All, Settle::Ack).await.unwrap();
    channels.remove().await;
}

/// A rejected message whose engine dies before its old place is freed must not come twice.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_waits_for_its_retry_is_not_also_at_its_old_place() {
    let channels = Channels::new();
    let copy = dies(&channels, async |engine| {
        send(&engine, &["a"]).await;
        let received = engine.receive(&name("q"), wait(1)).await.unwrap();
        received.messages[0].content.clone()
    })
    .await;
    let jetstream = async_nats::jetstream::new(async_nats::connect(&channels.url).await.unwrap());
    let (stream, first) = stream(&channels).await;
    let word = stream.get_raw_message(first).await.unwrap().subject.rsplit('.').next().unwrap().to_owned();
    let due = humantime::format_rfc3339_micros(std::time::SystemTime::now() + Duration::from_secs(6));
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Schedule", format!("@at {due}").as_str());
    headers.insert("Nats-Schedule-Target", format!("{}.due.q.{word}", channels.prefix).as_str());
    headers.insert("tower-outbox-policy", r#"{"time":1,"receives":1}"#);
    let subject = format!("{}.delayed.q.{word}", channels.prefix);
    jetstream.publish_with_headers(subject, headers, copy.body).await.unwrap().await.unwrap();

    let engine = JetstreamEngine::open(channels.settings().with_ack_wait(ACK_WAIT)).await.unwrap();
    let received = engine.receive(&name("q"), wait(1)).await.unwrap();
    assert_eq!((received.messages[0].receives, received.messages[0].sequence), (2, 2));
    engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    let receive = Receive { wait: Duration::from_secs(3), ..wait(1) };
    assert!(engine.receive(&name("q"), receive).await.unwrap().messages.is_empty());
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn of_two_engines_that_settle_a_message_one_counts() {
    let channels = Channels::new();
    // Its signs do not come, since it dies; its handler goes on in a test only.
    let engine = JetstreamEngine::open(channels.settings()).await.unwrap();
    send(&engine, &["a"]).await;
    let held = engine.receive(&name("q"), wait(1)).await.unwrap();
    let (stream, first) = stream(&channels).await;
    assert!(stream.delete_message(first).await.unwrap());
    let reject = Settle::Reject { delay: Duration::ZERO };
    assert_eq!(engine.settle(held.receipt, Which::All, reject).await.unwrap(), 1);
    assert!(
        engine.peek(&name("q"), 10, Duration::ZERO).await.unwrap().messages.is_empty(),
        "it is not stored again"
    );
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_rejected_message_replaces_itself() {
    let channels = Channels::new();
    let engine = channels.open().await;
    send(&engine, &["a", "b"]).await;
    let (stream, first) = stream(&channels).await;
    let subject = stream.get_raw_message(first).await.unwrap().subject;
    let held = engine.receive(&name("q"), wait(1)).await.unwrap();
    engine.settle(held.receipt, Which::All, Settle::Reject { delay: Duration::ZERO }).await.unwrap();
    assert!(stream.get_raw_message(first).await.is_err(), "its old place is not free");
    assert_eq!(stream.get_raw_message(first + 2).await.unwrap().subject, subject);
    channels.remove().await;
}

/// It is stored and the other one is gone in one step, so that a limit leaves room for it.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_is_rejected_in_a_full_queue() {
    let channels = Channels::new();
    let engine = channels.open().await;
    let limits = ChannelLimits { max_messages: Some(2), ..ChannelLimits::default() };
    engine.create(ChannelKind::Queue, &name("q"), limits).await.unwrap();
    send(&engine, &["a", "b"]).await;
    let held = engine.receive(&name("q"), wait(1)).await.unwrap();
    engine.settle(held.receipt, Which::All, Settle::Reject { delay: Duration::ZERO }).await.unwrap();
    assert_eq!(bodies(&engine, 2).await, ["b", "a"]);
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_came_when_it_was_due_is_not_stored_as_delayed() {
    let channels = Channels::new();
    let engine = channels.open().await;
    let policy = Policy { delay: Duration::from_millis(100), ..Policy::default() };
    let delayed = QueueMessage { policy, ..message("a") };
    engine.send(vec![(name("q"), delayed)]).await.remove(0).unwrap();
    assert_eq!(bodies(&engine, 1).await, ["a"]);
    let jetstream = async_nats::jetstream::new(async_nats::connect(&channels.url).await.unwrap());
    let mut stream = jetstream.get_stream(format!("{}-delayed", channels.prefix)).await.unwrap();
    let is_empty = async { while stream.info().await.unwrap().state.messages > 0 {} };
    timeout(SOON, is_empty).await.expect("it is still stored");
    channels.remove().await;
}

/// As when its schedule fires again at another leader.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_delayed_message_that_is_due_twice_comes_once() {
    let channels = Channels::new();
    let engine = channels.open().await;
    let policy = Policy { delay: Duration::from_secs(2), ..Policy::default() };
    let delayed = QueueMessage { policy, ..message("a") };
    engine.send(vec![(name("q"), delayed)]).await.remove(0).unwrap();
    let jetstream = async_nats::jetstream::new(async_nats::connect(&channels.url).await.unwrap());
    let stream = jetstream.get_stream(format!("{}-delayed", channels.prefix)).await.unwrap();
    let stored =
        stream.get_raw_message(stream.cached_info().state.last_sequence).await.expect("it is due too soon");
    let received = engine.receive(&name("q"), wait(1)).await.unwrap();
    engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("tower-outbox-policy", stored.headers.get("tower-outbox-policy").unwrap().clone());
    let subject = stored.subject.replace(".delayed.", ".due.");
    jetstream.publish_with_headers(subject, headers, stored.payload).await.unwrap().await.unwrap();
    let receive = Receive { wait: Duration::from_secs(2), ..wait(1) };
    assert!(engine.receive(&name("q"), receive).await.unwrap().messages.is_empty());
    channels.remove().await;
}

/// As nats-server 2.15 leaves it when the leader of a consumer is killed while it delivers.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_counts_as_acknowledged_and_was_not_settled_comes_again() {
    let channels = Channels::new();
    let engine = JetstreamEngine::open(channels.settings().with_ack_wait(ACK_WAIT)).await.unwrap();
    send(&engine, &["held", "a", "b"]).await;
    let held = engine.receive(&name("q"), wait(1)).await.unwrap();
    let (stream, _) = stream(&channels).await;
    let consumer: PullConsumer = stream.get_consumer("engine").await.unwrap();
    let mut pulled = consumer.fetch().max_messages(2).messages().await.unwrap();
    while let Some(message) = pulled.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    // Nothing is known of those after it, while it is held.
    let receive = Receive { wait: 3 * ACK_WAIT, ..wait(1) };
    assert!(engine.receive(&name("q"), receive).await.unwrap().messages.is_empty());
    engine.settle(held.receipt, Which::All, Settle::Ack).await.unwrap();
    assert_eq!(bodies(&engine, 1).await, ["a"]);
    assert_eq!(bodies(&engine, 1).await, ["b"]);
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_counts_as_acknowledged_stays_with_the_engine_that_holds_it() {
    let channels = Channels::new();
    let engine = JetstreamEngine::open(channels.settings().with_ack_wait(ACK_WAIT)).await.unwrap();
    send(&engine, &["a"]).await;
    let held = engine.receive(&name("q"), Receive { visibility: None, ..wait(1) }).await.unwrap();
    let client = async_nats::connect(&channels.url).await.unwrap();
    let (_, first) = stream(&channels).await;
    let settled_at = format!("$JS.ACK.{}-queue-q.engine.1.{first}.1.1.0", channels.prefix);
    client.request(settled_at, "+ACK".into()).await.unwrap();
    let receive = Receive { wait: 4 * ACK_WAIT, ..wait(1) };
    assert!(engine.receive(&name("q"), receive).await.unwrap().messages.is_empty());
    engine.settle(held.receipt, Which::All, Settle::Ack).await.unwrap();
    let info = engine.info(ChannelKind::Queue, &name("q")).await.unwrap().unwrap();
    assert_eq!((info.messages, info.last_sequence), (0, 1));
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_due_message_that_counts_as_acknowledged_and_was_not_sent_comes() {
    let channels = Channels::new();
    let engine = channels.open().await;
    let policy = Policy { delay: Duration::from_secs(2), ..Policy::default() };
    let delayed = QueueMessage { policy, ..message("a") };
    engine.send(vec![(name("q"), delayed)]).await.remove(0).unwrap();
    engine.close(SOON).await;
    let jetstream = async_nats::jetstream::new(async_nats::connect(&channels.url).await.unwrap());
    let stream = jetstream.get_stream(format!("{}-delayed", channels.prefix)).await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("engine").await.unwrap();
    let mut pulled = consumer.batch().max_messages(1).expires(SOON).messages().await.unwrap();
    pulled.next().await.unwrap().unwrap().double_ack().await.unwrap();
    let engine = JetstreamEngine::open(channels.settings().with_ack_wait(ACK_WAIT)).await.unwrap();
    assert_eq!(bodies(&engine, 1).await, ["a"]);
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn engines_that_create_a_queue_at_once_share_it() {
    let channels = Channels::new();
    let engines = join_all((0..8).map(|_| channels.open())).await;
    join_all(engines.iter().map(|engine| send(engine, &["a"]))).await;
    assert_eq!(bodies(&engines[0], 8).await.len(), 8);
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_settlement_reaches_no_message_of_a_queue_that_was_made_anew() {
    let channels = Channels::new();
    let (late, other) = (channels.open().await, channels.open().await);
    send(&late, &["a"]).await;
    let held = late.receive(&name("q"), wait(1)).await.unwrap();
    assert!(other.delete(ChannelKind::Queue, &name("q")).await.unwrap());
    send(&other, &["b", "c"]).await;
    let of_other = other.receive(&name("q"), wait(1)).await.unwrap();
    assert_eq!(&*of_other.messages[0].content.body, b"b");
    // Whatever it says: its message is gone.
    let _ = late.settle(held.receipt, Which::All, Settle::Ack).await;
    other.release(of_other.receipt);
    assert_eq!(bodies(&other, 2).await, ["b", "c"]);
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_durable_name_is_in_use_over_engines() {
    let channels = Channels::new();
    let (one, other) = (channels.open().await, channels.open().await);
    let durable =
        || Subscribe { start: Start::First, durable: Some("mailer".to_owned()), ..Subscribe::default() };
    let subscription = one.subscribe_stream(&name("s"), durable()).await.unwrap();
    let refused = other.subscribe_stream(&name("s"), durable()).await;
    assert!(matches!(refused.err(), Some(EngineError::InUse { .. })));
    for appended in other.append(vec![(name("s"), content("a"))]).await {
        appended.unwrap();
    }
    assert_eq!(subscription.receive(10).await.unwrap().len(), 1);
    drop(subscription);
    let begun = Instant::now();
    let taken: Box<dyn StreamSubscription> = loop {
        match other.subscribe_stream(&name("s"), durable()).await {
            Ok(subscription) => break subscription,
            Err(EngineError::InUse { .. }) if begun.elapsed() < SOON => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let again = timeout(SOON, taken.receive(10)).await.unwrap().unwrap();
    assert_eq!((again[0].sequence, again[0].attempt), (1, 2));
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_event_goes_to_subscribers_of_every_engine() {
    let channels = Channels::new();
    let (one, other) = (channels.open().await, channels.open().await);
    let mut subscription = other.subscribe_events(&Pattern::new("user.>").unwrap(), None, 0).await.unwrap();
    one.publish(&name("user.created"), content("7")).await.unwrap();
    let event = timeout(SOON, subscription.next()).await.unwrap().unwrap();
    assert_eq!((event.channel, &*event.content.body), (name("user.created"), &b"7"[..]));
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn another_program_can_send_to_a_queue() {
    let channels = Channels::new();
    let engine = channels.open().await;
    send(&engine, &["a"]).await;
    let client = async_nats::connect(&channels.url).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("tower-outbox-policy", "no JSON");
    let jetstream = async_nats::jetstream::new(client);
    for (word, headers) in [("1", async_nats::HeaderMap::new()), ("2", headers)] {
        let subject = format!("{}.queue.q.{word}", channels.prefix);
        jetstream.publish_with_headers(subject, headers, word.into()).await.unwrap().await.unwrap();
    }
    let received = engine.receive(&name("q"), wait(10)).await.unwrap();
    let foreign = &received.messages[1];
    assert_eq!(
        (&*foreign.content.body, foreign.receives, &foreign.policy),
        (&b"1"[..], 1, &Policy::default())
    );
    assert!(foreign.time.elapsed().unwrap() < SOON);
    let reject = Settle::Reject { delay: Duration::ZERO };
    engine.settle(received.receipt, Which::All, reject).await.unwrap();
    let received = engine.receive(&name("q"), wait(10)).await.unwrap();
    assert_eq!(received.messages.iter().map(|message| message.receives).collect::<Vec<_>>(), [2, 2, 2]);
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retry_of_an_app_comes_with_its_reasons() {
    let channels = Channels::new();
    let app = AppChannels::new(Arc::new(channels.open().await));
    let orders = app.queue("orders").unwrap();
    orders.send(vec![Message::new("order.created", "{}").unwrap()]).await.unwrap();
    let first = timeout(SOON, orders.receive(1)).await.unwrap().unwrap().remove(0);
    first.retry(Duration::from_millis(100), "down").await.unwrap();
    let second = timeout(SOON, orders.receive(1)).await.unwrap().unwrap().remove(0);
    let view = second.view().unwrap();
    assert_eq!((view.attempt(), view.failures().len()), (2, 1));
    second.reject("broken").await.unwrap();
    let dead = timeout(SOON, app.queue("orders.dead").unwrap().receive(1)).await.unwrap().unwrap().remove(0);
    assert_eq!(dead.view().unwrap().message().topic().as_str(), "order.created");
    dead.ack().await.unwrap();
    app.close(SOON).await;
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn names_of_all_kinds_are_channels() {
    let channels = Channels::new();
    let engine = channels.open().await;
    let names = ["größe.☃", ".a", "a..b", "A/b\\c=~", "x"];
    for (at, name) in names.into_iter().enumerate() {
        let queue = tower_outbox::channels::ChannelName::new(name).unwrap();
        let mut events = engine.subscribe_events(&Pattern::from(queue.clone()), None, 0).await.unwrap();
        engine.publish(&queue, content(name.to_owned())).await.unwrap();
        let event = timeout(SOON, events.next()).await.unwrap().unwrap();
        assert_eq!(event.channel, queue);
        engine.send(vec![(queue.clone(), message(at.to_string()))]).await.remove(0).unwrap();
        let received = engine.receive(&queue, wait(1)).await.unwrap();
        assert_eq!(received.messages[0].content.body, at.to_string());
    }
    use tower_outbox::channels::{ChannelKind, Engine};
    let listed = engine.list(ChannelKind::Queue, "").await.unwrap();
    let listed: BTreeSet<String> = listed.into_iter().map(|info| info.name.to_string()).collect();
    assert_eq!(listed, names.into_iter().map(str::to_owned).collect());
    let long = tower_outbox::channels::ChannelName::new("x".repeat(300)).unwrap();
    let refused = engine.send(vec![(long, message("a"))]).await.remove(0).unwrap_err();
    assert!(!refused.is_transient() && refused.to_string().contains("shorten it"), "{refused}");
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_too_large_for_the_server_is_refused() {
    let channels = Channels::new();
    let engine = channels.open().await;
    let most = async_nats::connect(&channels.url).await.unwrap().max_payload();
    let large = message(vec![0; most]);
    let sent = engine.send(vec![(name("q"), large), (name("q"), message("a"))]).await;
    assert!(matches!(&sent[0], Err(EngineError::TooLarge { .. })), "{sent:?}");
    assert!(sent[1].is_ok());
    let published = engine.publish(&name("e"), content(vec![0; most])).await;
    assert!(matches!(published, Err(EngineError::TooLarge { .. })));
    channels.remove().await;
}

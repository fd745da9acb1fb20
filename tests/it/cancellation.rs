//! A request, a send or a shutdown dropped at every one of its await points.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::poll;
use http::Response;
use tokio::task::yield_now;
use tower::Service;
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::message::Scalar;
use tower_outbox::{Bus, Message, MessageQueue, MessagingLayer, Messenger, Settings, Unsent, async_trait};

use crate::support::fuse::fuse;
use crate::support::messengers::{Journal, fake, in_flight, slow};
use crate::support::{Answer, MINUTE, enqueue, logs, message, messages, service};

const DONE: &str = "done";

/// A handler that waits a lot, and writes down what it has done.
async fn handler(queue: MessageQueue, did: Journal, answer: Answer) -> Answer {
    for (topic, audit) in [("a", "audit.a"), ("b", "audit.b"), ("c", "audit.c")] {
        yield_now().await;
        enqueue(&queue, [topic]);
        did.write(topic);
        yield_now().await;
        enqueue(&queue.always(), [audit]);
        did.write(audit);
    }
    yield_now().await;
    did.write(DONE);
    answer
}

/// Drops a request after so many polls. Gives whether it was answered before, and what must be sent.
async fn drop_request(layer: &MessagingLayer, polls: usize, status: Option<u16>) -> (bool, Vec<String>) {
    let did = Journal::default();
    let answer = move || match status {
        Some(status) => Ok(Response::builder().status(status).body(String::new()).unwrap()),
        None => Err("broken".into()),
    };
    let mut service = service(layer, {
        let did = did.clone();
        move |queue| handler(queue, did.clone(), answer())
    });
    let answered = fuse(polls, service.call(http::Request::new(()))).await.is_some();
    let mut did = did.read();
    let succeeded = did.pop_if(|last| last == DONE).is_some() && status == Some(200);
    did.retain(|topic| succeeded || topic.starts_with("audit"));
    (answered, did)
}

#[tokio::test]
async fn a_request_dropped_anywhere_sends_all_or_only_audit_events() {
    for status in [Some(200), Some(404), None] {
        for polls in 0.. {
            let journal = Journal::default();
            let layer = MessagingLayer::new(slow(journal.clone()));
            let (answered, expected) = drop_request(&layer, polls, status).await;
            if answered && status.is_some() {
                assert_eq!(journal.read(), expected, "the head went out before all was sent");
            }
            layer.in_flight().wait_idle().await;
            assert_eq!(journal.read(), expected, "{status:?}, dropped after {polls} polls");
            if answered {
                // The handler waits seven times; sending waits twice for each message.
                let sending = status.map_or(0, |status| if status == 200 { 12 } else { 6 });
                assert!(polls > 7 + sending, "{polls} polls are too few to have seen every await point");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_request_dropped_at_a_full_buffer_sends_all_or_only_audit_events() {
    const FILLER: [&str; 12] = ["x"; 12];
    for status in [Some(200), Some(404), None] {
        for polls in 0.. {
            let journal = Journal::default();
            let settings = BackgroundSettings::default().with_max_messages(FILLER.len() as u32);
            let (background, worker) = Background::new(slow(journal.clone()), settings);
            background.send(messages(FILLER)).await.unwrap();
            let layer = MessagingLayer::new(background);
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let worker = tokio::spawn(worker.with_graceful_shutdown(async { drop(stopped.await) }, MINUTE));

            let (answered, expected) = drop_request(&layer, polls, status).await;
            layer.in_flight().wait_idle().await;
            let mut sent = journal.read();
            assert_eq!(sent.drain(..FILLER.len()).collect::<Vec<_>>(), FILLER);
            assert_eq!(sent, expected, "{status:?}, dropped after {polls} polls");
            stop.send(()).unwrap();
            assert!(worker.await.unwrap().is_empty());
            if answered {
                assert!(status.is_none() || polls > 20, "the buffer was not full: {polls} polls");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_aborted_on_several_threads_send_all_or_nothing() {
    const REQUESTS: u32 = 300;
    let journal = Journal::default();
    let messenger = fake({
        let journal = journal.clone();
        move |batch: Vec<Message>| {
            let journal = journal.clone();
            async move {
                for message in batch {
                    journal.write(format!("{} {}", message.header("request").unwrap(), message.topic()));
                    yield_now().await;
                }
                Ok(())
            }
        }
    });
    let layer = MessagingLayer::new(messenger);
    for number in 0..REQUESTS {
        let mut service = service(&layer, move |queue| async move {
            for topic in ["a", "b", "c"] {
                queue.enqueue(message(topic).with_header("request", Scalar::from(number))).unwrap();
                yield_now().await;
            }
            Ok(Response::new(String::new()))
        });
        let request = tokio::spawn(async move { service.call(http::Request::new(())).await.is_ok() });
        for _ in 0..number % 12 {
            yield_now().await;
        }
        if number == 0 {
            assert!(request.await.unwrap());
        } else {
            request.abort();
            let _ = request.await;
        }
    }
    layer.in_flight().wait_idle().await;
    let sent = journal.read();
    for number in 0..REQUESTS {
        let own: Vec<_> = sent.iter().filter_map(|line| line.strip_prefix(&format!("{number} "))).collect();
        assert!(own == ["a", "b", "c"] || own.is_empty() && number > 0, "request {number} sent {own:?}");
    }
}

#[tokio::test]
async fn a_send_dropped_while_it_waits_for_room_hands_nothing_over_and_keeps_no_room() {
    for polls in 0.. {
        let journal = Journal::default();
        let settings = BackgroundSettings::default().with_max_messages(2).with_max_bytes(64);
        let (background, worker) = Background::new(slow(journal.clone()), settings);
        background.send(messages(["x", "y"])).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let worker = tokio::spawn(worker.with_graceful_shutdown(async { drop(stopped.await) }, MINUTE));

        let handed_over = fuse(polls, background.send(messages(["a", "b"]))).await;
        in_flight(&background).wait_idle().await;
        let expected: &[&str] = if handed_over.is_some() { &["x", "y", "a", "b"] } else { &["x", "y"] };
        assert_eq!(journal.read(), expected, "dropped after {polls} polls");

        assert!(poll!(background.send(messages(["c", "d"]))).is_ready(), "the room is gone");
        stop.send(()).unwrap();
        assert!(worker.await.unwrap().is_empty());
        assert_eq!(journal.read().len(), expected.len() + 2);
        if let Some(result) = handed_over {
            result.unwrap();
            assert!(polls > 4, "the buffer was not full: {polls} polls");
            break;
        }
    }
}

/// Takes its time to send and to close; refuses to send when it is closed.
struct Lazy {
    journal: Journal,
    closed: Arc<AtomicUsize>,
}

#[async_trait]
impl Messenger for Lazy {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        assert_eq!(self.closed.load(Ordering::Relaxed), 0, "sent after close");
        slow(self.journal.clone()).send(batch).await
    }

    async fn close(&self, _: Duration) {
        yield_now().await;
        self.closed.fetch_add(1, Ordering::Relaxed);
        yield_now().await;
    }
}

async fn lazy_bus(delivery: &str) -> (Bus, Journal, Arc<AtomicUsize>) {
    let settings: Settings =
        toml::from_str(&format!("BACKEND = \"acme.Lazy\"\nDELIVERY = \"{delivery}\"")).unwrap();
    let (journal, closed) = (Journal::default(), Arc::default());
    let lazy = Lazy { journal: journal.clone(), closed: Arc::clone(&closed) };
    let backend = Bus::builder(&settings).with_backend("acme.Lazy", |_| Ok::<_, std::fmt::Error>(lazy));
    (backend.start().await.unwrap(), journal, closed)
}

/// Leaves a send in flight, whose client has gone.
async fn begin_to_send(bus: &Bus) {
    let mut service = service(&bus.layer(), |queue| async move {
        enqueue(&queue, ["a", "b", "c"]);
        Ok(Response::new(String::new()))
    });
    fuse(1, service.call(http::Request::new(()))).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_dropped_anywhere_can_be_called_again_and_loses_nothing() {
    for delivery in ["direct", "background"] {
        for polls in 0.. {
            let (bus, journal, closed) = lazy_bus(delivery).await;
            begin_to_send(&bus).await;
            let ended = fuse(polls, bus.shutdown(MINUTE)).await;
            assert!(bus.shutdown(MINUTE).await.is_clean(), "{delivery}, dropped after {polls} polls");
            assert_eq!(journal.read(), ["a", "b", "c"], "{delivery}, dropped after {polls} polls");
            assert!(closed.load(Ordering::Relaxed) > 0, "{delivery}, dropped after {polls} polls");
            if let Some(shutdown) = ended {
                assert!(shutdown.is_clean());
                assert!(polls > 7, "{polls} polls are too few to have seen every await point");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_time_dropped_anywhere_names_every_message_it_leaves() {
    for polls in 0.. {
        let (bus, journal, _) = lazy_bus("background").await;
        begin_to_send(&bus).await;
        let log = logs::listen();
        let ended = fuse(polls, bus.shutdown(Duration::ZERO)).await;
        let again = bus.shutdown(Duration::ZERO).await;
        let ended_at_once = ended.is_some();
        let left = ended.map_or(again.left, |ended| ended.left);
        let named = log.unsent().len();
        assert_eq!(journal.read().len().max(named), 3, "dropped after {polls} polls: {:?}", log.events());
        if ended_at_once {
            assert_eq!(left.len(), named);
            assert!(polls > 2, "{polls} polls are too few to have seen every await point");
            break;
        }
    }
}

//! Sending behind the response.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, poll};
use http::StatusCode;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tower_outbox::background::{Background, BackgroundSettings, BackgroundWorker, WhenFull};
use tower_outbox::messenger::Overloaded;
use tower_outbox::{
    BoxError, Failure, Health, Message, MessageQueue, MessagingLayer, Messenger, Unsent, async_trait,
};

use crate::support::messengers::{down, fake, held, in_flight, panicking, recording};
use crate::support::{MINUTE, app, enqueue, enqueue_a, get, logs, message, messages, soon, topics};

fn settings() -> BackgroundSettings {
    BackgroundSettings::default()
}

fn refuse() -> BackgroundSettings {
    settings().with_when_full(WhenFull::Refuse)
}

struct RunningWorker {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Message>>,
}

fn run<M: Messenger>(worker: BackgroundWorker<M>, deadline: Duration) -> RunningWorker {
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(worker.with_graceful_shutdown(async { drop(stopped.await) }, deadline));
    RunningWorker { stop, task }
}

impl RunningWorker {
    /// Ends it, and returns the topics that are left.
    async fn stop(self) -> Vec<String> {
        self.stop.send(()).unwrap();
        topics(&soon(self.task).await.unwrap())
    }
}

fn transient() -> Failure {
    Failure::transient("the broker is down")
}

/// All of them came back, because the buffer is full.
fn assert_full(result: Result<(), Unsent>, expected: &[&str]) {
    let unsent = result.unwrap_err();
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient() && failure.cause().is::<Overloaded>()));
    assert_eq!(topics(&unsent.into_messages()), expected);
}

/// All of them came back, because there is no worker.
fn assert_stopped(result: Result<(), Unsent>, expected: &[&str]) {
    let unsent = result.unwrap_err();
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient() && !failure.cause().is::<Overloaded>()));
    assert_eq!(topics(&unsent.into_messages()), expected);
}

#[tokio::test(start_paused = true)]
async fn a_send_does_not_wait_for_the_bus() {
    let (messenger, gate, sent) = held();
    let (background, worker) = Background::new(messenger, settings());
    let worker = run(worker, MINUTE);
    assert!(background.send(messages(["a", "b"])).now_or_never().unwrap().is_ok());
    gate.begun().await;
    assert!(background.send(messages(["c"])).now_or_never().unwrap().is_ok());
    assert!(sent.topics().is_empty());
    gate.open();
    assert!(worker.stop().await.is_empty());
    assert_eq!(sent.topics(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_does_not_wait_for_the_bus() {
    let (messenger, gate, sent) = held();
    let (background, worker) = Background::new(messenger, settings());
    let _worker = run(worker, MINUTE);
    let app = app(MessagingLayer::new(background), enqueue_a);
    assert_eq!(get(app).await.status(), StatusCode::OK);
    gate.begun().await;
    assert!(sent.topics().is_empty());
}

#[tokio::test(start_paused = true)]
async fn flushed_waits_for_what_is_in_the_buffer() {
    let (messenger, gate, sent) = held();
    let (background, worker) = Background::new(messenger, settings());
    let _worker = run(worker, MINUTE);
    let layer = MessagingLayer::new(background);
    let app = app(layer.clone(), |queue: MessageQueue| async move { enqueue(&queue, ["a", "b"]) });
    get(app.clone()).await;
    gate.begun().await;
    get(app).await;
    assert_eq!(layer.in_flight().len(), 2);
    assert!(timeout(MINUTE, sent.flushed()).await.is_err());
    gate.pass(1);
    assert!(timeout(MINUTE, sent.flushed()).await.is_err());
    gate.open();
    soon(sent.flushed()).await;
    assert_eq!(sent.topics(), ["a", "b", "a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_tried_again_in_order() {
    let (recording, sent) = recording();
    // Each try confirms one message and hands the others back.
    let stubborn = fake(move |mut batch: Vec<Message>| {
        let recording = recording.clone();
        async move {
            let rest = batch.split_off(1);
            recording.send(batch).await?;
            Unsent::new(rest, &transient()).into_result()
        }
    });
    let (background, worker) = Background::new(stubborn, settings());
    let worker = run(worker, MINUTE);
    background.send(messages(["a", "b"])).await.unwrap();
    background.send(messages(["c", "d", "e"])).await.unwrap();
    tokio::task::yield_now().await;
    background.send(messages(["f"])).await.unwrap();
    soon(in_flight(&background).wait_idle()).await;
    assert_eq!(sent.topics(), ["a", "b", "c", "d", "e", "f"]);
    assert!(worker.stop().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn tries_are_spaced_by_a_backoff_that_grows_and_begins_anew() {
    let tries = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&tries);
    let (recording, sent) = recording();
    let flaky = fake(move |batch| {
        times.lock().unwrap().push(Instant::now());
        // The first 30 tries fail, then every second one.
        let up = times.lock().unwrap().len() > 30 && times.lock().unwrap().len() % 2 == 1;
        let recording = recording.clone();
        async move { if up { recording.send(batch).await } else { Err(Unsent::new(batch, &transient())) } }
    });
    let (background, worker) = Background::new(flaky, settings());
    let _worker = run(worker, MINUTE);
    for topic in ["a", "b", "c", "d", "e"] {
        background.send(messages([topic])).await.unwrap();
        soon(in_flight(&background).wait_idle()).await;
    }
    assert_eq!(sent.topics(), ["a", "b", "c", "d", "e"]);

    let tries = tries.lock().unwrap();
    let gaps: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (failing, flapping) = gaps.split_at(30);
    for (attempt, gap) in failing.iter().enumerate() {
        // A timer is a millisecond late at most.
        let ceiling = Duration::from_millis(100 << attempt.min(10)).min(Duration::from_secs(5));
        assert!(*gap <= ceiling + Duration::from_millis(1), "gap {attempt}: {gap:?}");
    }
    assert!(failing.iter().sum::<Duration>() > Duration::from_secs(10), "{failing:?}");
    assert!(flapping.iter().all(|gap| *gap <= Duration::from_millis(101)), "{flapping:?}");
}

#[tokio::test(start_paused = true)]
async fn rejected_messages_are_not_tried_again_and_hold_nothing_up() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let (recording, sent) = recording();
    let picky = fake(move |batch: Vec<Message>| {
        let (bad, good): (Vec<_>, Vec<_>) = batch.into_iter().partition(|m| m.topic().as_str() == "bad");
        counted.fetch_add(bad.len(), Ordering::Relaxed);
        let recording = recording.clone();
        async move {
            recording.send(good).await?;
            Unsent::new(bad, &Failure::rejected("forbidden")).into_result()
        }
    });
    let log = logs::listen();
    let (background, worker) = Background::new(picky, settings());
    let worker = run(worker, MINUTE);
    background.send(messages(["a", "bad", "b"])).await.unwrap();
    background.send(messages(["c"])).await.unwrap();
    soon(in_flight(&background).wait_idle()).await;
    assert_eq!(sent.topics(), ["a", "b", "c"]);
    assert_eq!(tries.load(Ordering::Relaxed), 1);
    assert_eq!(log.unsent().len(), 1);
    assert!(worker.stop().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_buffer_full_of_messages_refuses() {
    let (messenger, sent) = recording();
    let (background, worker) = Background::new(messenger, refuse().with_max_messages(3));
    background.send(messages(["a", "b"])).await.unwrap();
    assert_full(soon(background.send(messages(["c", "d"]))).await, &["c", "d"]);
    background.send(messages(["e"])).await.unwrap();
    assert_full(soon(background.send(messages(["f"]))).await, &["f"]);

    let _worker = run(worker, MINUTE);
    soon(sent.flushed()).await;
    background.send(messages(["g", "h", "i"])).await.unwrap();
    soon(sent.flushed()).await;
    assert_eq!(sent.topics(), ["a", "b", "e", "g", "h", "i"]);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_full_of_bytes_refuses() {
    let of_5_bytes = |topic: &'static str| vec![Message::new(topic, "1234").unwrap()];
    let (messenger, sent) = recording();
    let (background, worker) = Background::new(messenger, refuse().with_max_bytes(10));
    background.send(of_5_bytes("a")).await.unwrap();
    background.send(of_5_bytes("b")).await.unwrap();
    assert_full(soon(background.send(of_5_bytes("c"))).await, &["c"]);
    // A refused message holds no room for messages either.
    let _worker = run(worker, MINUTE);
    soon(sent.flushed()).await;
    background.send(of_5_bytes("d")).await.unwrap();
    soon(sent.flushed()).await;
    assert_eq!(sent.topics(), ["a", "b", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_is_answered_503_until_there_is_room() {
    let (messenger, sent) = recording();
    let (background, worker) = Background::new(messenger, refuse().with_max_messages(1));
    let app = app(MessagingLayer::new(background), enqueue_a);
    assert_eq!(get(app.clone()).await.status(), StatusCode::OK);
    assert_eq!(get(app.clone()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let _worker = run(worker, MINUTE);
    soon(sent.flushed()).await;
    assert_eq!(get(app).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_send_waits_for_room_and_goes_on_in_its_turn() {
    let (messenger, sent) = recording();
    let (background, worker) = Background::new(messenger, settings().with_max_messages(2));
    background.send(messages(["a", "b"])).await.unwrap();
    let mut large = background.send(messages(["c", "d"]));
    assert!(timeout(MINUTE, &mut large).await.is_err());
    // There would be room for this one earlier; it does not overtake.
    let mut small = background.send(messages(["e"]));
    assert!(poll!(&mut small).is_pending());
    let worker = run(worker, MINUTE);
    let (large, small) = timeout(MINUTE, futures_util::future::join(large, small)).await.unwrap();
    large.unwrap();
    small.unwrap();
    assert!(worker.stop().await.is_empty());
    assert_eq!(sent.topics(), ["a", "b", "c", "d", "e"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_room() {
    let (messenger, sent) = recording();
    let (background, worker) = Background::new(messenger, settings().with_max_messages(1));
    let app = app(MessagingLayer::new(background), enqueue_a);
    get(app.clone()).await;
    let mut waiting = std::pin::pin!(get(app));
    assert!(timeout(MINUTE, &mut waiting).await.is_err());
    let _worker = run(worker, MINUTE);
    assert_eq!(timeout(MINUTE, waiting).await.unwrap().status(), StatusCode::OK);
    soon(sent.flushed()).await;
    assert_eq!(sent.topics(), ["a", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_the_buffer_passes_alone() {
    let (messenger, sent) = recording();
    for settings in [settings().with_max_messages(2), settings().with_max_bytes(2)] {
        let (background, worker) = Background::new(messenger.clone(), settings);
        background.send(messages(["a"])).await.unwrap();
        let mut large = background.send(messages(["b", "c", "d"]));
        assert!(timeout(MINUTE, &mut large).await.is_err());
        let worker = run(worker, MINUTE);
        timeout(MINUTE, large).await.unwrap().unwrap();
        assert!(worker.stop().await.is_empty());
    }
    assert_eq!(sent.topics(), ["a", "b", "c", "d", "a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_the_buffer_is_refused_only_when_it_would_not_be_alone() {
    let (background, _worker) = Background::new(recording().0, refuse().with_max_messages(2));
    background.send(messages(["a", "b", "c"])).await.unwrap();
    assert_full(soon(background.send(messages(["d"]))).await, &["d"]);
    let (background, _worker) = Background::new(recording().0, refuse().with_max_messages(2));
    background.send(messages(["a"])).await.unwrap();
    assert_full(soon(background.send(messages(["b", "c", "d"]))).await, &["b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_of_size_zero_is_bounded_too() {
    for settings in [refuse().with_max_messages(0), refuse().with_max_bytes(0)] {
        let (background, _worker) = Background::new(recording().0, settings);
        soon(background.send(messages(["a"]))).await.unwrap();
        assert_full(soon(background.send(messages(["b"]))).await, &["b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_sends_what_is_waiting() {
    let (messenger, gate, sent) = held();
    let (background, worker) = Background::new(messenger, settings());
    let worker = run(worker, MINUTE);
    background.send(messages(["a"])).await.unwrap();
    gate.begun().await;
    background.send(messages(["b"])).await.unwrap();
    background.send(messages(["c"])).await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(MINUTE / 2).await;
        gate.open();
    });
    assert!(worker.stop().await.is_empty());
    assert_eq!(sent.topics(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn unsent_messages_are_left_in_order_after_the_deadline() {
    let stuck = fake(|_| std::future::pending());
    let (background, worker) = Background::new(stuck, settings());
    let worker = run(worker, Duration::from_secs(10));
    background.send(messages(["a", "b"])).await.unwrap();
    tokio::task::yield_now().await;
    background.send(messages(["c"])).await.unwrap();
    let log = logs::listen();
    let begun = Instant::now();
    assert_eq!(worker.stop().await, ["a", "b", "c"]);
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(log.unsent().len(), 3);
    assert!(in_flight(&background).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_down_does_not_hold_up_the_shutdown() {
    let (background, worker) = Background::new(down(transient()), settings());
    let worker = run(worker, Duration::from_secs(10));
    background.send(messages(["a"])).await.unwrap();
    tokio::time::sleep(MINUTE).await;
    let begun = Instant::now();
    assert_eq!(worker.stop().await, ["a"]);
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_with_nothing_waiting_is_at_once() {
    let (background, worker) = Background::new(recording().0, settings());
    let worker = run(worker, MINUTE);
    background.send(messages(["a"])).await.unwrap();
    soon(in_flight(&background).wait_idle()).await;
    let begun = Instant::now();
    assert!(worker.stop().await.is_empty());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_send_that_waits_for_room_comes_back_at_shutdown() {
    let (background, worker) =
        Background::new(fake(|_| std::future::pending()), settings().with_max_messages(1));
    let worker = run(worker, MINUTE);
    background.send(messages(["a"])).await.unwrap();
    let mut waiting = background.send(messages(["b"]));
    assert!(timeout(MINUTE, &mut waiting).await.is_err());
    let (left, came_back) = tokio::join!(worker.stop(), waiting);
    assert_eq!(left, ["a"]);
    assert_stopped(came_back, &["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_stopping_takes_nothing_more() {
    for settings in [settings(), refuse()] {
        let (messenger, gate, sent) = held();
        let (background, worker) = Background::new(messenger, settings.with_max_messages(1));
        let RunningWorker { stop, task } = run(worker, MINUTE);
        background.send(messages(["a"])).await.unwrap();
        gate.begun().await;
        stop.send(()).unwrap();
        tokio::task::yield_now().await;
        let begun = Instant::now();
        assert_stopped(soon(background.send(messages(["b"]))).await, &["b"]);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        gate.open();
        assert!(soon(task).await.unwrap().is_empty());
        assert_eq!(sent.topics(), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_shutdown_sends_come_back() {
    for settings in [settings(), refuse()] {
        let (background, worker) = Background::new(recording().0, settings);
        assert!(run(worker, MINUTE).stop().await.is_empty());
        assert_stopped(soon(background.send(messages(["a", "b"]))).await, &["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_dropped_before_it_runs_is_not_silent() {
    for settings in [settings(), refuse()] {
        let log = logs::listen();
        let (background, worker) = Background::new(recording().0, settings);
        background.send(messages(["a", "b"])).await.unwrap();
        drop(worker);
        let lost = log.lost();
        assert!(lost.len() == 1 && lost[0].get("messages") == "2", "{lost:?}");
        assert!(in_flight(&background).is_empty());
        assert_stopped(soon(background.send(messages(["c"]))).await, &["c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_dropped_while_it_sends_is_not_silent() {
    let log = logs::listen();
    let (background, worker) =
        Background::new(fake(|_| std::future::pending()), settings().with_max_messages(3));
    let worker = run(worker, MINUTE);
    background.send(messages(["a"])).await.unwrap();
    tokio::task::yield_now().await;
    background.send(messages(["b", "c"])).await.unwrap();
    let waiting = background.send(messages(["d"]));
    worker.task.abort();
    // The one that is out, and the one in the buffer.
    assert!(worker.task.await.unwrap_err().is_cancelled());
    assert_eq!(log.lost().len(), 2);
    assert_stopped(timeout(MINUTE, waiting).await.unwrap(), &["d"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_messenger_is_not_silent() {
    let log = logs::listen();
    let (background, worker) = Background::new(panicking(true), settings());
    let _worker = run(worker, MINUTE);
    background.send(messages(["a", "b"])).await.unwrap();
    timeout(MINUTE, in_flight(&background).wait_idle()).await.unwrap();
    assert!(log.lost().iter().any(|event| event.get("messages") == "2"), "{:?}", log.events());
}

#[tokio::test(start_paused = true)]
async fn messages_are_sent_after_a_panic_of_the_messenger() {
    let (recording, sent) = recording();
    let panics_once = fake(move |batch: Vec<Message>| {
        let recording = recording.clone();
        async move {
            assert!(batch[0].topic().as_str() != "a", "the messenger panics");
            recording.send(batch).await
        }
    });
    let (background, worker) = Background::new(panics_once, settings());
    let _worker = run(worker, MINUTE);
    background.send(messages(["a"])).await.unwrap();
    timeout(MINUTE, in_flight(&background).wait_idle()).await.unwrap();
    background.send(messages(["b"])).await.unwrap();
    timeout(MINUTE, in_flight(&background).wait_idle()).await.unwrap();
    assert_eq!(sent.topics(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_over_one_batch_costs_no_other() {
    let (recording, sent) = recording();
    let panics_over_b = fake(move |batch: Vec<Message>| {
        let recording = recording.clone();
        async move {
            assert!(batch.iter().all(|message| message.topic().as_str() != "b"), "the messenger panics");
            recording.send(batch).await
        }
    });
    let log = logs::listen();
    let (background, worker) = Background::new(panics_over_b, settings());
    for topic in ["a", "b", "c", "d"] {
        background.send(messages([topic])).await.unwrap();
    }
    let _worker = run(worker, MINUTE);
    timeout(MINUTE, in_flight(&background).wait_idle()).await.unwrap();
    assert_eq!(sent.topics(), ["a", "c", "d"]);
    assert_eq!(log.lost().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_sends_what_is_left_when_its_handle_is_dropped() {
    let (messenger, sent) = recording();
    let (background, worker) = Background::new(messenger, settings());
    background.send(messages(["a"])).await.unwrap();
    drop(background);
    let worker = run(worker, MINUTE);
    soon(sent.flushed()).await;
    assert_eq!(sent.topics(), ["a"]);
    assert!(soon(worker.task).await.unwrap().is_empty(), "it ends by itself");
}

/// Answers in its own way to all that a messenger is asked.
struct Peculiar(Arc<AtomicBool>);

#[async_trait]
impl Messenger for Peculiar {
    async fn send(&self, _: Vec<Message>) -> Result<(), Unsent> {
        Ok(())
    }

    fn check(&self, _: &Message) -> Result<(), BoxError> {
        Err("never".into())
    }

    async fn health(&self) -> Health {
        Health::Down { reason: "asleep".to_owned() }
    }

    async fn close(&self, deadline: Duration) {
        assert_eq!(deadline, MINUTE);
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn check_health_and_close_are_those_of_the_messenger_behind() {
    let closed = Arc::<AtomicBool>::default();
    let (background, _worker) = Background::new(Peculiar(Arc::clone(&closed)), settings());
    assert_eq!(background.check(&message("a")).unwrap_err().to_string(), "never");
    assert_eq!(background.health().await, Health::Down { reason: "asleep".to_owned() });
    background.close(MINUTE).await;
    assert!(closed.load(Ordering::SeqCst));
}

//! The test kit: what an app's tests wait for.

use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::time::{Instant, timeout};
use tower_outbox::testing::{Memory, Recording, request};
use tower_outbox::{Bus, Consumer, Delivery, Failure, Message, Messenger, Settings};

use crate::support::message;
use crate::support::messengers::{Act, Bus as State, scripted};

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn memory_takes_one_consumer_after_another() {
    let memory = Memory::new();
    for round in 0..3 {
        memory.send(vec![message("a.b")]).await.unwrap();
        let handlers: Router = Router::new().route("/a/b", post(|| async {}));
        let idle = memory.clone();
        let consumer = Consumer::new(memory.clone(), handlers)
            .with_graceful_shutdown(async move { idle.wait_idle().await }, LONG);
        timeout(LONG, consumer).await.unwrap();
        assert!(memory.is_empty() && memory.dead_letters().is_empty(), "{round}");
    }
}

#[tokio::test]
async fn a_second_consumer_of_a_bus_goes_on_when_the_first_has_stopped() {
    let settings: Settings = toml::from_str("BACKEND = 'memory'\n[CONSUMERS.users]").unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let (sender, mut handled) = tokio::sync::mpsc::unbounded_channel();
    let handlers = || {
        let sender = sender.clone();
        Router::<()>::new().route("/a/b", post(move || async move { sender.send(()).unwrap() }))
    };
    let first = bus.consumer("users", handlers()).unwrap();
    let first = first.with_graceful_shutdown(async {}, LONG);
    timeout(LONG, first).await.unwrap();
    tokio::spawn(bus.consumer("users", handlers()).unwrap().into_future());
    bus.messenger().send(vec![message("a.b")]).await.unwrap();
    timeout(LONG, handled.recv()).await.unwrap().unwrap();
    assert!(bus.shutdown(LONG).await.is_clean());
}

#[tokio::test]
async fn a_recording_is_waited_for_behind_an_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings: Settings = toml::from_str("BACKEND = 'app.Recording'\nDELIVERY = 'durable'").unwrap();
    settings.outbox.path = folder.path().join("outbox");
    let recording = Recording::new();
    let sent = recording.listen();
    let bus = Bus::builder(&settings)
        .with_backend("app.Recording", move |_| Ok::<_, std::io::Error>(recording))
        .start()
        .await
        .unwrap();
    bus.messenger().send(vec![message("a"), message("user.created"), message("b")]).await.unwrap();
    let created = timeout(LONG, sent.wait_for("user.created")).await.unwrap();
    assert_eq!(created.topic().as_str(), "user.created");
    assert_eq!(timeout(LONG, sent.wait_for_count(3)).await.unwrap().len(), 3);
    timeout(LONG, bus.drained()).await.unwrap().unwrap();
    assert_eq!(bus.outbox().unwrap().status().await.unwrap().counts.pending, 0);
    let _ = bus.shutdown(LONG).await;
}

/// A message that waits for a broker that is down is no reason to go on.
#[tokio::test]
async fn an_outbox_with_pending_messages_is_not_drained() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings: Settings = toml::from_str("BACKEND = 'app.Full'\nDELIVERY = 'durable'").unwrap();
    settings.outbox.path = folder.path().join("outbox");
    let full = crate::support::messengers::down(Failure::transient("the broker is down"));
    let bus = Bus::builder(&settings)
        .with_backend("app.Full", move |_| Ok::<_, std::io::Error>(full))
        .start()
        .await
        .unwrap();
    bus.messenger().send(vec![message("a")]).await.unwrap();
    assert!(timeout(Duration::from_millis(300), bus.drained()).await.is_err());
    let _ = bus.shutdown(Duration::ZERO).await;
}

/// A day of backoff takes no time.
#[tokio::test(start_paused = true)]
async fn time_can_be_paused_around_a_consumer() {
    let memory = Memory::new();
    let begun = Instant::now();
    let handlers: Router = Router::new().route(
        "/a/b",
        post(|delivery: Delivery| async move {
            let done = delivery.attempt() == 5;
            let after = [("retry-after", "20000")];
            if done { Ok(()) } else { Err((http::StatusCode::SERVICE_UNAVAILABLE, after)) }
        }),
    );
    memory.send(vec![message("a.b")]).await.unwrap();
    let idle = memory.clone();
    let consumer = Consumer::new(memory.clone(), handlers)
        .with_graceful_shutdown(async move { idle.wait_idle().await }, LONG);
    consumer.await;
    assert!(memory.dead_letters().is_empty());
    assert!(begun.elapsed() >= Duration::from_secs(3_600), "{:?}", begun.elapsed());
}

/// Neither the disk nor an hour without a broker makes the test wait, and no timeout passes while the disk works.
#[tokio::test(start_paused = true)]
async fn time_can_be_paused_around_a_durable_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings: Settings = toml::from_str("BACKEND = 'app.Scripted'\nDELIVERY = 'durable'").unwrap();
    settings.outbox.path = folder.path().join("outbox");
    let backend = scripted(|_| Act::Confirm);
    backend.set(State::Down);
    let own = backend.clone();
    let bus = Bus::builder(&settings)
        .with_backend("app.Scripted", move |_| Ok::<_, std::io::Error>(own))
        .start()
        .await
        .unwrap();
    for n in 0..20 {
        let delayed = message("a.b").with_delay(Duration::from_secs(60 * n));
        timeout(Duration::from_millis(100), bus.messenger().send(vec![delayed])).await.unwrap().unwrap();
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(backend.confirmed().is_empty() && !backend.asked().is_empty());
    backend.set(State::Up);
    timeout(Duration::from_secs(3_600), bus.drained()).await.unwrap().unwrap();
    assert_eq!(backend.confirmed().len(), 20);
    assert!(bus.shutdown(LONG).await.is_clean());
}

#[test]
fn a_delivery_made_for_a_test_is_like_one_of_a_consumer() {
    let message = Message::json("user.created", &7).unwrap().with_header("mine", "x");
    let delivery = Delivery::of(message.clone());
    assert_eq!((delivery.attempt(), delivery.redelivered(), delivery.failures().len()), (1, false, 0));
    let third = delivery.with_attempt(3);
    assert_eq!((third.attempt(), third.redelivered(), third.failures().len()), (3, true, 2));
    let request = request(&third);
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/user/created"));
    assert_eq!(request.headers()["mine"], "x");
    assert_eq!(request.extensions().get::<Delivery>().unwrap().message(), &message);
}

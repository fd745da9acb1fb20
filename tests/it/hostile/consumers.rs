//! Consumers whose source or service panics, or that end before their time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::sync::oneshot;
use tower_outbox::message::Settlement;
use tower_outbox::source::{self, Settle, Source, SourceError};
use tower_outbox::testing::Memory;
use tower_outbox::{Bus, Consumer, Health, Message, Messenger, Settings, async_trait};

use crate::support::stores::{STUCK, until};
use crate::support::{MINUTE, messages, soon};

/// A source without a name, whose messages cannot say whether they are stale.
struct Nameless(Memory);

struct Odd(source::Unsettled);

#[async_trait]
impl Settle for Odd {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        match settlement {
            Settlement::Ack => self.0.ack().await,
            Settlement::Retry { after, reason } => self.0.retry(after, reason).await,
            Settlement::Reject { reason } => self.0.reject(reason).await,
            _ => self.0.release().await,
        }
    }
    fn is_stale(&self) -> bool {
        panic!("it panics");
    }
}

#[async_trait]
impl Source for Nameless {
    async fn receive(&self, limit: usize) -> Result<Vec<source::Unsettled>, SourceError> {
        let received = self.0.receive(limit).await?.into_iter().map(|delivery| {
            let view = delivery.view().unwrap();
            let (message, attempt) = (view.message().clone(), view.attempt());
            source::Unsettled::new(message, attempt, false, "odd".into(), Vec::new(), Odd(delivery))
        });
        Ok(received.collect())
    }
    fn name(&self) -> Arc<str> {
        panic!("it panics");
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_goes_on_when_its_source_cannot_be_asked() {
    let bus = Memory::new();
    let of_one_key = ["a", "a", "a"].map(|topic| Message::new(topic, "x").unwrap().with_key("k"));
    bus.send(of_one_key.to_vec()).await.unwrap();
    let router = Router::new().route("/a", post(|| async { tokio::task::yield_now().await }));
    let consumer = Consumer::new(Nameless(bus.clone()), router);
    let handle = consumer.handle();
    let idle = bus.clone();
    soon(consumer.with_graceful_shutdown(async move { idle.wait_idle().await }, MINUTE)).await;
    assert_eq!(handle.status().acked, 3);
}

/// A service that panics so often when it is cloned.
struct Uncloned(Router, Arc<AtomicUsize>);

impl Clone for Uncloned {
    fn clone(&self) -> Self {
        let less = |left: usize| left.checked_sub(1);
        let left = self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        assert!(left.is_err(), "it panics");
        Self(self.0.clone(), Arc::clone(&self.1))
    }
}

impl tower::Service<axum::extract::Request> for Uncloned {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = <Router as tower::Service<axum::extract::Request>>::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        tower::Service::<axum::extract::Request>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: axum::extract::Request) -> Self::Future {
        self.0.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_as_it_is_cloned_has_failed_an_attempt() {
    let bus = Memory::new();
    bus.send(messages(["a", "b"])).await.unwrap();
    let router = Router::new().route("/a", post(|| async {})).route("/b", post(|| async {}));
    let consumer = Consumer::new(bus.clone(), Uncloned(router, Arc::new(AtomicUsize::new(3))));
    let handle = consumer.handle();
    let idle = bus.clone();
    soon(consumer.with_graceful_shutdown(async move { idle.wait_idle().await }, MINUTE)).await;
    let status = handle.status();
    assert_eq!((status.acked, status.retried, status.dead), (2, 3, 0));
}

/// A source that cannot receive for so long as its permit is missing.
struct Failing(Memory, Arc<AtomicUsize>);

#[async_trait]
impl Source for Failing {
    async fn receive(&self, limit: usize) -> Result<Vec<source::Unsettled>, SourceError> {
        if self.1.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err(SourceError::unavailable("no such queue"));
        }
        self.0.receive(limit).await
    }
    fn name(&self) -> Arc<str> {
        "failing".into()
    }
}

fn is_down(health: &Health, why: &str) -> bool {
    matches!(health, Health::Down { reason } if reason.contains(why))
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_down_while_its_source_fails() {
    let (bus, works) = (Memory::new(), Arc::new(AtomicUsize::new(0)));
    bus.send(messages(["a"])).await.unwrap();
    let router = Router::new().route("/a", post(|| async {}));
    let consumer = Consumer::new(Failing(bus.clone(), Arc::clone(&works)), router);
    let handle = consumer.handle();
    assert!(handle.health().is_up(), "it does not run yet");
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(consumer.with_graceful_shutdown(async { drop(stopped.await) }, MINUTE));
    until("it is down", async || is_down(&handle.health(), "no such queue")).await;
    works.store(1, Ordering::SeqCst);
    until("it is up", async || handle.health().is_up()).await;
    until("it is handled", async || handle.status().acked == 1).await;
    stop.send(()).unwrap();
    running.await.unwrap();
    assert!(handle.health().is_up(), "it was told to stop");
}

#[tokio::test]
async fn a_consumer_that_ended_before_its_time_is_down_and_its_bus_with_it() {
    let settings: Settings =
        toml::from_str("BACKEND = 'memory'\n[CONSUMERS.users]\n[CONSUMERS.orders]").unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let consumers = ["users", "orders"].map(|name| bus.consumer(name, Router::new()).unwrap());
    let handles = consumers.each_ref().map(|consumer| consumer.handle());
    assert!(bus.health().await.is_up());
    let [users, orders] =
        consumers.map(|one| tokio::spawn(one.with_graceful_shutdown(std::future::pending(), STUCK)));
    tokio::task::yield_now().await;
    users.abort();
    users.await.unwrap_err();
    assert!(is_down(&handles[0].health(), "dropped") && handles[1].health().is_up());
    assert!(is_down(&bus.health().await, "the consumer `users`"));
    // Another of the same name takes its place.
    let again = bus.consumer("users", Router::<()>::new()).unwrap();
    assert!(bus.health().await.is_up());
    orders.abort();
    orders.await.unwrap_err();
    assert!(is_down(&bus.health().await, "the consumer `orders`"));
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_whose_source_was_closed_is_down() {
    let bus = Arc::new(Memory::new());
    let consumer = Consumer::new(Arc::clone(&bus), Router::new());
    let handle = consumer.handle();
    let running = tokio::spawn(consumer.with_graceful_shutdown(std::future::pending(), MINUTE));
    tokio::task::yield_now().await;
    Source::close(&*bus, MINUTE).await;
    soon(running).await.unwrap();
    assert!(is_down(&handle.health(), "closed"));
}

//! Queues that expire, and those that do not.

use std::path::Path;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tower_outbox::routing::{Pattern, RouterSettings, SiteRouter};

use super::{STUCK, assert_empty, contents, namespace, numbers, publish, receive, subscribe};

const EXPIRY: Duration = Duration::from_millis(1_500);

async fn router(folder: &Path) -> SiteRouter {
    let mut settings = RouterSettings::new(folder.join("router"));
    settings.queue_expiry = EXPIRY;
    SiteRouter::open(settings).await.unwrap()
}

async fn until_gone(router: &SiteRouter) {
    let gone = async {
        while router.counts().queues > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(STUCK, gone).await.expect("the queue stays");
}

#[tokio::test]
async fn an_expired_queue_is_gone_with_its_messages_which_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path()).await;
    drop(subscribe(&router, "x", "*").await);
    publish(&router, "a", 0..5).await;
    until_gone(&router).await;
    let counts = router.counts();
    assert_eq!((counts.dropped, counts.queued, counts.queued_bytes), (5, 0, 0));
    assert_empty(&subscribe(&router, "x", "*").await).await;
    router.close().await;
}

#[tokio::test]
async fn a_connected_subscriber_keeps_its_queue_and_its_time_begins_when_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path()).await;
    let connected = subscribe(&router, "x", "*").await;
    publish(&router, "a", 0..5).await;
    // It does not take a message for longer than the expiry.
    sleep(2 * EXPIRY).await;
    assert_eq!(router.counts().queues, 1);
    drop(connected);
    sleep(EXPIRY / 3).await;
    // The same identifier, in time: the queue, and its time begins again.
    let again = subscribe(&router, "x", "*").await;
    assert_eq!(contents(&receive(&again, 5).await), numbers(0..5));
    router.close().await;
}

#[tokio::test]
async fn a_queue_that_expired_while_the_router_was_down_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let first = router(folder.path()).await;
    drop(subscribe(&first, "x", "*").await);
    publish(&first, "a", 0..5).await;
    first.close().await;
    drop(first);
    // The end is kept in whole seconds.
    sleep(EXPIRY + Duration::from_secs(1)).await;
    let second = router(folder.path()).await;
    assert_empty(&subscribe(&second, "x", "*").await).await;
    second.close().await;
}

/// A subscriber that asks for less may not have come back yet.
#[tokio::test]
async fn a_queue_lives_for_a_minute_at_least() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SiteRouter::open(RouterSettings::new(folder.path().join("router")));
    let first = open().await.unwrap();
    let none = Duration::ZERO;
    drop(first.subscribe(b"jo", "x", &namespace(), &Pattern::all(), none).await.unwrap());
    publish(&first, "a", 0..5).await;
    first.close().await;
    drop(first);
    // The end is kept in whole seconds.
    sleep(Duration::from_millis(1_100)).await;
    let second = open().await.unwrap();
    assert_eq!(contents(&receive(&subscribe(&second, "x", "*").await, 5).await), numbers(0..5));
    second.close().await;
}

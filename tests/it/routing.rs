//! The router of a site: queues, limits, last values, and restarts.

mod app;
mod expiry;
mod seals;

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;
use tower_outbox::routing::{
    Leased, Namespace, Pattern, PayloadObject, QueueLimits, RouteError, RoutedMessage, RouterSettings,
    SiteRouter, Subscription, Uri,
};

const STUCK: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3_600);

fn namespace() -> Namespace {
    Namespace::named("site").unwrap()
}

fn message(uri: &str, content: impl Into<Vec<u8>>) -> RoutedMessage {
    let object = PayloadObject { schema: "text".to_owned(), content: content.into().into() };
    RoutedMessage::new(namespace(), Uri::new(uri).unwrap(), vec![object])
}

async fn router(folder: &Path) -> SiteRouter {
    SiteRouter::open(RouterSettings::new(folder.join("router"))).await.unwrap()
}

async fn subscribe(router: &SiteRouter, identifier: &str, pattern: &str) -> Subscription {
    let pattern = Pattern::new(pattern).unwrap();
    router.subscribe(b"jo", identifier, &namespace(), &pattern, HOUR).await.unwrap()
}

async fn publish(router: &SiteRouter, uri: &str, contents: std::ops::Range<u32>) {
    for n in contents {
        router.publish(message(uri, n.to_string())).await.unwrap();
    }
}

/// Receives so many messages, and acknowledges them.
async fn receive(subscription: &Subscription, count: usize) -> Vec<Leased> {
    let mut received: Vec<Leased> = Vec::new();
    while received.len() < count {
        let leased =
            timeout(STUCK, subscription.lease(count - received.len())).await.expect("no message comes");
        received.extend(leased.unwrap());
    }
    subscription.ack(&received.iter().map(|leased| leased.seq).collect::<Vec<_>>());
    received
}

fn contents(leased: &[Leased]) -> Vec<String> {
    let text = |leased: &Leased| String::from_utf8(leased.message.payload[0].content.to_vec()).unwrap();
    leased.iter().map(text).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn assert_empty(subscription: &Subscription) {
    let more = timeout(Duration::from_millis(200), subscription.lease(1)).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn each_subscriber_gets_the_messages_of_its_pattern_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path()).await;
    let (floor, all) = (subscribe(&router, "", "a/+").await, subscribe(&router, "", "*").await);
    let other = router
        .subscribe(b"jo", "", &Namespace::named("other").unwrap(), &Pattern::all(), HOUR)
        .await
        .unwrap();
    publish(&router, "a/b", 0..50).await;
    publish(&router, "c", 50..60).await;
    let received = receive(&floor, 50).await;
    assert_eq!(contents(&received), numbers(0..50));
    assert_eq!(received[0].message.origin, *router.id());
    assert_eq!((received[0].message.timestamps.len(), &received[0].message.drops[..]), (1, &[0][..]));
    assert_eq!(contents(&receive(&all, 60).await), numbers(0..60));
    assert_empty(&floor).await;
    assert_empty(&other).await;
    let counts = router.counts();
    assert_eq!((counts.published, counts.enqueued, counts.committed), (60, 110, 110));
    assert_eq!((counts.queued, counts.queued_bytes, counts.subscribers), (0, 0, 3));
    router.close().await;
    assert!(matches!(router.publish(message("a", "x")).await, Err(RouteError::Closed)));
}

#[tokio::test]
async fn a_full_queue_drops_its_oldest_messages_and_tells_how_many() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = RouterSettings::new(folder.path().join("router"));
    settings.subscription_limits = QueueLimits { length: 10, bytes: 1 << 20 };
    let router = SiteRouter::open(settings).await.unwrap();
    let subscription = subscribe(&router, "x", "*").await;
    publish(&router, "a", 0..15).await;
    // A delivery that is not acknowledged reports nothing for good.
    drop(subscription.lease(1).await.unwrap());
    drop(subscription);
    let subscription = subscribe(&router, "x", "*").await;
    let received = receive(&subscription, 10).await;
    assert_eq!(contents(&received), numbers(5..15));
    let drops: Vec<_> = received.iter().map(|leased| leased.message.drops[0]).collect();
    assert_eq!(drops, [5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(router.counts().dropped, 5);
    for _ in 0..5 {
        router.publish(message("a", vec![b'x'; 400_000])).await.unwrap();
    }
    let received = receive(&subscription, 2).await;
    assert_eq!(received[0].message.drops[0], 3);
    assert_empty(&subscription).await;
    // A message that is larger than the queue is taken when the queue is empty only.
    router.publish(message("a", vec![b'x'; 2 << 20])).await.unwrap();
    router.publish(message("a", "small")).await.unwrap();
    assert_eq!(contents(&receive(&subscription, 1).await), ["small"]);
    router.publish(message("a", "small")).await.unwrap();
    router.publish(message("a", vec![b'x'; 2 << 20])).await.unwrap();
    router.publish(message("a", "next")).await.unwrap();
    let received = receive(&subscription, 2).await;
    assert_eq!(contents(&received), ["small", "next"]);
    router.close().await;
}

#[tokio::test]
async fn a_queue_is_resumed_after_a_restart_by_owner_and_identifier() {
    let folder = tempfile::tempdir().unwrap();
    let first = router(folder.path()).await;
    let id = first.id().clone();
    let (mine, other) = (subscribe(&first, "x", "a/*").await, subscribe(&first, "y", "a").await);
    publish(&first, "a", 0..20).await;
    assert_eq!(contents(&receive(&mine, 5).await), numbers(0..5));
    let leased = mine.lease(3).await.unwrap();
    mine.ack(&[leased[1].seq]);
    drop((mine, other));
    first.close().await;
    drop(first);
    let second = router(folder.path()).await;
    assert_eq!(*second.id(), id);
    publish(&second, "a", 20..22).await;
    let mine = subscribe(&second, "x", "a/*").await;
    let wanted: Vec<_> = (5..22).filter(|n| *n != 6).map(|n| n.to_string()).collect();
    assert_eq!(contents(&receive(&mine, 16).await), wanted);
    assert_eq!(contents(&receive(&subscribe(&second, "y", "a").await, 22).await), numbers(0..22));
    let pattern = Pattern::new("a/*").unwrap();
    let stranger = second.subscribe(b"bo", "x", &namespace(), &pattern, HOUR).await.unwrap();
    assert_empty(&stranger).await;
    second.close().await;
}

#[tokio::test]
async fn the_newer_of_two_subscribers_with_one_identifier_gets_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path()).await;
    let former = subscribe(&router, "x", "*").await;
    publish(&router, "a", 0..3).await;
    let leased = former.lease(2).await.unwrap();
    assert_eq!(leased.len(), 2);
    let newer = subscribe(&router, "x", "*").await;
    assert!(matches!(former.lease(1).await, Err(RouteError::Unsubscribed)));
    former.ack(&[leased[0].seq]);
    former.release(&[leased[1].seq]);
    drop(former);
    assert_eq!(contents(&receive(&newer, 2).await), numbers(1..3));
    let waiting = newer.lease(1);
    assert!(router.unsubscribe(b"jo", "x").await.unwrap());
    assert!(matches!(timeout(STUCK, waiting).await.unwrap(), Err(RouteError::Unsubscribed)));
    assert!(!router.unsubscribe(b"jo", "x").await.unwrap());
    router.close().await;
}

#[tokio::test]
async fn a_lease_that_is_dropped_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path()).await;
    let subscription = subscribe(&router, "", "*").await;
    let publishing = publish(&router, "a", 0..200);
    let receiving = async {
        let mut received = Vec::new();
        while received.len() < 200 {
            if let Ok(leased) = timeout(Duration::from_micros(300), subscription.lease(7)).await {
                let leased = leased.unwrap();
                subscription.ack(&leased.iter().map(|leased| leased.seq).collect::<Vec<_>>());
                received.extend(leased);
            }
        }
        received
    };
    let ((), received) = tokio::join!(publishing, timeout(STUCK, receiving));
    assert_eq!(contents(&received.unwrap()), numbers(0..200));
    router.close().await;
}

#[tokio::test]
async fn a_lease_that_is_dropped_while_it_reads_the_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let first = router(folder.path()).await;
    drop(subscribe(&first, "x", "*").await);
    publish(&first, "a", 0..20).await;
    first.close().await;
    drop(first);
    // After a restart no message is in memory.
    let second = router(folder.path()).await;
    let subscription = subscribe(&second, "x", "*").await;
    // The disk may be faster than the poll; then no lease is dropped.
    if let Some(leased) = subscription.lease(10).now_or_never() {
        subscription.release(&leased.unwrap().iter().map(|leased| leased.seq).collect::<Vec<_>>());
    }
    assert_eq!(contents(&receive(&subscription, 20).await), numbers(0..20));
    second.close().await;
}

#[tokio::test]
async fn a_failed_message_comes_again_after_its_delay() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path()).await;
    let subscription = subscribe(&router, "", "*").await;
    publish(&router, "a", 0..2).await;
    let leased = subscription.lease(1).await.unwrap();
    subscription.retry(leased[0].seq, Duration::from_millis(100), "busy");
    assert_eq!(contents(&receive(&subscription, 1).await), ["1"]);
    let again = receive(&subscription, 1).await;
    assert_eq!((contents(&again), again[0].attempts), (vec!["0".to_owned()], 1));
    router.close().await;
}

#[tokio::test]
async fn the_last_value_of_each_uri_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = router(folder.path()).await;
    for (uri, content) in [("a/b/c", "old"), ("a/b/c", "new"), ("a/c", "1"), ("x/c", "2")] {
        first.publish(message(uri, content).with_persist(true)).await.unwrap();
    }
    first.publish(message("a/b/c", "not persisted")).await.unwrap();
    first.close().await;
    drop(first);
    let second = router(folder.path()).await;
    for (pattern, wanted) in [
        ("a/+/c", &["new"][..]),
        ("a/*", &["new", "1"]),
        ("*/c", &["new", "1", "2"]),
        ("a/b/c", &["new"]),
        ("b", &[]),
    ] {
        let mut values = second.query(&namespace(), &Pattern::new(pattern).unwrap());
        let (mut found, mut next) = (Vec::new(), values.next().await);
        while !next.is_empty() {
            found.extend(next);
            next = values.next().await;
        }
        let found: Vec<_> =
            found.iter().map(|it| String::from_utf8_lossy(&it.payload[0].content).into_owned()).collect();
        assert_eq!(found, wanted, "{pattern}");
    }
    second.close().await;
}

#[tokio::test]
async fn segments_that_are_not_needed_are_rewritten_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let first = router(folder.path()).await;
    let (slow, fast) = (subscribe(&first, "slow", "slow").await, subscribe(&first, "fast", "fast").await);
    publish(&first, "slow", 0..10).await;
    // A queue still has the value that is replaced later, when the segment is not the last one any more.
    let holder = subscribe(&first, "holder", "value").await;
    first.publish(message("value", "replaced").with_persist(true)).await.unwrap();
    let log = folder.path().join("router/log");
    let segments =
        || std::fs::read_dir(&log).unwrap().filter(|it| it.as_ref().unwrap().file_name() != "lock").count();
    for round in 0..60 {
        if round == 12 {
            first.publish(message("value", "kept").with_persist(true)).await.unwrap();
        }
        for _ in 0..4 {
            first.publish(message("fast", vec![b'x'; 1 << 20])).await.unwrap();
        }
        receive(&fast, 4).await;
        if !log.join("00000000000000000001.log").exists() {
            break;
        }
    }
    let gone = async {
        while log.join("00000000000000000001.log").exists() || segments() > 5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(STUCK, gone).await.expect("the oldest segments stay");
    drop((slow, fast, holder));
    first.close().await;
    drop(first);
    let second = router(folder.path()).await;
    assert_eq!(contents(&receive(&subscribe(&second, "slow", "slow").await, 10).await), numbers(0..10));
    let values = second.query(&namespace(), &Pattern::all()).next().await;
    assert_eq!((values.len(), &values[0].payload[0].content[..]), (1, &b"kept"[..]));
    assert_empty(&subscribe(&second, "fast", "fast").await).await;
    second.close().await;
}

#[tokio::test]
async fn with_a_flush_interval_handled_messages_are_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = RouterSettings::new(folder.path().join("router"));
    settings.flush_interval = Some(HOUR);
    let first = SiteRouter::open(settings).await.unwrap();
    let subscription = subscribe(&first, "x", "*").await;
    let size = || {
        let files = std::fs::read_dir(folder.path().join("router/log")).unwrap();
        let texts = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
        texts.filter(|bytes| bytes.windows(8).any(|window| window == b"anything")).count()
    };
    for _ in 0..10 {
        first.publish(message("a", "anything")).await.unwrap();
    }
    receive(&subscription, 10).await;
    assert_eq!(size(), 0);
    publish(&first, "a", 0..3).await;
    first.close().await;
    assert_eq!(size(), 0);
    drop((subscription, first));
    let second = router(folder.path()).await;
    assert_eq!(contents(&receive(&subscribe(&second, "x", "*").await, 3).await), numbers(0..3));
    second.close().await;
}

#[tokio::test]
async fn only_own_messages_go_up_and_none_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = RouterSettings::new(folder.path().join("router"));
    settings.uplinks = vec![namespace()];
    let router = SiteRouter::open(settings).await.unwrap();
    let upstream = router.subscribe_upstream(&namespace()).await.unwrap();
    let patterns = vec![Pattern::new("a/*").unwrap(), Pattern::new("a/+").unwrap()];
    let peer = router.subscribe_peer(b"peer", "peer-id", &namespace(), patterns).await.unwrap();
    publish(&router, "a/b", 0..1).await;
    let mut foreign = message("a/b", "1").with_persist(true);
    foreign.origin = "peer-id".into();
    router.forward(vec![foreign.clone()]).await.remove(0).unwrap();
    foreign.origin = "third".into();
    router.forward(vec![foreign]).await.remove(0).unwrap();
    assert_eq!(contents(&receive(&upstream, 1).await), ["0"]);
    assert_empty(&upstream).await;
    assert_eq!(contents(&receive(&peer, 2).await), ["0", "1"]);
    assert_empty(&peer).await;
    assert!(
        router.query(&namespace(), &Pattern::all()).next().await.is_empty(),
        "values are kept at the top only"
    );
    router.close().await;
}

#[tokio::test]
async fn too_many_queues_and_too_large_messages_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = RouterSettings::new(folder.path().join("router"));
    settings.max_queues = 2;
    let router = SiteRouter::open(settings).await.unwrap();
    let (first, _second) = (subscribe(&router, "x", "*").await, subscribe(&router, "y", "*").await);
    let third = router.subscribe(b"jo", "z", &namespace(), &Pattern::all(), HOUR).await;
    assert!(matches!(third, Err(RouteError::SubscriptionFailed(_))), "{third:?}");
    drop(first);
    subscribe(&router, "x", "*").await;
    let large = router.publish(message("a", vec![0; 17 << 20])).await;
    assert!(matches!(large, Err(RouteError::TooLarge { .. })), "{large:?}");
    router.close().await;
}

//! The router of a site: published messages a second against a bare loop of write and fdatasync on the same disk; the tree of
//! subscriptions; a million stored messages.
//!
//!     cargo bench -p tower-outbox-benches --bench routing
//!     cargo bench -p tower-outbox-benches --bench routing -- --quick     a short run
//!
//! | part | what |
//! |---|---|
//! | publish | 1, 16, 64 and 256 publishers, one subscriber that acknowledges; messages of 300 bytes. `bare` gathers whatever waits into one `write` and one `fdatasync`, of records as long. Turns alternate; each ratio is taken within one round |
//! | tree | a message that nobody subscribes to, beside 10 to 100,000 subscriptions to other URIs: it is routed, and not stored |
//! | depth | the same with 10,000 subscriptions, and URIs of 2 to 64 levels |
//! | row | from a site over the designated router to another site, in one process: messages/s from end to end |
//! | hop | from a publisher at a site to a subscriber at the centre, over gRPC, at 1,000 messages/s; beside it two mosquittos with a bridge, QoS 1 |
//! | stored | 10,000 queues with 100 messages each: memory, and the time until the router is open again |

#[path = "routing/hops.rs"]
mod hops;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::group_commit::bare;
use support::{Spread, asked, disk, quick};
use tower_outbox::routing::{
    Namespace, Pattern, PayloadObject, RoutedMessage, RouterSettings, SiteRouter, Subscription, Uri,
};

const PUBLISHERS: [usize; 4] = [1, 16, 64, 256];
const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::main(worker_threads = 2)]
async fn main() {
    if asked("publish") {
        publish().await;
    }
    if asked("tree") {
        tree().await;
    }
    if asked("depth") {
        depth().await;
    }
    if asked("row") {
        hops::row().await;
    }
    if asked("hop") {
        hops::hop().await;
    }
    if asked("stored") {
        stored().await;
    }
}

fn namespace() -> Namespace {
    Namespace::from_bytes(&[7; 34]).expect("it is one")
}

fn message(uri: &str, len: usize) -> RoutedMessage {
    let object = PayloadObject { schema: "bench".to_owned(), content: vec![b'x'; len].into() };
    RoutedMessage::new(namespace(), Uri::new(uri).expect("it is one"), vec![object])
}

async fn subscribe(router: &SiteRouter, pattern: &str) -> Subscription {
    let pattern = Pattern::new(pattern).expect("it is one");
    router.subscribe(b"bench", pattern.as_str(), &namespace(), &pattern, HOUR).await.expect("there is room")
}

async fn publish() {
    let (rounds, turn) = if quick() { (3, Duration::from_millis(200)) } else { (9, Duration::from_secs(1)) };
    let folder = disk::folder("routing");
    let router = SiteRouter::open(RouterSettings::new(folder.path().join("router"))).await.expect("it opens");
    let subscription = Arc::new(subscribe(&router, "a/*").await);
    let acknowledging = tokio::spawn(async move {
        while let Ok(leased) = subscription.lease(256).await {
            subscription.ack(&leased.iter().map(|leased| leased.seq).collect::<Vec<_>>());
        }
    });
    let routed = message("a/b", 300);
    // A record has a header of 24 bytes.
    let record = Bytes::from(vec![b'x'; routed.size() + 32]);
    let group = Arc::new(bare(folder.path(), Arc::default()));
    for publishers in PUBLISHERS {
        let publishing = {
            let (router, routed) = (router.clone(), routed.clone());
            move || {
                let (router, routed) = (router.clone(), routed.clone());
                async move { router.publish(routed).await.expect("there is room") }
            }
        };
        let appending = {
            let (group, record) = (Arc::clone(&group), record.clone());
            move || {
                let (group, record) = (Arc::clone(&group), record.clone());
                async move { group.append(record).await }
            }
        };
        let (mut routed, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (ours, theirs) = (
                rate(publishers, turn, publishing.clone()).await,
                rate(publishers, turn, appending.clone()).await,
            );
            routed.push(ours);
            bare.push(theirs);
            ratios.push(ours / theirs);
        }
        println!("{publishers} publishers");
        println!("  router {:>8.0} messages/s", Spread::of(routed));
        println!("  bare   {:>8.0} appends/s", Spread::of(bare));
        println!("  router / bare {:.2}   target >= 0.5", Spread::of(ratios));
    }
    router.close().await;
    acknowledging.abort();
}

async fn rate<F, T>(tasks: usize, time: Duration, step: F) -> f64
where
    F: Fn() -> T + Clone + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let (stop, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (step, stop) = (step.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    step().await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("it does not panic");
    }
    f64::from(done) / begun.elapsed().as_secs_f64()
}

async fn tree() {
    let most = if quick() { 10_000 } else { 100_000 };
    let folder = disk::folder("routing");
    let mut settings = RouterSettings::new(folder.path().join("router"));
    settings.flush_interval = Some(HOUR);
    settings.max_queues = most;
    let router = SiteRouter::open(settings).await.expect("it opens");
    let mut subscriptions = Vec::new();
    for count in [10, 1_000, 10_000, most] {
        while subscriptions.len() < count {
            let more = (subscriptions.len()..count.min(subscriptions.len() + 1_000)).map(|n| {
                let router = router.clone();
                tokio::spawn(async move { subscribe(&router, &format!("site/{}/{n}/+", n % 100)).await })
            });
            for task in more.collect::<Vec<_>>() {
                subscriptions.push(task.await.expect("it does not panic"));
            }
        }
        let (messages, begun) = (20_000, Instant::now());
        for n in 0..messages {
            router.publish(message(&format!("site/{}/none/x", n % 100), 10)).await.expect("there is room");
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / f64::from(messages);
        println!("{count:>7} subscriptions: {each:.1} µs for a message that nobody subscribes to");
    }
    router.close().await;
}

async fn depth() {
    let folder = disk::folder("routing");
    let mut settings = RouterSettings::new(folder.path().join("router"));
    settings.flush_interval = Some(HOUR);
    let router = SiteRouter::open(settings).await.expect("it opens");
    let mut subscriptions = Vec::new();
    for n in 0..10_000 {
        // A third of them has wildcards.
        let pattern = match n % 3 {
            0 => format!("site/{n}/*"),
            1 => format!("*/{n}"),
            _ => format!("site/x/{n}"),
        };
        subscriptions.push(subscribe(&router, &pattern).await);
    }
    for levels in [2, 4, 16, 64] {
        let uri = format!("site{}", "/x".repeat(levels - 1));
        let (messages, begun) = (20_000, Instant::now());
        for _ in 0..messages {
            router.publish(message(&uri, 10)).await.expect("there is room");
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / f64::from(messages);
        println!("{levels:>7} levels, 10,000 subscriptions: {each:.1} µs");
    }
    router.close().await;
}

async fn stored() {
    let (queues, each) = if quick() { (1_000, 100) } else { (10_000, 100) };
    let folder = disk::folder("routing");
    let mut settings = RouterSettings::new(folder.path().join("router"));
    settings.flush_interval = Some(Duration::from_secs(1));
    let before = memory();
    let router = SiteRouter::open(settings.clone()).await.expect("it opens");
    for first in (0..queues).step_by(1_000) {
        let opened = (first..first + 1_000).map(|n| {
            let router = router.clone();
            tokio::spawn(async move { drop(subscribe(&router, &format!("q/{n}")).await) })
        });
        for task in opened.collect::<Vec<_>>() {
            task.await.expect("it does not panic");
        }
    }
    let begun = Instant::now();
    for n in 0..queues * each {
        while let Err(error) = router.publish(message(&format!("q/{}", n % queues), 100)).await {
            // The disk is behind.
            assert!(error.to_string().contains("wait"), "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    println!(
        "{} messages in {queues} queues, stored in {:.1} s",
        queues * each,
        begun.elapsed().as_secs_f64()
    );
    router.close().await;
    println!("  memory {} MiB", (memory() - before) >> 20);
    drop(router);
    let begun = Instant::now();
    let router = SiteRouter::open(settings).await.expect("it opens");
    println!(
        "  open again after {:.2} s, memory {} MiB",
        begun.elapsed().as_secs_f64(),
        (memory() - before) >> 20
    );
    assert_eq!(router.counts().queued, (queues * each) as u64);
    router.close().await;
}

/// The resident memory in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("this is Linux");
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("it has a number");
    pages * 4_096
}

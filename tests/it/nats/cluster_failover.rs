//! Three servers, of which one at a time is killed, frozen or restarted under load.
//!
//! `scripts/chaos --nats` runs as many rounds as CHAOS_ROUNDS says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tower_outbox::Messenger;
use tower_outbox::nats::{Nats, NatsSettings, NatsSource, NatsSubscription};
use tower_outbox::source::Source;

use super::cluster::{Cluster, Fault};
use super::failover::{Load, message};
use super::raw::{SOON, body};
use super::receiving::{next, text};

/// How long a node that goes on after a freeze can take itself for the leader that it was.
const OLD_LEADER: Duration = Duration::from_secs(3);
const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Freeze, Fault::Stop];

fn rounds() -> usize {
    std::env::var("CHAOS_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap())
}

fn settings(cluster: &Cluster) -> NatsSettings {
    let mut settings = NatsSettings::new(cluster.urls());
    settings.broker.idle_timeout = Duration::from_secs(3);
    settings.broker.send_timeout = Some(Duration::from_secs(3));
    settings.broker.connection_timeout = Some(Duration::from_secs(1));
    settings
}

/// A number, when it came, and when it was settled for sure.
struct Settled {
    n: u64,
    came: Instant,
    sure: Option<Instant>,
}

/// Settles all that comes, and counts it; says when it is sure.
fn settle(source: NatsSource, came: &Arc<AtomicU64>) -> mpsc::UnboundedReceiver<Settled> {
    let (sender, settled) = mpsc::unbounded_channel();
    let came = Arc::clone(came);
    tokio::spawn(async move {
        loop {
            for delivery in source.receive(50).await.unwrap() {
                let at = Instant::now();
                came.fetch_add(1, Ordering::SeqCst);
                let n = text(&delivery).parse().unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let sure = delivery.ack().await.is_ok().then(Instant::now);
                    let _ = sender.send(Settled { n, came: at, sure });
                });
            }
        }
    });
    settled
}

/// The source is connected to another node, so it does not see that its requests for messages are gone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_source_goes_on_when_the_only_node_of_its_consumer_was_killed() {
    let mut cluster = Cluster::start().await;
    let subscription = NatsSubscription::new("work", "all").with_subject("work.>");
    let messenger = Nats::new(&settings(&cluster)).unwrap();
    let send = async |n| while messenger.send(vec![message("work.a", n)]).await.is_err() {};
    let first = NatsSource::new(&settings(&cluster), &subscription).unwrap();
    tokio::join!(send(0), async { next(&first).await.ack().await.unwrap() });
    first.close(SOON).await;
    let leader = cluster.leader_of("work", "all").await;
    let other = NatsSettings::new([cluster.urls().remove((leader + 1) % 3)]);
    let source = NatsSource::new(&other, &subscription).unwrap();
    send(1).await;
    next(&source).await.ack().await.unwrap();
    cluster.hit(leader, Fault::Kill).await;
    cluster.mend(leader, Fault::Kill).await;
    send(2).await;
    // The server forgets what was settled in the last moments before.
    while text(&next(&source).await) != "2" {}
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn nothing_confirmed_is_lost_and_nothing_settled_again() {
    let mut cluster = Cluster::start().await;
    let settings = settings(&cluster);
    let subscription = NatsSubscription::new("work", "all").with_subject("work.>").with_replicas(3);
    let came = Arc::<AtomicU64>::default();
    let mut settled = settle(NatsSource::new(&settings, &subscription).unwrap(), &came);
    let messenger = Arc::new(Nats::new(&settings).unwrap());
    let ready = async { while messenger.send(vec![message("work.a", 0)]).await.is_err() {} };
    timeout(SOON, ready).await.expect("the stream is not created");
    cluster.await_replicas("work").await;
    let load = Load::with_consumer(&messenger, "work.a", 1, &came);
    load.more(500).await;
    let (mut begun, mut thawed) = (vec![Instant::now()], Vec::new());
    for round in 0..rounds() {
        begun.push(Instant::now());
        // Each node in turn, and in every second round the leader.
        let node = match round % 2 {
            0 => cluster.leader("work").await,
            _ => round / 2 % 3,
        };
        let fault = FAULTS[round % FAULTS.len()];
        println!("round {round}: {fault:?} n{node}");
        let hit = Instant::now();
        cluster.hit(node, fault).await;
        load.more(500).await;
        if fault == Fault::Freeze {
            thawed.push((hit, Instant::now()));
        }
        cluster.mend(node, fault).await;
        cluster.await_replicas("work").await;
        load.more(200).await;
    }
    let mut wanted: BTreeSet<u64> = load.stop().await.into_iter().collect();
    wanted.insert(0);

    let client = async_nats::connect(cluster.urls()).await.unwrap();
    let mut stored = BTreeMap::<u64, usize>::new();
    let place = super::raw::Place {
        url: cluster.urls().remove(0),
        topic: "work.a".to_owned(),
        stream: "work".to_owned(),
        context: jetstream::new(client.clone()),
        client,
    };
    for message in place.stored().await {
        *stored.entry(body(&message).parse().unwrap()).or_default() += 1;
    }
    let lost: Vec<_> = wanted.iter().filter(|n| !stored.contains_key(n)).collect();
    let twice: Vec<_> = stored.iter().filter(|(_, count)| **count > 1).collect();
    println!("{} sent, {} lost, {} stored twice", wanted.len(), lost.len(), twice.len());
    assert!(lost.is_empty() && twice.is_empty(), "lost {lost:?}, stored twice {twice:?}");

    let when = |at: Instant| {
        let round = begun.partition_point(|begun| *begun <= at) - 1;
        format!("{:?} into round {}", at - begun[round], round as i64 - 1)
    };
    // A leader that goes on delivers what was settled during its freeze, until it learns that it leads no longer.
    let by_old_leader = |settled: Instant, came: Instant| {
        let is_of = |(frozen, thawed): &(Instant, Instant)| {
            *frozen < settled && *thawed < came && came < *thawed + OLD_LEADER
        };
        thawed.iter().any(is_of)
    };
    let (mut sure, mut arrived, mut again) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    let mut repeated = 0;
    let arrive = async {
        while arrived.len() < wanted.len() {
            let got = settled.recv().await.unwrap();
            arrived.insert(got.n);
            match sure.get(&got.n) {
                Some(at) if by_old_leader(*at, got.came) => repeated += 1,
                Some(at) => again.push(format!("{}: settled {}, again {}", got.n, when(*at), when(got.came))),
                None => {}
            }
            sure.extend(got.sure.map(|at| (got.n, at)));
        }
    };
    let all = timeout(Duration::from_secs(90), arrive).await;
    println!(
        "{} received; {repeated} again after a thaw, {} else after they were settled",
        arrived.len(),
        again.len()
    );
    assert!(all.is_ok(), "{} of {} are not received", wanted.len() - arrived.len(), wanted.len());
    assert!(again.is_empty(), "settled, and again received: {:#?}", &again[..again.len().min(9)]);
}

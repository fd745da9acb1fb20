//! Servers that are old, killed, or away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower_outbox::channels::jetstream::{
    BrokerSettings, JetstreamEngine, JetstreamEngineSettings, JetstreamError,
};
use tower_outbox::channels::{
    ChannelKind, ChannelLimits, Engine, EngineError, Queues, Receive, Settle, Start, Streams, Subscribe,
    Which,
};

use super::super::{content, message, name};
use crate::nats::cluster::{Cluster, Fault};
use crate::peers::{Brokers, unique};

const LONG: Duration = Duration::from_secs(90);
/// How many confirmed messages may wait to be received.
const BACKLOG: usize = 500;
/// The pause between two sends, so that a busy machine has time for elections.
const PACE: Duration = Duration::from_millis(5);
/// The delay of every second rejected message.
const REJECTED_FOR: Duration = Duration::from_millis(300);
/// The streams whose leaders are killed, in turn.
const PLACES: [&str; 3] = ["channels-queue-q", "channels-stream-s", "channels-delayed"];

fn rounds() -> usize {
    std::env::var("CHAOS_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap())
}

fn settings(cluster: &Cluster) -> JetstreamEngineSettings {
    let mut settings = JetstreamEngineSettings::new(cluster.urls()).with_replicas(3);
    settings.broker.idle_timeout = Duration::from_secs(3);
    settings.broker.connection_timeout = Some(Duration::from_secs(2));
    settings.broker.send_timeout = Some(Duration::from_secs(20));
    settings
}

/// Numbers whose messages were confirmed, and those whose acknowledgements were.
#[derive(Default)]
struct Load {
    next: AtomicU64,
    /// With the sequences of the confirms.
    sent: Mutex<BTreeMap<u64, u64>>,
    received: Mutex<BTreeMap<u64, Vec<u64>>>,
    /// With the time of the acknowledgement.
    acked: Mutex<BTreeMap<u64, Instant>>,
    /// Those whose acknowledgement failed, which may be done.
    unknown: Mutex<BTreeSet<u64>>,
    again: Mutex<Vec<u64>>,
    /// Those whose rejection failed, which may be done too: the message and what became of it both come.
    doubtful: Mutex<BTreeSet<u64>>,
    /// Those that were on their way to two receives.
    in_transit: AtomicU64,
}

impl Load {
    fn text(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// A receive that began at `begun` got a message.
    fn came(&self, n: u64, sequence: u64, begun: Instant) {
        let mut received = self.received.lock().unwrap();
        received.entry(n).or_default().push(sequence);
        match self.acked.lock().unwrap().get(&n) {
            Some(_) if self.doubtful.lock().unwrap().contains(&n) => {}
            Some(acked) if *acked < begun => self.again.lock().unwrap().push(n),
            Some(_) => drop(self.in_transit.fetch_add(1, Ordering::Relaxed)),
            None => {}
        }
    }

    fn acknowledged(&self, n: u64, is_known: bool) {
        if is_known {
            self.acked.lock().unwrap().entry(n).or_insert_with(Instant::now);
        } else {
            self.unknown.lock().unwrap().insert(n);
        }
    }

    /// The confirmed messages that were not acknowledged, with their sequences.
    fn missing(&self) -> Vec<(u64, u64)> {
        let (sent, acked) = (self.sent.lock().unwrap(), self.acked.lock().unwrap());
        let unknown = self.unknown.lock().unwrap();
        let is_missing = |n: &u64| !acked.contains_key(n) && !unknown.contains(n);
        sent.iter().filter(|(n, _)| is_missing(n)).map(|(n, sequence)| (*n, *sequence)).collect()
    }

    /// Waits while many confirmed messages are not received, so that the rest is received soon at the end.
    async fn keep_up(&self) {
        while self.sent.lock().unwrap().len() > self.received.lock().unwrap().len() + BACKLOG {
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn more(&self, count: usize) {
        let wanted = self.acked.lock().unwrap().len() + count;
        let more = async {
            while self.acked.lock().unwrap().len() < wanted {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, more).await.expect("no more messages are acknowledged");
    }

    /// Waits until all are acknowledged. Of those that are not it prints where they are.
    async fn settle_down(&self, cluster: &Cluster, stream: &str) {
        let all = async {
            while !self.missing().is_empty() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(LONG, all).await.is_ok() {
            return;
        }
        let client = async_nats::connect(&cluster.urls()[0]).await.unwrap();
        let stream = async_nats::jetstream::new(client).get_stream(stream).await.unwrap();
        println!("{:?}", stream.cached_info().state);
        println!("{:?}", stream.consumer_info("engine").await);
        let first = stream.cached_info().config.first_sequence.unwrap_or(1);
        for (n, sequence) in self.missing().into_iter().take(20) {
            let stored = stream.get_raw_message(first + sequence - 1).await;
            let came = self.received.lock().unwrap().get(&n).cloned();
            println!("{n} at {sequence}: received at {came:?}, stored: {}", stored.is_ok());
        }
    }

    fn finish(&self, what: &str) {
        let (sent, received) = (self.sent.lock().unwrap().len(), self.received.lock().unwrap().clone());
        let lost = self.missing();
        let again = self.again.lock().unwrap();
        let twice = received.values().filter(|sequences| sequences.len() > 1).count();
        println!(
            "{what}: {sent} confirmed, {} lost, {} acknowledged and again received, {} acknowledged while on their way to another receive, {twice} received more than once, {} acknowledged and {} rejected with an error",
            lost.len(),
            again.len(),
            self.in_transit.load(Ordering::Relaxed),
            self.unknown.lock().unwrap().len(),
            self.doubtful.lock().unwrap().len()
        );
        let first: Vec<_> = lost.iter().take(20).collect();
        assert!(
            lost.is_empty(),
            "{what}: {} of {sent} are not acknowledged, first these with their sequences: {first:?}",
            lost.len()
        );
        let again: Vec<_> = again.iter().take(20).map(|n| (n, &received[n])).collect();
        assert!(again.is_empty(), "{what}: acknowledged, and again received, at these sequences: {again:?}");
    }
}

fn number(body: &[u8]) -> u64 {
    std::str::from_utf8(body).unwrap().parse().unwrap()
}

async fn send(engine: JetstreamEngine, load: Arc<Load>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        load.keep_up().await;
        sleep(PACE).await;
        let batch: Vec<String> = (0..5).map(|_| load.text()).collect();
        let messages = batch.iter().map(|text| (name("q"), message(text.clone()))).collect();
        for (text, sent) in batch.iter().zip(engine.send(messages).await) {
            if let Ok(sent) = sent {
                load.sent.lock().unwrap().insert(text.parse().unwrap(), sent.sequence);
            }
        }
    }
}

async fn receive(engine: JetstreamEngine, load: Arc<Load>) {
    loop {
        let receive = Receive { max: 20, wait: Duration::from_secs(2), ..Receive::default() };
        let begun = Instant::now();
        let Ok(received) = engine.receive(&name("q"), receive).await else { continue };
        for message in received.messages {
            let n = number(&message.content.body);
            load.came(n, message.sequence, begun);
            // Every tenth is rejected once, and comes again at the tail, half of them with a delay.
            let is_rejected = n.is_multiple_of(10) && message.receives == 1;
            let delay = if n.is_multiple_of(20) { REJECTED_FOR } else { Duration::ZERO };
            let settle = if is_rejected { Settle::Reject { delay } } else { Settle::Ack };
            let settled =
                engine.settle(received.receipt, Which::Sequences(vec![message.sequence]), settle).await;
            if !is_rejected {
                load.acknowledged(n, settled.is_ok());
            } else if settled.is_err() {
                load.doubtful.lock().unwrap().insert(n);
            }
        }
    }
}

async fn append(engine: JetstreamEngine, load: Arc<Load>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        load.keep_up().await;
        sleep(PACE).await;
        let text = load.text();
        if let Ok(appended) = engine.append(vec![(name("s"), content(text.clone()))]).await.remove(0) {
            load.sent.lock().unwrap().insert(text.parse().unwrap(), appended.sequence);
        }
    }
}

async fn read(engine: JetstreamEngine, load: Arc<Load>) {
    let subscribe =
        Subscribe { start: Start::First, durable: Some("reader".to_owned()), ..Subscribe::default() };
    let subscription = engine.subscribe_stream(&name("s"), subscribe).await.unwrap();
    loop {
        let begun = Instant::now();
        let Ok(messages) = subscription.receive(20).await else { continue };
        for message in messages {
            let n = number(&message.content.body);
            load.came(n, message.sequence, begun);
            load.acknowledged(n, subscription.ack(message.sequence).await.is_ok());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn killed_leaders_lose_nothing_and_repeat_nothing_acked() {
    let mut cluster = Cluster::start().await;
    let settings = settings(&cluster);
    let (one, other) = (
        JetstreamEngine::open(settings.clone()).await.unwrap(),
        JetstreamEngine::open(settings).await.unwrap(),
    );
    one.send(vec![(name("q"), message("0"))]).await.remove(0).unwrap();
    let waiting = Receive { wait: LONG, ..Receive::default() };
    let begun = one.receive(&name("q"), waiting).await.unwrap();
    one.settle(begun.receipt, Which::All, Settle::Ack).await.unwrap();
    let (queue, stream) = (Arc::<Load>::default(), Arc::<Load>::default());
    let stop = CancellationToken::new();
    let mut senders = tokio::task::JoinSet::new();
    let mut receivers = tokio::task::JoinSet::new();
    for engine in [&one, &other] {
        senders.spawn(send(engine.clone(), Arc::clone(&queue), stop.clone()));
        receivers.spawn(receive(engine.clone(), Arc::clone(&queue)));
    }
    senders.spawn(append(one.clone(), Arc::clone(&stream), stop.clone()));
    receivers.spawn(read(other.clone(), Arc::clone(&stream)));
    queue.more(200).await;
    stream.more(50).await;
    for round in 0..rounds() {
        let place = PLACES[round % PLACES.len()];
        let node = cluster.leader(place).await;
        let next = queue.next.load(Ordering::Relaxed);
        println!("round {round}: kill n{node}, which leads {place}, at message {next}");
        cluster.hit(node, Fault::Kill).await;
        queue.more(200).await;
        stream.more(50).await;
        cluster.mend(node, Fault::Kill).await;
        for place in PLACES {
            cluster.await_replicas(place).await;
        }
    }
    stop.cancel();
    timeout(LONG, senders.join_all()).await.expect("a sender hangs");
    queue.settle_down(&cluster, "channels-queue-q").await;
    stream.settle_down(&cluster, "channels-stream-s").await;
    queue.finish("queue");
    stream.finish("stream");
    receivers.shutdown().await;
}

/// Delayed messages, rejections with a delay, and names wait for the next leader of the engine's own streams.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_streams_of_the_engine_are_waited_for_while_they_have_no_leader() {
    let mut cluster = Cluster::start().await;
    let engine = JetstreamEngine::open(settings(&cluster)).await.unwrap();
    engine.send(vec![(name("q"), message("a"))]).await.remove(0).unwrap();
    let received = engine.receive(&name("q"), Receive { wait: LONG, ..Receive::default() }).await.unwrap();
    let delay = Duration::from_millis(1);
    let node = cluster.leader("channels-delayed").await;
    cluster.hit(node, Fault::Kill).await;
    let rejected = engine.settle(received.receipt, Which::All, Settle::Reject { delay }).await;
    assert_eq!(rejected.unwrap(), 1);
    cluster.mend(node, Fault::Kill).await;
    cluster.await_replicas("channels-names").await;
    let node = cluster.leader("channels-names").await;
    cluster.hit(node, Fault::Kill).await;
    engine.create(ChannelKind::Events, &name("e"), ChannelLimits::default()).await.unwrap();
}

/// Its send is made again, with the same id, until a server answers.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_sent_to_a_frozen_leader_is_stored_once() {
    let mut cluster = Cluster::start().await;
    let engine = JetstreamEngine::open(settings(&cluster)).await.unwrap();
    engine.send(vec![(name("q"), message("a"))]).await.remove(0).unwrap();
    let node = cluster.leader("channels-queue-q").await;
    cluster.hit(node, Fault::Freeze).await;
    engine.send(vec![(name("q"), message("b"))]).await.remove(0).unwrap();
    cluster.mend(node, Fault::Freeze).await;
    cluster.await_replicas("channels-queue-q").await;
    let info = engine.info(ChannelKind::Queue, &name("q")).await.unwrap().unwrap();
    assert_eq!((info.messages, info.last_sequence), (2, 2));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_engine_goes_on_when_its_servers_are_back() {
    let mut cluster = Cluster::start().await;
    let mut settings = settings(&cluster);
    let patient = JetstreamEngine::open(settings.clone()).await.unwrap();
    patient.send(vec![(name("q"), message("a"))]).await.remove(0).unwrap();
    settings.broker.send_timeout = Some(Duration::from_secs(2));
    let engine = JetstreamEngine::open(settings).await.unwrap();
    engine.peek(&name("q"), 1, Duration::ZERO).await.unwrap();
    for node in 0..3 {
        cluster.hit(node, Fault::Stop).await;
    }
    let begun = Instant::now();
    let failed = engine.send(vec![(name("q"), message("lost"))]).await.remove(0).unwrap_err();
    assert!(failed.is_transient() && begun.elapsed() < LONG / 2, "{failed}");
    assert!(matches!(engine.health().await, Err(EngineError::Unavailable(_))));
    for node in 0..3 {
        cluster.start_node(node);
    }
    let back = async {
        loop {
            let receive = Receive { wait: Duration::from_secs(1), ..Receive::default() };
            match engine.receive(&name("q"), receive).await {
                Ok(received) if !received.messages.is_empty() => return received,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let received = timeout(LONG, back).await.expect("nothing comes again");
    assert_eq!(&*received.messages[0].content.body, b"a");
    let settled = async { while engine.settle(received.receipt, Which::All, Settle::Ack).await.is_err() {} };
    timeout(LONG, settled).await.expect("it cannot be settled");
    timeout(LONG, async { while engine.health().await.is_err() {} }).await.expect("it stays ill");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_old_server_is_refused_and_no_server_named() {
    let (old, _folder, _server) = crate::nats::old_server::old_server().await;
    let refused = JetstreamEngine::open(JetstreamEngineSettings::new([&old.url])).await.unwrap_err();
    assert!(matches!(&refused, JetstreamError::TooOld(version) if version.starts_with("2.9")), "{refused}");
    let nowhere =
        JetstreamEngine::open(JetstreamEngineSettings::new(["nats://127.0.0.1:1"])).await.unwrap_err();
    assert!(matches!(nowhere, JetstreamError::NoConnection(_)), "{nowhere}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_engine_connects_with_a_client_certificate() {
    let (brokers, prefix) = (Brokers::running(), unique("tls"));
    let mutual = BrokerSettings::new([brokers.get("NATS1_TLS")])
        .with_certificate(brokers.certificate("client.pem"))
        .with_cacert(brokers.certificate("ca.pem"));
    let settings = JetstreamEngineSettings::from(mutual.clone()).with_prefix(&prefix);
    let engine = JetstreamEngine::open(settings).await.unwrap();
    engine.health().await.unwrap();
    assert!(engine.capabilities().is_shared && !engine.capabilities().settles_at_once);
    engine.close(LONG).await;
    let stranger = BrokerSettings::new([brokers.get("NATS1_TLS")]).with_cacert(brokers.certificate("ca.pem"));
    let refused = JetstreamEngine::open(stranger.into()).await.unwrap_err();
    assert!(matches!(refused, JetstreamError::NoConnection(_)), "{refused}");
    let streams = async_nats::jetstream::new(async_nats::connect(brokers.get("NATS1")).await.unwrap());
    for name in ["delayed", "names"] {
        streams.delete_stream(format!("{prefix}-{name}")).await.unwrap();
    }
}

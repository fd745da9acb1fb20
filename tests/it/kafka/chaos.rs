//! A broker that is frozen and cut off under load, while the member of a group comes and goes. `CHAOS_ROUNDS` says how often; the number
//! `CHAOS_SEED` repeats the same faults.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower_outbox::Messenger;
use tower_outbox::kafka::{Kafka, KafkaSettings, KafkaSource};
use tower_outbox::source::{Source, SourceError};

use super::raw::{Place, SOON, body};
use super::receiving::text;

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// How many confirmed messages may wait to be settled.
const BACKLOG: u64 = 10_000;

/// The settlements of each number that succeeded.
type Settled = Arc<Mutex<BTreeMap<u64, u32>>>;

/// A member of the group.
struct Member {
    source: Arc<KafkaSource>,
    has_received: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Member {
    fn join(source: KafkaSource, settled: &Settled) -> Self {
        let (source, settled, has_received) =
            (Arc::new(source), Arc::clone(settled), Arc::<AtomicBool>::default());
        let task = tokio::spawn(Self::consume(Arc::clone(&source), settled, Arc::clone(&has_received)));
        Self { source, has_received, task }
    }

    async fn consume(source: Arc<KafkaSource>, settled: Settled, has_received: Arc<AtomicBool>) {
        loop {
            match source.receive(50).await {
                Ok(received) => {
                    has_received.store(true, Ordering::SeqCst);
                    for delivery in received {
                        let n = text(&delivery).parse().unwrap();
                        if delivery.ack().await.is_ok() {
                            *settled.lock().unwrap().entry(n).or_default() += 1;
                        }
                    }
                }
                Err(SourceError::Closed) => return,
                Err(error) => eprintln!("{error:?}"),
            }
        }
    }

    /// Tansu never forms a group again whose leader leaves while the group is being formed.
    async fn until_received(&self) {
        let received = async {
            while !self.has_received.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(2 * SOON, received).await.expect("the member receives nothing");
    }

    async fn leave(self) {
        self.source.close(SOON).await;
        self.task.await.unwrap();
    }
}

/// Sends numbers until it is stopped; what is not confirmed is sent again.
struct Load {
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Vec<u64>>>,
}

impl Load {
    fn start(messenger: &Arc<Kafka>, topic: &str, settled: &Settled) -> Self {
        let (stop, confirmed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..3).map(|task: u64| {
            let (messenger, topic) = (Arc::clone(messenger), topic.to_owned());
            let (stop, confirmed, settled) = (Arc::clone(&stop), Arc::clone(&confirmed), Arc::clone(settled));
            tokio::spawn(async move {
                let message = |n: u64| {
                    tower_outbox::Message::new(topic.clone(), n.to_string())
                        .unwrap()
                        .with_key((n % 20).to_string())
                };
                let (mut numbers, mut next) = (Vec::new(), task * 1_000_000_000);
                while !stop.load(Ordering::SeqCst) {
                    // The rest comes soon at the end.
                    let settled = settled.lock().unwrap().len() as u64;
                    if confirmed.load(Ordering::SeqCst) > settled + BACKLOG {
                        sleep(Duration::from_millis(5)).await;
                        continue;
                    }
                    let mut batch: Vec<_> = (next..next + 20).map(message).collect();
                    numbers.extend(next..next + 20);
                    next += 20;
                    while let Err(unsent) = messenger.send(std::mem::take(&mut batch)).await {
                        assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent:?}");
                        batch = unsent.into_messages();
                    }
                    confirmed.fetch_add(20, Ordering::SeqCst);
                    sleep(Duration::from_millis(5)).await;
                }
                numbers
            })
        });
        Self { tasks: tasks.collect(), stop, confirmed }
    }

    async fn more(&self, count: u64) {
        let goal = self.confirmed.load(Ordering::SeqCst) + count;
        let wait = async {
            while self.confirmed.load(Ordering::SeqCst) < goal {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, wait).await.expect("nothing is confirmed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn nothing_confirmed_is_lost() {
    let rounds: u32 = number("CHAOS_ROUNDS").unwrap_or(4);
    let seed = number("CHAOS_SEED").unwrap_or_else(rand::random);
    println!("{rounds} rounds, CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (place, proxy) = Place::behind_proxy(4).await;
    let mut settings = KafkaSettings::new([format!("kafka://127.0.0.1:{}", proxy.port)]);
    settings.broker.send_timeout = Some(Duration::from_secs(2));
    settings.broker.connection_timeout = Some(Duration::from_secs(1));
    settings.broker.idle_timeout = Duration::from_secs(5);
    let subscription = place.subscription();
    let settled = Settled::default();
    let join = || Member::join(KafkaSource::new(&settings, &subscription).unwrap(), &settled);
    let mut member = join();
    let load = Load::start(&Arc::new(Kafka::new(&settings).unwrap()), &place.topic, &settled);
    for round in 0..rounds {
        load.more(200).await;
        match random.random_range(0..4) {
            0 => proxy.cut(),
            1 => {
                place.server.freeze().await;
                sleep(Duration::from_millis(random.random_range(100..800))).await;
                place.server.thaw().await;
            }
            2 => {
                place.server.freeze().await;
                sleep(Duration::from_millis(2_500)).await;
                proxy.cut();
                place.server.thaw().await;
            }
            _ => {
                member.until_received().await;
                member.leave().await;
                member = join();
            }
        }
        if round % 20 == 19 {
            println!("{} rounds", round + 1);
        }
    }
    load.more(200).await;
    load.stop.store(true, Ordering::SeqCst);
    let mut confirmed = Vec::new();
    for task in load.tasks {
        confirmed.extend(timeout(SOON, task).await.expect("a send hangs").unwrap());
    }
    let mut stored: BTreeMap<u64, u32> = BTreeMap::new();
    let mut by_key: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    for record in place.stored().await {
        let n: u64 = body(&record).parse().unwrap();
        let times = stored.entry(n).or_default();
        *times += 1;
        if *times == 1 {
            by_key.entry((record.key_str().unwrap().to_owned(), n / 1_000_000_000)).or_default().push(n);
        }
    }
    let lost = confirmed.iter().filter(|n| !stored.contains_key(n)).count();
    let reordered = by_key.values().filter(|numbers| !numbers.is_sorted()).count();
    let arrive = async {
        while settled.lock().unwrap().len() < stored.len() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let all_came = timeout(SOON, arrive).await.is_ok();
    member.leave().await;
    let settled = settled.lock().unwrap();
    let twice = stored.values().filter(|times| **times > 1).count();
    let again = settled.iter().filter(|(n, times)| **times > stored[*n]).count();
    println!(
        "{} confirmed, {lost} lost, {reordered} keys reordered, {twice} stored twice, {} settled, {again} settled again",
        confirmed.len(),
        settled.len()
    );
    assert!(all_came, "{} of {} came", settled.len(), stored.len());
    assert_eq!((lost, reordered, again), (0, 0, 0));
}

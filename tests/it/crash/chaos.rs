//! The demo killed again and again under load, and its broker with it: see `scripts/chaos`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::app::{App, Home};
use super::load::Load;
use super::queue::Queue;
use super::random::Random;
use crate::peers::{Brokers, root, unique};

const CLIENTS: usize = 8;

/// How many rounds there are when `CHAOS_ROUNDS` does not say.
const ROUNDS: usize = 6;

/// After so many rounds everything must have arrived.
const STRETCH: usize = 20;

/// How long the outbox may stay as it is while the broker is up and nobody asks anything of the app.
const STUCK: Duration = Duration::from_secs(60);

/// A round is one life of the app, from its start to SIGKILL.
struct Round {
    /// Kills the broker too, so long after the app is killed or listens; it comes back when it can.
    broker: Option<Duration>,
    /// Waits for a broker that is on its way back before it kills anything.
    patient: bool,
    kill: Kill,
}

enum Kill {
    /// So long after it was started, whatever it is at.
    AfterStart(Duration),
    /// So long after it listens.
    AfterReady(Duration),
}

impl Round {
    /// So many of them, half of them with the broker.
    fn plan(rounds: usize, random: &mut Random) -> Vec<Self> {
        let mut brokers: Vec<_> = (0..rounds).map(|n| n % 2 == 1).collect();
        random.shuffle(&mut brokers);
        let mut round = |broker: bool| Self {
            broker: broker.then(|| milliseconds(random, 400)),
            patient: broker || random.percent(50),
            kill: match random.in_range(0..10) {
                0 | 1 => Kill::AfterStart(milliseconds(random, 100)),
                2 => Kill::AfterReady(milliseconds(random, 2_000)),
                _ => Kill::AfterReady(milliseconds(random, 500)),
            },
        };
        brokers.into_iter().map(&mut round).collect()
    }
}

fn milliseconds(random: &mut Random, most: u64) -> Duration {
    Duration::from_micros(random.in_range(0..most * 1_000))
}

/// The broker, which dies and comes back.
struct Broker {
    returning: Option<JoinHandle<()>>,
    kills: usize,
}

impl Broker {
    async fn ready(&mut self) {
        if let Some(returning) = self.returning.take() {
            returning.await.expect("the broker comes back");
        }
    }

    /// Kills it after this time, and lets it come back without waiting for that.
    async fn kill(&mut self, after: Duration) {
        sleep(after).await;
        brokers("kill").await;
        self.kills += 1;
        self.returning = Some(tokio::spawn(brokers("start")));
    }
}

/// A command of `scripts/brokers`, which is heard only when it fails.
async fn brokers(command: &str) {
    let output =
        Command::new(root().join("scripts/brokers")).args([command, "rabbit1"]).output().await.unwrap();
    assert!(
        output.status.success(),
        "scripts/brokers {command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn nothing_acknowledged_is_lost_when_app_and_broker_are_killed_at_any_moment() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect(name));
    let rounds = number("CHAOS_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    let seed = number("CHAOS_SEED").unwrap_or_else(Random::any_seed);
    eprintln!("chaos: {rounds} rounds; once more: CHAOS_SEED={seed}");

    let brokers = Brokers::all_up().await;
    let url = brokers.get("RABBIT1_AMQP");
    let topic = unique("chaos");
    // One for each stretch: a broker that is killed may give once more what we have taken from it.
    let mut queues = VecDeque::new();
    for n in 0..rounds.div_ceil(STRETCH) {
        let topic = format!("{topic}.{n}");
        queues.push_back((Queue::declare(url, &topic).await, topic));
    }
    // Only a broker that ends in order has written down what was declared just now.
    self::brokers("restart").await;
    let folder = tempfile::Builder::new().prefix("tower-outbox-chaos").tempdir().unwrap();
    let outbox = folder.path().join("outbox");
    let home = Home::new(
        folder.path(),
        &format!(
            "BACKEND = \"amqp091\"\nDELIVERY = \"durable\"\nURLS = \"{url}\"\nMANDATORY = true\n\
             CONNECTION_TIMEOUT = 5\nSEND_TIMEOUT = 10\n[MESSAGE_BUS.OUTBOX]\nPATH = \"{}\"\nMAX_BACKOFF = 1\n",
            outbox.display()
        ),
    );

    let mut random = Random::new(seed);
    let plan = Round::plan(rounds, &mut random);
    let load = Load::start(CLIENTS, &mut random);
    let mut broker = Broker { returning: None, kills: 0 };
    let (begun, mut arrivals) = (Instant::now(), Vec::new());
    for (n, round) in plan.iter().enumerate() {
        load.set_topic(&queues[0].1);
        live_and_die(&home, &load, &mut broker, n + 1, round).await;
        if (n + 1) % STRETCH != 0 && n + 1 != rounds {
            continue;
        }
        broker.ready().await;
        let left = empty(&home, n + 1).await;
        let (queue, _) = queues.pop_front().unwrap();
        arrivals.extend(queue.drain().await);
        queue.delete().await;
        let verdict = load.verdict(&arrivals);
        let (unexpected, kills) = (load.unexpected(), broker.kills);
        let took = begun.elapsed().as_secs_f64();
        eprintln!("chaos: {took:.0} s, {} rounds, {kills} with the broker: {verdict}", n + 1);
        if left > 0 || !verdict.is_good() || !unexpected.is_empty() {
            let folder = folder.keep();
            std::fs::write(folder.join("arrivals"), load.describe(&arrivals)).unwrap();
            panic!(
                "seed {seed}: {left} messages stay stored; {verdict}; {} unexpected answers {:?}\n{}\
                 the outbox, what the app said and what arrived is kept in {}",
                unexpected.len(),
                unexpected.iter().take(10).collect::<Vec<_>>(),
                verdict.examples(),
                folder.display()
            );
        }
    }
    let verdict = load.verdict(&arrivals);
    eprintln!(
        "chaos: seed {seed}, {rounds} rounds, {} with the broker, {:.0} s: {verdict}",
        broker.kills,
        begun.elapsed().as_secs_f64()
    );
    // There was something to lose, and something was cut off.
    assert_eq!(broker.kills, rounds / 2);
    assert!(verdict.messages > 10 * rounds as u64 && verdict.unanswered > rounds as u64 / 2, "{verdict}");
}

async fn live_and_die(home: &Home, load: &Load, broker: &mut Broker, number: usize, round: &Round) {
    let mut app = App::start(home, &format!("round {number}"));
    let after = match round.kill {
        Kill::AfterReady(after) => {
            load.aim(number, Some(app.address().await));
            if round.patient {
                broker.ready().await;
            }
            after
        }
        Kill::AfterStart(after) => after,
    };
    let kill_app = async {
        sleep(after).await;
        app.kill().await;
        load.aim(number, None);
    };
    let kill_broker = async {
        if let Some(after) = round.broker {
            broker.ready().await;
            broker.kill(after).await;
        }
    };
    tokio::join!(kill_app, kill_broker);
}

/// Lets the app send what it has stored, which nobody adds to, and gives how much it left.
async fn empty(home: &Home, round: usize) -> u64 {
    let mut app = App::start(home, &format!("to empty it after round {round}"));
    let address = app.address().await;
    let (mut pending, mut since) = (u64::MAX, Instant::now());
    while pending > 0 && since.elapsed() < STUCK {
        let now = stored(address).await;
        if now < pending {
            (pending, since) = (now, Instant::now());
        }
        sleep(Duration::from_millis(20)).await;
    }
    app.terminate().await
}

/// How many messages wait in its outbox, by its metrics.
async fn stored(address: SocketAddr) -> u64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let gauge = "tower_outbox_stored_messages{state=\"pending\"} ";
    let line = response.lines().find_map(|line| line.strip_prefix(gauge));
    line.unwrap_or_else(|| panic!("{gauge} in {response}")).parse().unwrap()
}

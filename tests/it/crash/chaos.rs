//! The demo killed again and again under load, and its broker and database with it: see `scripts/chaos`.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_outbox::store::{
    EmbeddedStoreSettings, EntryState, Filter, PostgresStore, SqlStoreSettings, Store,
};

use super::app::{App, Home};
use super::ledger::Arrival;
use super::load::Load;
use super::queue::Queue;
use super::random::Random;
use super::session::Session;
use crate::peers::{Brokers, root, unique};
use crate::support::stores::{list_by, open};

const CLIENTS: usize = 8;

/// How many rounds there are when `CHAOS_ROUNDS` does not say.
const ROUNDS: usize = 6;

/// After so many rounds everything must have arrived.
const STRETCH: usize = 20;

/// How long the outbox may stay as it is while the broker is up and nobody asks anything of the app.
const STUCK: Duration = Duration::from_secs(60);

/// A round is one life of the app, from its start to SIGKILL.
struct Round {
    /// Kills the broker too, so long after the app is started or listens; it comes back when it can.
    broker: Option<Duration>,
    /// The same of the database.
    database: Option<(Fall, Duration)>,
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

/// How a database falls.
#[derive(Clone, Copy)]
enum Fall {
    /// It ends one connection.
    Connection,
    /// One of its processes is killed; it then ends all others, and recovers.
    Process,
    /// All of it is killed.
    Server,
}

impl Round {
    /// So many of them, half of them with the broker, and half with the database if there is one.
    fn plan(rounds: usize, with_database: bool, random: &mut Random) -> Vec<Self> {
        let mut brokers: Vec<_> = (0..rounds).map(|n| n % 2 == 1).collect();
        random.shuffle(&mut brokers);
        let mut round = |broker: bool| {
            let kill = match random.in_range(0..10) {
                0 | 1 => Kill::AfterStart(milliseconds(random, 100)),
                2 => Kill::AfterReady(milliseconds(random, 2_000)),
                _ => Kill::AfterReady(milliseconds(random, 500)),
            };
            // An app that loses its database while it starts ends by itself.
            let with_database = with_database && matches!(kill, Kill::AfterReady(_)) && random.percent(60);
            let fall = |random: &mut Random| match random.in_range(0..10) {
                0..5 => Fall::Connection,
                5..8 => Fall::Process,
                _ => Fall::Server,
            };
            Self {
                broker: broker.then(|| milliseconds(random, 400)),
                database: with_database.then(|| (fall(random), milliseconds(random, 400))),
                patient: broker || random.percent(50),
                kill,
            }
        };
        brokers.into_iter().map(&mut round).collect()
    }
}

fn milliseconds(random: &mut Random, most: u64) -> Duration {
    Duration::from_micros(random.in_range(0..most * 1_000))
}

/// The broker or the database, which dies and comes back.
struct Victim {
    name: &'static str,
    /// The commands that end it, and let it come back.
    end: &'static str,
    begin: &'static str,
    returning: Option<JoinHandle<()>>,
    kills: usize,
}

impl Victim {
    fn new(name: &'static str) -> Self {
        Self { name, end: "kill", begin: "start", returning: None, kills: 0 }
    }

    async fn ready(&mut self) {
        if let Some(returning) = self.returning.take() {
            returning.await.expect("it comes back");
        }
    }

    /// Kills it, and lets it come back without waiting for that.
    async fn kill(&mut self) {
        brokers(self.end, self.name).await;
        self.kills += 1;
        self.returning = Some(tokio::spawn(brokers(self.begin, self.name)));
    }
}

/// A command of `scripts/brokers`, which is heard only when it fails.
async fn brokers(command: &str, name: &'static str) {
    let arguments = [command, name].into_iter().filter(|argument| !argument.is_empty());
    let output = Command::new(root().join("scripts/brokers")).args(arguments).output().await.unwrap();
    assert!(
        output.status.success(),
        "scripts/brokers {command} {name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The app's database.
struct Database {
    url: String,
    victim: Victim,
}

impl Database {
    /// With an empty table of the demo.
    async fn make(url: &str) -> Self {
        let database = Self { url: url.to_owned(), victim: Victim::new("postgres") };
        database.run("DROP TABLE IF EXISTS demo_rows; CREATE TABLE demo_rows (row bigint PRIMARY KEY)").await;
        database.run("DROP SCHEMA IF EXISTS tower_outbox CASCADE").await;
        database
    }

    async fn run(&self, sql: &str) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }

    async fn fall(&mut self, fall: Fall) {
        self.victim.ready().await;
        let others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
                      ORDER BY random() LIMIT 1";
        match fall {
            Fall::Connection => self.run(&format!("SELECT pg_terminate_backend(pid) {others}")).await,
            Fall::Process => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                let pid = sqlx::query_scalar::<_, i32>(AssertSqlSafe(format!("SELECT pid {others}")));
                let Some(pid) = pid.fetch_optional(&mut connection).await.unwrap() else { return };
                drop(connection);
                // It may have ended by itself.
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).output().await.unwrap();
                self.victim.returning = Some(tokio::spawn(brokers("up", "")));
            }
            Fall::Server => self.victim.kill().await,
        }
    }

    /// The requests whose rows are there.
    async fn rows(&self) -> BTreeSet<u64> {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let rows = sqlx::query_scalar::<_, i64>("SELECT row FROM demo_rows").fetch_all(&mut connection).await;
        rows.unwrap().into_iter().map(|row| row as u64).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn nothing_acknowledged_is_lost_when_app_and_broker_are_killed_at_any_moment() {
    chaos(Kind::Durable).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn rows_and_events_agree_when_app_database_and_broker_are_killed_at_any_moment() {
    chaos(Kind::Transactional).await;
}

/// mosquitto is frozen: after a restart of any kind it confirms messages and drops them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn mqtt_loses_nothing_when_app_is_killed_and_broker_frozen() {
    chaos(Kind::Mqtt).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Durable,
    Transactional,
    Mqtt,
}

/// Where the messages of each stretch end up, with their topics.
enum Sink {
    /// One for each stretch: a broker that is killed may give once more what we have taken from it.
    Queues(VecDeque<(Queue, String)>),
    Session(Session, String),
}

impl Sink {
    async fn new(kind: Kind, url: &str, stretches: usize) -> Self {
        let topic = unique("chaos");
        if kind == Kind::Mqtt {
            return Self::Session(Session::begin(url, &topic).await, topic);
        }
        let mut queues = VecDeque::new();
        for n in 0..stretches {
            let topic = format!("{topic}.{n}");
            queues.push_back((Queue::declare(url, &topic).await, topic));
        }
        Self::Queues(queues)
    }

    fn topic(&self) -> &str {
        match self {
            Self::Queues(queues) => &queues[0].1,
            Self::Session(_, topic) => topic,
        }
    }

    /// The messages that came in a stretch.
    async fn drain(&mut self) -> Vec<Arrival> {
        match self {
            Self::Queues(queues) => {
                let (queue, _) = queues.pop_front().unwrap();
                let arrivals = queue.drain().await;
                queue.delete().await;
                arrivals
            }
            Self::Session(session, _) => session.drain().await,
        }
    }
}

async fn chaos(kind: Kind) {
    let transactional = kind == Kind::Transactional;
    let (backend, victim, key) = match kind {
        Kind::Mqtt => ("mqtt", "mosquitto1", "MOSQUITTO1_MQTT"),
        _ => ("amqp091", "rabbit1", "RABBIT1_AMQP"),
    };
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect(name));
    let rounds = number("CHAOS_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    let seed = number("CHAOS_SEED").unwrap_or_else(Random::any_seed);
    eprintln!("chaos: {rounds} rounds; once more: CHAOS_SEED={seed}");

    let brokers = Brokers::all_up().await;
    let url = brokers.get(key);
    let mut sink = Sink::new(kind, url, rounds.div_ceil(STRETCH)).await;
    // Only a broker that ends in order has written down what was declared just now.
    if kind != Kind::Mqtt {
        self::brokers("restart", victim).await;
    }
    let mut database = match transactional {
        true => Some(Database::make(brokers.get("POSTGRES")).await),
        false => None,
    };
    let folder = tempfile::Builder::new().prefix("tower-outbox-chaos").tempdir().unwrap();
    let outbox = folder.path().join("outbox");
    let (delivery, place) = match &database {
        Some(Database { url, .. }) => ("transactional", format!("DATABASE_URL = \"{url}\"\nLEASE = 2")),
        None => ("durable", format!("PATH = \"{}\"", outbox.display())),
    };
    let home = Home::new(
        folder.path(),
        &format!(
            "BACKEND = \"{backend}\"\nDELIVERY = \"{delivery}\"\nURLS = \"{url}\"\nMANDATORY = true\n\
             CONNECTION_TIMEOUT = 5\nSEND_TIMEOUT = 10\n[MESSAGE_BUS.OUTBOX]\n{place}\nMAX_BACKOFF = 1\n",
        ),
    );

    let mut random = Random::new(seed);
    let plan = Round::plan(rounds, transactional, &mut random);
    let load = Load::start(CLIENTS, transactional, &mut random);
    let mut broker = Victim::new(victim);
    if kind == Kind::Mqtt {
        (broker.end, broker.begin) = ("freeze", "thaw");
    }
    let (begun, mut arrivals) = (Instant::now(), Vec::new());
    for (n, round) in plan.iter().enumerate() {
        load.set_topic(sink.topic());
        live_and_die(&home, &load, &mut broker, database.as_mut(), n + 1, round).await;
        if (n + 1) % STRETCH != 0 && n + 1 != rounds {
            continue;
        }
        broker.ready().await;
        if let Some(database) = &mut database {
            database.victim.ready().await;
        }
        let left = empty(&home, n + 1).await;
        let dead = dead_letters(&outbox, database.as_ref()).await;
        arrivals.extend(sink.drain().await);
        let verdict = load.verdict(&arrivals);
        let torn = match &database {
            Some(database) => load.torn(&database.rows().await, &arrivals),
            None => Vec::new(),
        };
        let (unexpected, kills) = (load.unexpected(), broker.kills);
        let took = begun.elapsed().as_secs_f64();
        eprintln!("chaos: {took:.0} s, {} rounds, {kills} with the broker: {verdict}", n + 1);
        if left > 0 || !dead.is_empty() || !verdict.is_good() || !torn.is_empty() || !unexpected.is_empty() {
            let folder = folder.keep();
            std::fs::write(folder.join("arrivals"), load.describe(&arrivals)).unwrap();
            panic!(
                "seed {seed}: {left} messages stay stored; {} dead letters {:#?}; {verdict}; {} torn {:?}; \
                 {} unexpected answers {:?}\n{}the outbox, what the app said and what arrived is kept in {}",
                dead.len(),
                dead.iter().take(10).collect::<Vec<_>>(),
                torn.len(),
                torn.iter().take(10).collect::<Vec<_>>(),
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

async fn live_and_die(
    home: &Home,
    load: &Load,
    broker: &mut Victim,
    mut database: Option<&mut Database>,
    number: usize,
    round: &Round,
) {
    if let Some(database) = &mut database {
        // Without it the app does not start.
        database.victim.ready().await;
    }
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
            sleep(after).await;
            broker.kill().await;
        }
    };
    let kill_database = async {
        if let (Some(database), Some((fall, after))) = (database, round.database) {
            sleep(after).await;
            database.fall(fall).await;
        }
    };
    tokio::join!(kill_app, kill_broker, kill_database);
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

/// Why each dead letter of the outbox, which no app has open, was given up on.
async fn dead_letters(outbox: &Path, database: Option<&Database>) -> Vec<String> {
    let store: Box<dyn Store> = match database {
        None => Box::new(open(&EmbeddedStoreSettings::new(outbox)).await.unwrap()),
        Some(database) => {
            let pool = PgPool::connect(&database.url).await.unwrap();
            Box::new(PostgresStore::open(pool, &SqlStoreSettings::default()).await.unwrap())
        }
    };
    let dead = list_by(&*store, &Filter::state(EntryState::Dead), 100).await;
    store.close().await;
    dead.iter().map(|entry| format!("{}: {}", entry.position, entry.explain())).collect()
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

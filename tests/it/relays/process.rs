//! A process that stores and sends, with others, and writes down what it does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, StatusCode};
use sqlx::{AssertSqlSafe, Postgres, SqlSafeStr};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_outbox::outbox::{Outbox, OutboxHandle, Relay, RelaySettings};
use tower_outbox::store::{Counts, PostgresStore, SqlStoreSettings, SqliteStore, Store};
use tower_outbox::{Message, MessageQueue, MessagingLayer, Messenger, Tx};

use super::bus::{self, Bus, Notes};
use crate::crash::ledger::{Arrival, Ledger, Outcome, Verdict};
use crate::crash::random::Random;
use crate::support::databases::{Schema, sqlite};
use crate::support::stores::until;
use crate::support::tables::Tables;

/// The variable that makes a test the process.
const JOB: &str = "TOWER_OUTBOX_TEST_RELAY";

/// How long a process may take to do what it is told.
const LONG: Duration = Duration::from_secs(60);

/// How many messages a process has out at once.
pub const WINDOW: usize = 64;

/// How many keys each process uses.
const KEYS: u64 = 3;

/// Where everything is: the folder of the notes, and the schema in Postgres; without one it is SQLite in that folder.
pub struct ProcessHarness {
    pub folder: TempDir,
    pub schema: Option<Schema>,
    pub lease: Duration,
    /// The prefix of the topics in the real RabbitMQ; without it sent messages are only written down.
    pub topics: Option<String>,
}

impl ProcessHarness {
    pub async fn postgres(lease: Duration) -> Self {
        let schema = Schema::new().await;
        PostgresStore::migrate(&schema.pool, &schema.settings).await.unwrap();
        Self { folder: tempfile::tempdir().unwrap(), schema: Some(schema), lease, topics: None }
    }

    pub async fn sqlite(lease: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        SqliteStore::migrate(&sqlite(folder.path()).await, &SqlStoreSettings::default()).await.unwrap();
        Self { folder, schema: None, lease, topics: None }
    }

    /// A store of this process, which does not send.
    pub async fn store(&self) -> Arc<dyn Store> {
        open(self.folder.path(), self.schema.as_ref().map(|schema| &*schema.settings.schema), self.lease)
            .await
    }

    fn lines(&self, name: &str) -> Vec<Vec<u64>> {
        let text = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        text.lines().map(numbers).collect()
    }

    /// The arrivals: the numbers in each body, and the process that sent it.
    pub fn arrived(&self) -> Vec<Vec<u64>> {
        self.lines("sent")
    }

    /// Waits until so many processes have a part of what is to be sent, or wait for the one part there is.
    pub async fn until_shared_by(&self, processes: i64) {
        let tables = match &self.schema {
            Some(schema) => schema.tables(),
            None => Tables::sqlite(&sqlite(self.folder.path()).await, &SqlStoreSettings::default()),
        };
        until("all have their part", || async { tables.instances().await == processes }).await;
    }

    /// Waits until a process holds a message.
    pub async fn until_held_by(&self, process: u64) {
        let path = self.folder.path().join(format!("held-{process}"));
        until("it is held", || async { path.exists() }).await;
    }

    pub fn release(&self, process: u64) {
        File::create(self.folder.path().join(format!("release-{process}"))).unwrap();
    }

    /// The verdict on all that arrived; and how many messages each process sent.
    pub fn verdict(&self) -> (Verdict, HashMap<u64, usize>) {
        let (mut ledger, mut keys, mut ids) = (Ledger::default(), HashMap::new(), HashMap::new());
        for line in self.lines("begun") {
            let [process, n, task, messages] = line[..] else { panic!("{line:?}") };
            let key = (process, task, if task < KEYS { 0 } else { n });
            let (key, next) = keys.entry(key).or_insert_with(|| (ledger.key(), 0));
            ids.insert((process, n), ledger.begin(*key, *next, messages, process as usize));
            *next += messages;
        }
        for (name, outcome) in [("stored", Outcome::Accepted), ("refused", Outcome::Refused)] {
            for line in self.lines(name) {
                ledger.end(ids[&(line[0], line[1])], outcome);
            }
        }
        let mut senders = HashMap::new();
        let arrival = |line: Vec<u64>| -> Arrival {
            *senders.entry(line[3]).or_default() += 1;
            (ids[&(line[0], line[1])], line[2])
        };
        let arrivals: Vec<Arrival> = self.lines("sent").into_iter().map(arrival).collect();
        (ledger.verdict(&arrivals), senders)
    }

    pub async fn end(self) {
        if let Some(schema) = self.schema {
            schema.drop().await;
        }
    }
}

async fn open(folder: &Path, schema: Option<&str>, lease: Duration) -> Arc<dyn Store> {
    match schema {
        Some(name) => Arc::new(open_postgres(name, lease).await),
        None => {
            let settings = SqlStoreSettings::default().with_lease(lease);
            Arc::new(SqliteStore::open(sqlite(folder).await, &settings).await.unwrap())
        }
    }
}

/// Waits for a database that is just being started.
async fn open_postgres(name: &str, lease: Duration) -> PostgresStore {
    let schema = Schema::named(name).await;
    let settings = schema.settings.with_lease(lease);
    let begun = Instant::now();
    loop {
        match PostgresStore::open(schema.pool.clone(), &settings).await {
            Ok(store) => return store,
            Err(error) => assert!(begun.elapsed() < LONG, "{error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

// ---- the process itself

/// Is the process, if this one is to be that.
pub async fn is_process() -> bool {
    let Ok(job) = std::env::var(JOB) else { return false };
    let [folder, schema, process, lease, topics, does] = job.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{job}")
    };
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "tower_outbox=info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let (folder, process) = (Path::new(folder), process.parse().unwrap());
    let schema = Some(schema).filter(|schema| *schema != "-");
    let lease = Duration::from_millis(lease.parse().unwrap());
    let bus = bus::open(folder, process, Some(topics).filter(|topics| *topics != "-"));
    match does {
        "requests" => {
            serve(folder, process, bus, open_postgres(schema.unwrap(), lease).await, schema.unwrap()).await
        }
        does => work(folder, process, bus, open(folder, schema, lease).await, does == "appends").await,
    }
    true
}

async fn work(folder: &Path, process: u64, bus: Bus, store: Arc<dyn Store>, appends: bool) {
    let (outbox, relay) = Outbox::new(bus, store, relay_settings());
    let (go_on, mut tasks) = (watch::Sender::new(true), JoinSet::new());
    for task in (0..KEYS + 1).filter(|_| appends) {
        tasks.spawn(insert(folder.to_owned(), process, task, outbox.handle(), go_on.subscribe()));
    }
    obey(relay, &go_on, tasks).await;
    outbox.close(Duration::from_secs(5)).await;
}

fn relay_settings() -> RelaySettings {
    RelaySettings::default().with_window(WINDOW).with_max_backoff(Duration::from_millis(200))
}

/// Sends until the end of the input; a word there ends what stores.
async fn obey<M: Messenger>(relay: Relay<M>, go_on: &watch::Sender<bool>, mut tasks: JoinSet<()>) {
    let (stop, mut stopped) = watch::channel(());
    let relay = tokio::spawn(
        relay.with_graceful_shutdown(async move { drop(stopped.changed().await) }, Duration::from_secs(5)),
    );
    println!("ready");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = lines.next_line().await {
        go_on.send_replace(false);
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        println!("stopped");
    }
    drop(stop);
    relay.await.unwrap();
}

/// An app: each request writes a row and enqueues messages in one transaction; one in five is then refused.
async fn serve(folder: &Path, process: u64, bus: Bus, store: PostgresStore, schema: &str) {
    let (outbox, relay) = Outbox::new(bus, Arc::new(store), relay_settings());
    let outbox = Arc::new(outbox);
    let sql = AssertSqlSafe(format!("INSERT INTO {schema}.rows VALUES ($1, $2)")).into_sql_str();
    let handle = move |mut tx: Tx<Postgres>, queue: MessageQueue, body: String| async move {
        let [n, task, messages] = numbers(&body)[..] else { panic!("{body}") };
        let insert = sqlx::query(sql).bind(process as i64).bind(n as i64).execute(&mut *tx).await;
        if insert.is_err() {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        for message in batch(process, n, task, messages) {
            queue.enqueue(message).unwrap();
        }
        if n % 5 == 0 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::CREATED }
    };
    let app = Router::new().route("/", post(handle)).layer(MessagingLayer::new(Arc::clone(&outbox)));
    let (go_on, mut tasks) = (watch::Sender::new(true), JoinSet::new());
    for task in 0..KEYS + 1 {
        tasks.spawn(ask(folder.to_owned(), process, task, app.clone(), go_on.subscribe()));
    }
    obey(relay, &go_on, tasks).await;
    outbox.close(Duration::from_secs(5)).await;
}

/// Asks it, and writes down what it is told.
async fn ask(folder: PathBuf, process: u64, task: u64, app: Router, go_on: watch::Receiver<bool>) {
    let note = |name: &str| Notes::open(&folder.join(name));
    let (begun, stored, refused) = (note("begun"), note("stored"), note("refused"));
    let mut random = Random::new(process * 10 + task);
    for n in (task..).step_by(KEYS as usize + 1) {
        if !*go_on.borrow() {
            return;
        }
        let messages = if task < KEYS { random.in_range(1..5) } else { 1 };
        begun.write(&format!("{process} {n} {task} {messages}"));
        let request = Request::post("/").body(Body::from(format!("{n} {task} {messages}"))).unwrap();
        let status = app.clone().oneshot(request).await.unwrap().status();
        // A failure may be of a COMMIT that was done all the same.
        match status.as_u16() {
            201 => stored.write(&format!("{process} {n}")),
            422 => refused.write(&format!("{process} {n}")),
            500.. => {}
            _ => panic!("{status}"),
        }
        sleep(Duration::from_millis(random.in_range(1..20))).await;
    }
}

fn batch(process: u64, n: u64, task: u64, messages: u64) -> Vec<Message> {
    let message = |part| {
        let message = Message::new(format!("relay.{}", n % 2), format!("{process} {n} {part}")).unwrap();
        if task < KEYS { message.with_key(format!("{process}-{task}")) } else { message }
    };
    (0..messages).map(message).collect()
}

fn numbers(line: &str) -> Vec<u64> {
    line.split(' ').map(|word| word.parse().unwrap()).collect()
}

/// Stores batches: of one key, or, the last task, single messages without one.
async fn insert(
    folder: PathBuf,
    process: u64,
    task: u64,
    handle: OutboxHandle,
    go_on: watch::Receiver<bool>,
) {
    let (begun, stored) = (Notes::open(&folder.join("begun")), Notes::open(&folder.join("stored")));
    let mut random = Random::new(process * 10 + task);
    for n in (task..).step_by(KEYS as usize + 1) {
        if !*go_on.borrow() {
            return;
        }
        let messages = if task < KEYS { random.in_range(1..5) } else { 1 };
        begun.write(&format!("{process} {n} {task} {messages}"));
        match handle.append(batch(process, n, task, messages)).await {
            Ok(()) => stored.write(&format!("{process} {n}")),
            Err(error) => tracing::warn!(%error, "not stored"),
        }
        sleep(Duration::from_millis(random.in_range(5..40))).await;
    }
}

// ---- the test around it

/// One such process, as the test sees it.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    said: PathBuf,
}

impl Process {
    /// Starts the process of this number, which `does` this beside sending: `appends`, `requests`, or `nothing`.
    pub async fn start(place: &ProcessHarness, number: u64, does: &str) -> Self {
        let test =
            format!("{}::{WORKER}", module_path!().split_once("::").unwrap().1.rsplit_once("::").unwrap().0);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
        let schema = place.schema.as_ref().map_or("-", |schema| &schema.settings.schema);
        let (folder, lease) = (place.folder.path(), place.lease.as_millis());
        let topics = place.topics.as_deref().unwrap_or("-");
        command.env(JOB, format!("{} {schema} {number} {lease} {topics} {does}", folder.display()));
        let said = folder.join(format!("said-{number}"));
        command.env("RUST_BACKTRACE", "0").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&said).unwrap());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut process = Self { child, stdin, stdout: BufReader::new(stdout).lines(), said };
        process.wait_for("ready").await;
        process
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    async fn wait_for(&mut self, word: &str) {
        let found = async {
            while let Some(line) = self.stdout.next_line().await.unwrap() {
                if line.contains(word) {
                    return true;
                }
            }
            false
        };
        let found = timeout(LONG, found).await;
        assert!(matches!(found, Ok(true)), "no word {word}: {}", self.said());
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
        let status = self.child.wait().await.unwrap();
        assert_eq!(status.signal(), Some(9), "it ended before, with {status}: {}", self.said());
    }

    /// Stops it where it is.
    pub async fn freeze(&self) {
        self.signal("-STOP").await;
    }

    pub async fn thaw(&self) {
        self.signal("-CONT").await;
    }

    async fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }

    /// Lets it store nothing more; it sends what is there.
    pub async fn stop_storing(&mut self) {
        self.stdin.write_all(b"stop\n").await.unwrap();
        self.wait_for("stopped").await;
    }

    /// Ends it in order.
    pub async fn end(mut self) {
        drop(self.stdin);
        let status = timeout(LONG, self.child.wait()).await.expect("it ends in time").unwrap();
        assert!(status.success(), "{status}: {}", fs::read_to_string(&self.said).unwrap());
    }
}

/// Waits until nothing is left to be sent, and nothing is dead.
pub async fn until_empty(store: &Arc<dyn Store>) {
    let begun = Instant::now();
    loop {
        let counts = store.counts().await;
        if let Ok(Counts { pending: 0, dead: 0, .. }) = counts {
            return;
        }
        assert!(begun.elapsed() < LONG, "something stays: {counts:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

const WORKER: &str = "failover::two_processes_survive_a_kill_or_freeze";

//! A sender and a receiver, each a process that is killed in turn between publish and confirmation.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tower_outbox::{Bus, Delivery, Message, Messenger, Settings};

use crate::crash::random::Random;
use crate::peers::{Brokers, unique};
use crate::support::stores::until;

/// The variable that makes a test the process: its role, and the folder of all files.
const JOB: &str = "TOWER_OUTBOX_TEST_ACKNOWLEDGED";

/// How many messages the sender may be ahead of what was handled.
const AHEAD: usize = 50;

/// How long the last messages may take at a busy broker.
const LONG: Duration = Duration::from_secs(120);

fn rounds() -> u64 {
    std::env::var("CHAOS_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap())
}

/// Appends lines to a file, which survive the process.
#[derive(Clone)]
struct Notes(Arc<Mutex<File>>);

impl Notes {
    fn open(path: &Path) -> Self {
        Self(Arc::new(Mutex::new(OpenOptions::new().create(true).append(true).open(path).unwrap())))
    }

    fn write(&self, line: &str) {
        self.0.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn lines(path: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let pair = |line: &str| line.split_once(' ').map(|(n, id)| (n.parse().unwrap(), id.to_owned()));
    whole.lines().filter_map(pair).collect()
}

async fn is_process() -> bool {
    let Ok(job) = std::env::var(JOB) else { return false };
    let (role, folder) = job.split_once(' ').unwrap();
    let folder = Path::new(folder);
    let bus = Bus::start(&Settings::from_file(folder.join(format!("{role}.toml"))).unwrap()).await.unwrap();
    match role {
        "sender" => send(&bus, folder).await,
        _ => receive(&bus, folder).await,
    }
    true
}

/// Stores messages with rising numbers until a file says that it is enough, then waits to be killed.
async fn send(bus: &Bus, folder: &Path) {
    let (topic, notes) =
        (fs::read_to_string(folder.join("topic")).unwrap(), Notes::open(&folder.join("stored")));
    let begun = Notes::open(&folder.join("begun"));
    let mut n = lines(&folder.join("begun")).last().map_or(0, |(n, _)| n + 1);
    while !folder.join("enough").exists() {
        let handled: HashSet<_> = lines(&folder.join("handled")).into_iter().map(|(n, _)| n).collect();
        if (n as usize) < handled.len() + AHEAD {
            let message = Message::json(topic.clone(), &n).unwrap();
            let line = format!("{n} {}", message.id());
            begun.write(&line);
            bus.messenger().send(vec![message]).await.unwrap();
            notes.write(&line);
            n += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    while bus.outbox().unwrap().status().await.unwrap().counts.pending > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    fs::write(folder.join("empty"), "").unwrap();
    std::future::pending().await
}

/// Writes down what it handles, each time.
async fn receive(bus: &Bus, folder: &Path) {
    let notes = Notes::open(&folder.join("handled"));
    let handler = Router::new().fallback(post(move |delivery: Delivery| async move {
        let message = delivery.message();
        notes.write(&format!("{} {}", String::from_utf8_lossy(message.body()), message.id()));
        // Most kills come here, or just after.
        sleep(Duration::from_millis(2)).await;
        StatusCode::NO_CONTENT
    }));
    bus.consumer("in", handler).unwrap().await;
}

struct Process(Child, PathBuf);

impl Process {
    fn start(test: &str, role: &str, folder: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
        command.args([&test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
        let said = folder.join(format!("said-{role}"));
        let stderr = OpenOptions::new().create(true).append(true).open(&said).unwrap();
        command
            .env(JOB, format!("{role} {}", folder.display()))
            .env("RUST_BACKTRACE", "0")
            .kill_on_drop(true);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap(), said)
    }

    async fn kill(&mut self) {
        self.0.kill().await.unwrap();
        let status = self.0.wait().await.unwrap();
        let said = || fs::read_to_string(&self.1).unwrap();
        assert_eq!(status.signal(), Some(9), "it ended before it was killed, with {status}: {}", said());
    }
}

/// Kills the two in turn; `broker` are the keys of the backend, `consumer` those of the table `CONSUMERS.in`.
async fn lose_nothing(test: &str, topic: &str, broker: &str, consumer: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let outbox = path("outbox");
    let sender = format!(
        "[MESSAGE_BUS]\n{broker}\nDELIVERY = 'durable'\nACKNOWLEDGED = true\nACK_TIMEOUT = '500ms'\n\
         [MESSAGE_BUS.OUTBOX]\nPATH = '{}'\nMAX_BACKOFF = '200ms'\nMAX_ATTEMPTS = 1000000\n",
        outbox.display()
    );
    fs::write(path("sender.toml"), sender).unwrap();
    fs::write(
        path("receiver.toml"),
        format!("[MESSAGE_BUS]\n{broker}\n[MESSAGE_BUS.CONSUMERS.in]\n{consumer}\n"),
    )
    .unwrap();
    fs::write(path("topic"), topic).unwrap();

    let mut random = Random::new(Random::any_seed());
    let roles = ["sender", "receiver"];
    let mut processes = roles.map(|role| Process::start(test, role, folder.path()));
    for round in 0..rounds() as usize {
        let handled = lines(&path("handled")).len();
        until("messages are handled", || async { lines(&path("handled")).len() > handled + 5 }).await;
        sleep(Duration::from_micros(random.in_range(0..100_000))).await;
        let killed = round % 2;
        processes[killed].kill().await;
        processes[killed] = Process::start(test, roles[killed], folder.path());
    }
    fs::write(path("enough"), "").unwrap();
    let begun = Instant::now();
    while !path("empty").exists() {
        assert!(begun.elapsed() < LONG, "something stays in the outbox");
        sleep(Duration::from_millis(20)).await;
    }
    for mut process in processes {
        process.kill().await;
    }

    let (begun, stored, handled) = (lines(&path("begun")), lines(&path("stored")), lines(&path("handled")));
    let numbers: HashSet<u64> = handled.iter().map(|(n, _)| *n).collect();
    let lost: Vec<_> = stored.iter().filter(|(n, _)| !numbers.contains(n)).collect();
    let ids: HashMap<u64, String> = begun.into_iter().collect();
    let other_ids = handled.iter().filter(|(n, id)| ids[n] != *id).count();
    let duplicates = handled.len() - numbers.len();
    eprintln!(
        "{} kills, {} messages, {} lost, {other_ids} with another id, {duplicates} handled again",
        rounds(),
        stored.len(),
        lost.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(other_ids, 0);
    assert!(stored.len() > 10 * rounds() as usize / 2, "{}", stored.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn killed_in_turn_over_rabbitmq_they_lose_nothing() {
    if is_process().await {
        return;
    }
    let (brokers, topic) = (Brokers::running(), unique("acked"));
    let broker = format!("BACKEND = 'amqp091'\nURLS = '{}'", brokers.get("RABBIT1_AMQP"));
    let consumer = format!("QUEUE = '{topic}'\nBINDINGS = '{topic}'");
    lose_nothing("killed_in_turn_over_rabbitmq_they_lose_nothing", &topic, &broker, &consumer).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn killed_in_turn_over_mosquitto_they_lose_nothing() {
    if is_process().await {
        return;
    }
    let (brokers, topic) = (Brokers::running(), unique("acked"));
    let broker =
        format!("BACKEND = 'mqtt'\nURLS = '{}'\nENVELOPE = 'mqfactory'", brokers.get("MOSQUITTO1_MQTT"));
    let consumer = format!("TOPICS = '{topic}'");
    lose_nothing("killed_in_turn_over_mosquitto_they_lose_nothing", &topic, &broker, &consumer).await;
}

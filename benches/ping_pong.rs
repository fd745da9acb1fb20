//! mqfactory's `speed`: two processes answer each message by the next one, over mosquitto, with signatures, end-to-end
//! acknowledgement and the durable outbox in both.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench ping_pong
//!     cargo bench -p tower-outbox-benches --bench ping_pong -- mqtt://HOST:PORT       another broker
//!
//! | who | how |
//! |---|---|
//! | N | two processes of this crate, N messages in play |
//! | python | two processes of `tests/peers/mqfactory_peer.py`, one message in play: Python with the same wire, nothing stored |
//!
//! The figure is messages handled in a second, on both sides together. Each costs two publishes, two signatures, two verifications and two
//! writes to disk. mqfactory's documentation says 85.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use tower_outbox::{Bus, EnqueueError, Message, MessageQueue, Messenger, Settings};

/// The variable that makes this the second process: its settings, the topic of the other, and how many messages to begin with.
const JOB: &str = "PING_PONG";

#[derive(serde::Serialize, serde::Deserialize)]
struct Ball {
    n: u64,
}

type Player = (String, Arc<AtomicU64>);

async fn play(
    State((to, handled)): State<Player>,
    queue: MessageQueue,
    Json(ball): Json<Ball>,
) -> Result<StatusCode, EnqueueError> {
    queue.enqueue(Message::json(to, &Ball { n: ball.n + 1 })?)?;
    handled.fetch_add(1, Ordering::Relaxed);
    Ok(StatusCode::NO_CONTENT)
}

/// Plays; returns how many messages it has handled.
async fn player(settings: &Path, to: String, balls: u64) -> Arc<AtomicU64> {
    let bus = Bus::start(&Settings::from_file(settings).expect("settings")).await.expect("a bus");
    let handled = Arc::default();
    let handlers = Router::new().fallback(post(play)).with_state((to.clone(), Arc::clone(&handled)));
    tokio::spawn(bus.consumer("in", handlers).expect("a consumer").into_future());
    while !bus.health().await.is_up() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for n in 0..balls {
        bus.messenger()
            .send(vec![Message::json(to.clone(), &Ball { n }).expect("a message")])
            .await
            .expect("stored");
    }
    std::mem::forget(bus);
    handled
}

/// A process that ends with this one.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Place {
    folder: tempfile::TempDir,
    url: String,
    python: String,
}

impl Place {
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn settings(&self, me: &str) -> String {
        let settings = format!(
            "[MESSAGE_BUS]\nBACKEND = 'mqtt'\nURLS = '{}'\nCLIENT_ID = '{me}'\nDELIVERY = 'durable'\nACKNOWLEDGED = true\nACK_ADDRESS = '{me}/ack'\n\
             [MESSAGE_BUS.SIGNING]\nFORMAT = 'mqfactory'\nORIGIN = '{me}'\nKEY = '{}'\nTRUSTED = '{}'\n\
             [MESSAGE_BUS.OUTBOX]\nPATH = '{}'\n[MESSAGE_BUS.CONSUMERS.in]\nTOPICS = '{me}/in'\nCONCURRENCY = 64\nPREFETCH = 256\n",
            self.url,
            self.path(&format!("{me}.key")),
            self.folder.path().display(),
            self.path(&format!("{me}.outbox")),
        );
        let path = self.path(&format!("{me}.toml"));
        std::fs::write(&path, settings).expect("a file");
        path
    }

    fn peer(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/mqfactory_peer.py"))
            .args(args);
        command
    }

    /// Messages each second with so many in play.
    async fn ours(&self, balls: u64, turn: Duration) -> f64 {
        let names = ["a", "b"].map(|name| format!("{name}{balls}-{}", std::process::id()));
        let keys: Vec<&str> = names.iter().map(String::as_str).collect();
        let made =
            self.peer(&[&["keys", &self.folder.path().display().to_string()], &keys[..]].concat()).status();
        assert!(made.expect("python").success());
        let [a, b] = &names;
        let mut second = Command::new(std::env::current_exe().expect("this program"));
        second.env(JOB, format!("{} {a}.in 0", self.settings(b)));
        let second = Beside(second.stdout(Stdio::null()).spawn().expect("a second process"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let handled = player(Path::new(&self.settings(a)), format!("{b}.in"), balls).await;
        tokio::time::sleep(turn / 2).await;
        let (before, begun) = (handled.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(turn).await;
        let rate = 2.0 * (handled.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        drop(second);
        rate
    }

    /// Messages each second between two Python peers.
    fn python(&self, turn: Duration) -> f64 {
        let (a, b) = (format!("pa-{}", std::process::id()), format!("pb-{}", std::process::id()));
        let made = self.peer(&["keys", &self.folder.path().display().to_string(), &a, &b]).status();
        assert!(made.expect("python").success());
        let trusted = self.folder.path().display().to_string();
        let one = |me: &str, other: &str, more: &[&str]| {
            let (key, handles, back) =
                (self.path(&format!("{me}.key")), format!("{me}/in"), format!("{other}/in"));
            let args =
                ["peer", &self.url, me, "--handle", &handles, "--back", &back, "--key", &key, "--origin", me];
            let mut command = self.peer(&[&args[..], &["--trusted", &trusted], more].concat());
            command.stdout(Stdio::piped());
            Beside(command.spawn().expect("python"))
        };
        let second = one(&b, &a, &[]);
        std::thread::sleep(Duration::from_secs(1));
        let to = format!("{b}/in");
        let first =
            one(&a, &b, &["--send", &to, r#"["good"]"#, "--count-after", &turn.as_secs().to_string()]);
        std::thread::sleep(turn + Duration::from_secs(1));
        let mut first = first;
        let _ = first.0.kill();
        let mut output = String::new();
        std::io::Read::read_to_string(&mut first.0.stdout.take().expect("output"), &mut output)
            .expect("text");
        drop((first, second));
        let counted =
            output.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut counted = counted;
        let rate = counted.find_map(|line| line["rate"].as_f64());
        2.0 * rate.expect("it prints a rate")
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    if let Ok(job) = std::env::var(JOB) {
        let [settings, to, balls] = job.split(' ').collect::<Vec<_>>()[..] else { panic!("{job}") };
        player(Path::new(settings), to.to_owned(), balls.parse().expect("a number")).await;
        std::future::pending::<()>().await;
    }
    let brokers = std::env::var("TOWER_OUTBOX_BROKERS");
    let brokers =
        brokers.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/brokers").to_owned());
    let known = std::fs::read_to_string(Path::new(&brokers).join("env")).unwrap_or_default();
    let known: HashMap<_, _> = known.lines().filter_map(|line| line.split_once('=')).collect();
    let url = std::env::args().skip(1).find(|argument| argument.contains("://"));
    let url = url.or_else(|| known.get("MOSQUITTO1_MQTT").map(|url| (*url).to_owned()));
    let place = Place {
        folder: tempfile::tempdir().expect("a folder"),
        url: url.expect("no broker: run scripts/brokers up, or name one"),
        python: known.get("PYTHON").map_or_else(|| "python3".to_owned(), |python| (*python).to_owned()),
    };
    let turn =
        Duration::from_secs(if std::env::args().any(|argument| argument == "--quick") { 3 } else { 10 });
    println!(
        "ping-pong over mosquitto: signed, acknowledged and stored on both sides; mqfactory's documentation says 85/s"
    );
    println!("python  {:8.0}/s", place.python(turn));
    for balls in [1, 16, 256] {
        println!("{balls:6}  {:8.0}/s", place.ours(balls, turn).await);
    }
}

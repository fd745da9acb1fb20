//! The example `consume` killed again and again while it answers each message with another.

use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, copy, sink};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings};
use tower_outbox::{Message, Messenger};

use super::queue::Queue;
use super::random::Random;
use crate::peers::{Brokers, unique};

const ROUNDS: u64 = 100;

/// How many messages are sent for each: where rounds are slow there are not more of them to be handled at the end.
const A_ROUND: u64 = 400;

const LONG: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct FollowUp {
    answers: Answered,
}

#[derive(Deserialize)]
struct Answered {
    n: u64,
}

fn spawn(settings: &Path, log: &Path) -> Child {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples/consume");
    assert!(path.exists(), "{} is built by `cargo build --examples`, and by cargo test", path.display());
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(path);
    command.arg("--settings").arg(settings).env("RUST_LOG", "warn").env("NO_COLOR", "1");
    command.stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn().unwrap()
}

/// Starts it, and waits until it has handled something.
async fn start(settings: &Path, log: &Path) -> Child {
    let mut child = spawn(settings, log);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    timeout(LONG, lines.read_line(&mut String::new())).await.expect("it handles something").unwrap();
    tokio::spawn(async move { copy(&mut lines, &mut sink()).await });
    child
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn every_message_is_answered_though_the_consumer_is_killed_at_any_moment() {
    let brokers = Brokers::running();
    let url = brokers.get("RABBIT1_AMQP");
    let (topic_in, topic_out) = (unique("chaos.in"), unique("chaos.out"));
    let (queue_in, queue_out) = (Queue::declare(url, &topic_in).await, Queue::declare(url, &topic_out).await);
    let folder = tempfile::tempdir().unwrap();
    let (settings, log) = (folder.path().join("settings.toml"), folder.path().join("log"));
    let text = format!(
        "[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nDELIVERY = \"durable\"\nURLS = \"{url}\"\nMANDATORY = true\n\
         [MESSAGE_BUS.OUTBOX]\nPATH = \"{}\"\n[MESSAGE_BUS.CONSUMERS.in]\nQUEUE = \"{}\"\n",
        folder.path().join("outbox").display(),
        queue_in.name()
    );
    std::fs::write(&settings, text).unwrap();

    let (confirmed, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let wanted = Arc::new(AtomicU64::new(0));
    let load = {
        let messenger = Amqp091::new(&Amqp091Settings::new([url])).unwrap();
        let (confirmed, wanted, stop) = (Arc::clone(&confirmed), Arc::clone(&wanted), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let from = confirmed.load(Ordering::Relaxed);
                if from < wanted.load(Ordering::Relaxed) {
                    let body = |n| json!({"n": n, "publish": topic_out});
                    let batch = (from..from + 20).map(|n| Message::json(topic_in.clone(), &body(n)).unwrap());
                    messenger.send(batch.collect()).await.unwrap();
                    confirmed.fetch_add(20, Ordering::Relaxed);
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let mut random = Random::new(Random::any_seed());
    for _ in 0..ROUNDS {
        wanted.fetch_add(A_ROUND, Ordering::Relaxed);
        let mut child = start(&settings, &log).await;
        sleep(Duration::from_micros(random.in_range(0..200_000))).await;
        child.kill().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    let confirmed = confirmed.load(Ordering::Relaxed);

    // The rest: ended in order, it says which messages it still has.
    let mut lives = 0;
    let said = loop {
        lives += 1;
        assert!(lives < 10, "something stays: {}", std::fs::read_to_string(&log).unwrap());
        std::fs::write(&log, "").unwrap();
        let mut child = spawn(&settings, &log);
        let mut lines = child.stdout.take().unwrap();
        tokio::spawn(async move { copy(&mut lines, &mut sink()).await });
        let mut arrived = None;
        while queue_in.ready().await > 0 || arrived.replace(queue_out.ready().await) != arrived {
            sleep(Duration::from_millis(500)).await;
        }
        let pid = child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        let status = timeout(LONG, child.wait()).await.expect("it ends in time").unwrap();
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(status.success(), "{said}");
        // A warning with a count reports what is left.
        let is_left = said.lines().any(|line| line.contains("WARN") && line.contains("messages="));
        if queue_in.ready().await == 0 && !is_left {
            break said;
        }
    };

    let follow_ups = queue_out.drain_bodies::<FollowUp>().await;
    let answered: HashSet<u64> = follow_ups.iter().map(|follow_up| follow_up.answers.n).collect();
    let lost = (0..confirmed).filter(|n| !answered.contains(n)).count();
    eprintln!("consumer: {ROUNDS} kills, {confirmed} messages, {} follow-ups, {lost} lost", follow_ups.len());
    assert_eq!(lost, 0, "{said}");
    // A dead letter is an error of ours; the client library logs what the broker refuses as one too.
    assert!(!said.lines().any(|line| line.contains(" ERROR tower_outbox")), "{said}");
    assert!(confirmed > 10 * ROUNDS);
    queue_in.delete().await;
    queue_out.delete().await;
}

//! A process that is killed while it uses channels, again and again: nothing that was confirmed is lost, nothing that was acknowledged
//! comes again.
//!
//! `TOWER_OUTBOX_CHANNEL_ROUNDS` sets the number of rounds; 5 by default.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{
    ChannelKind, ChannelLimits, Engine, Queues, Receive, Settle, Start, StreamSubscription, Streams,
    Subscribe, Which,
};
use tower_outbox::testing::support::random::Random;
use tower_outbox::testing::support::stores::until;

use super::{content, message, name};

/// The variable that makes a test the process that is killed: its folder.
const FOLDER: &str = "TOWER_OUTBOX_CHANNEL_FOLDER";

/// The places at which it may kill itself.
pub(crate) const POINTS: [&str; 7] = [
    "channel_before_write",
    "channel_before_apply",
    "append_half_written",
    "checkpoint_before_sync",
    "checkpoint_before_folder_sync",
    "checkpoint_before_delete",
    "channel_segment_before_delete",
];

const QUEUES: [&str; 2] = ["one", "two"];

#[test]
fn a_killed_process_loses_nothing_and_repeats_nothing() {
    let rounds = std::env::var("TOWER_OUTBOX_CHANNEL_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 0..rounds {
        let mut child = start(folder.path(), round);
        let output = BufReader::new(child.stdout.take().unwrap());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150 + round * 37 % 200));
            let _ = child.kill();
            child.wait().unwrap()
        });
        for line in output.lines() {
            ledger.note(&line.unwrap());
        }
        killer.join().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ledger.verify(folder.path(), round));
    }
    let Ledger { sent, acked, delayed, changed, appended, read, .. } = &ledger;
    println!(
        "{rounds} rounds: {} sent, {delayed} of them delayed, {} acknowledged, {changed} rejected, moved, modified or delayed again, {} appended, {} read",
        sent.len(),
        acked.len(),
        appended.len(),
        read.len()
    );
    assert!(*delayed > 5 && *changed > 5, "it did too little");
    assert!(ledger.sent.len() > 20 && ledger.acked.len() > 10, "it did too little");
}

fn start(folder: &Path, round: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["channels::crash::the_process_that_is_killed", "--exact", "--ignored", "--nocapture"]);
    command.env(FOLDER, folder).env("TOWER_OUTBOX_CHANNEL_SEED", round.to_string());
    if !round.is_multiple_of(3) {
        let (point, times) = (POINTS[(round / 3) as usize % POINTS.len()], 1 + round % 7);
        let times = if point.starts_with("check") || point.ends_with("delete") { 1 } else { 5 * times };
        command.env("TOWER_OUTBOX_CRASH_AT", format!("{point}:{times}"));
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// The lines of the process, over all rounds. An event without a line may have happened or not.
#[derive(Default)]
struct Ledger {
    sent: BTreeSet<u64>,
    /// Acknowledgements that were begun, and those that were confirmed.
    begun: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    appended: BTreeMap<u64, u64>,
    /// The sequences of the stream whose acknowledgement was confirmed.
    read: BTreeSet<u64>,
    /// How many of the messages that were sent were delayed, and how many settlements were no acknowledgements.
    delayed: usize,
    changed: usize,
}

impl Ledger {
    fn note(&mut self, line: &str) {
        let Some((word, rest)) = line.split_once(' ') else { return };
        let numbers: Vec<u64> = rest.split(' ').map_while(|number| number.parse().ok()).collect();
        match (word, numbers.as_slice()) {
            ("sent", [id]) => drop(self.sent.insert(*id)),
            ("acking", [id]) => drop(self.begun.insert(*id)),
            ("acked", [id]) => drop(self.acked.insert(*id)),
            ("appended", [id, sequence]) => drop(self.appended.insert(*sequence, *id)),
            ("read", [sequence]) => drop(self.read.insert(*sequence)),
            ("delayed", [_]) => self.delayed += 1,
            ("changed", [_]) => self.changed += 1,
            _ => {}
        }
    }

    async fn verify(&self, folder: &Path, round: u64) {
        let engine = open(folder).await;
        let infos = async || {
            let (one, two) = (name(QUEUES[0]), name(QUEUES[1]));
            let one = engine.info(ChannelKind::Queue, &one).await.unwrap();
            [one, engine.info(ChannelKind::Queue, &two).await.unwrap()].into_iter().flatten()
        };
        until("no message is delayed", || async { infos().await.all(|info| info.delayed == 0) }).await;
        let mut found: HashMap<u64, usize> = HashMap::new();
        for queue in QUEUES {
            for message in engine.peek(&name(queue), 10_000, Duration::ZERO).await.unwrap().messages {
                *found.entry(id(&message.content.body)).or_default() += 1;
            }
            let info = engine.info(ChannelKind::Queue, &name(queue)).await.unwrap();
            assert!(info.is_none_or(|info| info.messages < 10_000), "round {round}: too much to see");
        }
        for (id, count) in &found {
            assert_eq!(*count, 1, "round {round}: message {id} is there {count} times");
            assert!(!self.acked.contains(id), "round {round}: message {id} was acknowledged and is there");
        }
        for id in self.sent.difference(&self.begun) {
            assert!(found.contains_key(id), "round {round}: message {id} was confirmed and is lost");
        }
        let all = engine.subscribe_stream(&name("s"), from_first(None)).await.unwrap();
        let mut stored = BTreeMap::new();
        while let Ok(messages) = tokio::time::timeout(Duration::from_millis(100), all.receive(500)).await {
            for message in messages.unwrap() {
                all.ack_soon(message.sequence);
                stored.insert(message.sequence, id(&message.content.body));
            }
        }
        let first = stored.keys().next().copied().unwrap_or(u64::MAX);
        for (sequence, id) in self.appended.range(first..) {
            assert_eq!(stored.get(sequence), Some(id), "round {round}: sequence {sequence} of the stream");
        }
        if let Some((last, _)) = self.appended.last_key_value() {
            assert!(stored.contains_key(last), "round {round}: the newest message of the stream is lost");
        }
        let durable = engine.subscribe_stream(&name("s"), from_first(Some("d"))).await.unwrap();
        while let Ok(messages) = tokio::time::timeout(Duration::from_millis(50), durable.receive(500)).await {
            for message in messages.unwrap() {
                let sequence = message.sequence;
                assert!(!self.read.contains(&sequence), "round {round}: {sequence} was read and comes again");
            }
        }
    }
}

fn from_first(durable: Option<&str>) -> Subscribe {
    Subscribe { start: Start::First, durable: durable.map(str::to_owned), ..Subscribe::default() }
}

fn id(body: &[u8]) -> u64 {
    std::str::from_utf8(body).unwrap().split(' ').next().unwrap().parse().unwrap()
}

async fn open(folder: &Path) -> EmbeddedEngine {
    let mut settings = EmbeddedEngineSettings::new(folder.join("channels")).with_segment_bytes(16_000);
    // Queues that are empty for a moment are removed, and made anew.
    settings.max_inactivity = Some(Duration::from_millis(20));
    EmbeddedEngine::open(settings).await.unwrap()
}

fn say(line: String) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all((line + "\n").as_bytes()).and_then(|()| out.flush());
}

#[test]
#[ignore = "another test runs it as a process"]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let seed: u64 = std::env::var("TOWER_OUTBOX_CHANNEL_SEED").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = Arc::new(open(Path::new(&folder)).await);
        let limits = ChannelLimits { max_messages: Some(300), ..ChannelLimits::default() };
        engine.create(ChannelKind::Stream, &name("s"), limits).await.unwrap();
        let durable = engine.subscribe_stream(&name("s"), from_first(Some("d"))).await.unwrap();
        tokio::join!(
            send(&engine, seed, 0),
            send(&engine, seed, 1),
            consume(&engine, seed, 2),
            consume(&engine, seed, 3),
            append(&engine, seed),
            read(&*durable)
        );
    });
}

async fn send(engine: &EmbeddedEngine, seed: u64, task: u64) {
    let mut random = Random::new(seed * 10 + task);
    for n in 0.. {
        let ids: Vec<u64> =
            (0..=random.below(4) as u64).map(|m| seed * 10_000_000 + task * 1_000_000 + n * 10 + m).collect();
        let messages = ids.iter().map(|id| {
            let mut message = message(format!("{id} {}", "x".repeat(random.below(700))));
            if random.below(4) == 0 {
                message.policy.delay = Duration::from_millis(1 + random.below(150) as u64);
            }
            (name(QUEUES[random.below(2)]), message)
        });
        for (id, sent) in ids.iter().zip(engine.send(messages.collect()).await) {
            let is_delayed = sent.unwrap().delayed_to.is_some();
            say(format!("sent {id}"));
            if is_delayed {
                say(format!("delayed {id}"));
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn consume(engine: &EmbeddedEngine, seed: u64, task: u64) {
    let mut random = Random::new(seed * 10 + task);
    loop {
        let queue = name(QUEUES[random.below(2)]);
        let visibility = Some(Duration::from_millis(20 + random.below(100) as u64));
        let wait = Duration::from_millis(20);
        let receive = Receive { max: 1 + random.below(8), wait, visibility, ..Receive::default() };
        let received = engine.receive(&queue, receive).await.unwrap();
        if received.messages.is_empty() {
            continue;
        }
        let _ = engine.extend(received.receipt, Which::All, Duration::from_millis(100)).await;
        let ids: Vec<u64> = received.messages.iter().map(|message| id(&message.content.body)).collect();
        let settle = match random.below(8) {
            0 => Settle::Reject { delay: Duration::from_millis(random.below(3) as u64 * 30) },
            1 => Settle::Requeue { to: name(QUEUES[random.below(2)]) },
            2 => Settle::Release,
            3 => {
                let new = seed * 10_000_000 + task * 1_000_000 + random.next() % 1_000_000;
                ids.iter().for_each(|id| say(format!("acking {id}")));
                let message = Box::new(message(format!("{new} modified")));
                let to = queue.clone();
                let replace = Settle::Replace { to, message, rerouted_from: None, receives: 0 };
                if engine
                    .settle(received.receipt, Which::All, replace)
                    .await
                    .is_ok_and(|n| n == ids.len() as u64)
                {
                    ids.iter().for_each(|id| say(format!("acked {id}")));
                    say(format!("sent {new}"));
                    say(format!("changed {new}"));
                }
                continue;
            }
            _ => {
                ids.iter().for_each(|id| say(format!("acking {id}")));
                let settled = engine.settle(received.receipt, Which::All, Settle::Ack).await;
                if settled.is_ok_and(|count| count == ids.len() as u64) {
                    ids.iter().for_each(|id| say(format!("acked {id}")));
                }
                continue;
            }
        };
        if engine.settle(received.receipt, Which::All, settle).await.is_ok() {
            say(format!("changed {}", ids[0]));
        }
    }
}

async fn append(engine: &EmbeddedEngine, seed: u64) {
    for n in 0.. {
        let id = seed * 10_000_000 + 9_000_000 + n;
        let body = format!("{id} {}", "x".repeat((id % 500) as usize));
        let appended = engine.append(vec![(name("s"), content(body))]).await.remove(0).unwrap();
        say(format!("appended {id} {}", appended.sequence));
    }
}

async fn read(durable: &dyn StreamSubscription) {
    loop {
        for message in durable.receive(10).await.unwrap() {
            durable.ack(message.sequence).await.unwrap();
            say(format!("read {}", message.sequence));
        }
    }
}

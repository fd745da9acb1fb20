//! A process that dies at a named place of the outbox, and the one after it that finds its store.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::future::ready;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_outbox::outbox::{Outbox, OutboxHandle, Relay, RelaySettings};
use tower_outbox::store::{Counts, EmbeddedStore, EmbeddedStoreSettings, Filter};
use tower_outbox::{Failure, Message, Messenger, Unsent, async_trait};

use super::ledger::{Arrival, Ledger, Outcome};
use super::random::Random;
use crate::peers::root;

/// The variable that makes a test the process that dies.
const JOB: &str = "TOWER_OUTBOX_TEST_JOB";

/// About twenty messages in a file.
const SEGMENT_BYTES: u64 = 3_000;

/// How many tasks append side by side, each the batches of one key.
const KEYS: u64 = 4;

/// How long a process may take.
const LONG: Duration = Duration::from_secs(60);

/// Batches that are stored before anything dies, of which so many have left; and those a process then tries to store.
const BEFORE: u64 = 60;
const SENT_BEFORE: u64 = 45;
const DURING: u64 = 100;

// ---- what is stored

/// A batch by its number: what is in it, and how the bus takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch(u64);

enum Kind {
    Plain,
    /// The bus fails the first time.
    Stumbles,
    /// The bus rejects it, until somebody has given its dead letter another life.
    Rejected,
}

impl Batch {
    fn kind(self) -> Kind {
        match self.0 % 13 {
            5 => Kind::Rejected,
            7 => Kind::Stumbles,
            _ => Kind::Plain,
        }
    }

    fn len(self) -> u64 {
        match self.kind() {
            Kind::Rejected => 1,
            _ => self.0 % 4 + 2,
        }
    }

    /// The messages of one task, but for the dead letters, whose turn comes at any time.
    fn key(self) -> String {
        match self.kind() {
            Kind::Rejected => format!("rejected-{}", self.0),
            _ => format!("key-{}", self.0 % KEYS),
        }
    }

    fn messages(self) -> Vec<Message> {
        let message = |part| {
            let body = format!("{} {part} {}", self.0, "x".repeat(50));
            Message::new("crash.test", body).unwrap().with_key(self.key())
        };
        (0..self.len()).map(message).collect()
    }

    /// The content of a body.
    fn parse(message: &Message) -> (Self, u64) {
        let (batch, part) = parse_line(std::str::from_utf8(message.body()).unwrap());
        (Self(batch), part)
    }
}

fn parse_line<A: FromStr, B: FromStr>(line: &str) -> (A, B) {
    let mut words = line.split(' ').map(str::parse::<String>);
    let mut word = || words.next().unwrap().unwrap();
    let (Ok(first), Ok(second)) = (word().parse(), word().parse()) else { panic!("{line}") };
    (first, second)
}

// ---- the process that may die

/// The task of the process.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Job {
    /// Appends these batches; the relay sends the first of them; ends in order.
    Prepare(u64, u64),
    /// Appends these batches; nothing leaves.
    Store(u64, u64),
    /// The same while the relay sends, until all has left; ends in order.
    Send(u64, u64),
    /// The same, one message at a time.
    SendEach(u64, u64),
    /// Lets everything leave, writes down the dead letters, gives them another life, and ends in order.
    Recover,
    /// Finds nothing left.
    Check,
}

/// Writes down what happens, a line at once: only the process dies, not the machine.
struct Notes(Mutex<File>);

impl Notes {
    fn open(path: &Path) -> Self {
        Self(Mutex::new(OpenOptions::new().create(true).append(true).open(path).unwrap()))
    }

    fn write(&self, line: &str) {
        self.0.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// The bus: what it confirms is written down first.
struct Bus {
    sent: Notes,
    rejects: bool,
    stumbled: Mutex<HashSet<u64>>,
}

#[async_trait]
impl Messenger for Bus {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let (mut unsent, mut held) = (Unsent::default(), HashSet::new());
        for message in batch {
            let (Batch(number), part) = Batch::parse(&message);
            let key = message.key().unwrap().to_owned();
            let stumbles = match Batch(number).kind() {
                Kind::Rejected if self.rejects => {
                    unsent.extend([(message, Failure::rejected("not now"))]);
                    continue;
                }
                Kind::Stumbles => self.stumbled.lock().unwrap().insert(number),
                _ => false,
            };
            // Later messages would overtake it.
            if stumbles || held.contains(&key) {
                held.insert(key);
                unsent.extend([(message, Failure::transient("once more"))]);
            } else {
                self.sent.write(&format!("{number} {part}"));
            }
        }
        unsent.into_result()
    }
}

async fn work(folder: &Path, job: Job) {
    let rejects = !matches!(job, Job::Recover);
    let bus = Bus { sent: Notes::open(&folder.join("sent")), rejects, stumbled: Mutex::default() };
    let settings = EmbeddedStoreSettings::new(folder.join("outbox")).with_segment_bytes(SEGMENT_BYTES);
    let store = EmbeddedStore::open(&settings).await.unwrap();
    let window = if matches!(job, Job::SendEach(..)) { 1 } else { 8 };
    let (outbox, relay) = Outbox::new(bus, Arc::new(store), RelaySettings::default().with_window(window));
    let handle = outbox.handle();
    match job {
        Job::Prepare(from, to) => {
            send(relay, &handle, append(folder, &handle, from, from + SENT_BEFORE)).await;
            append(folder, &handle, from + SENT_BEFORE, to).await;
        }
        Job::Store(from, to) => append(folder, &handle, from, to).await,
        Job::Send(from, to) | Job::SendEach(from, to) => {
            send(relay, &handle, append(folder, &handle, from, to)).await;
        }
        Job::Recover => {
            send(relay, &handle, ready(())).await;
            let (filter, dead) = (Filter::default(), Notes::open(&folder.join("dead")));
            for entry in handle.list(&filter, None, usize::MAX).await.unwrap().entries {
                let why = entry.explain();
                let (Batch(number), _) = Batch::parse(&entry.message.expect(&why));
                assert!(matches!(Batch(number).kind(), Kind::Rejected) && why.ends_with("not now"), "{why}");
                dead.write(&number.to_string());
            }
            handle.requeue(&filter, Duration::ZERO).await.unwrap();
        }
        Job::Check => {
            let left = handle.status().await.unwrap().counts;
            assert_eq!((left.pending, left.dead, left.bytes), (0, 0, 0));
        }
    }
    outbox.close(LONG).await;
}

/// Relays until this has ended, and all that is stored has left or is dead.
async fn send(relay: Relay<Bus>, handle: &OutboxHandle, meanwhile: impl Future<Output = ()>) -> Counts {
    let all_sent = async {
        meanwhile.await;
        while handle.status().await.unwrap().counts.pending > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    relay.with_graceful_shutdown(timeout(LONG, all_sent).map(Result::unwrap), LONG).await
}

/// Appends batches, those of a key one after the other, and writes down which are stored.
async fn append(folder: &Path, handle: &OutboxHandle, from: u64, to: u64) {
    let mut tasks = JoinSet::new();
    for key in 0..KEYS {
        let (handle, stored) = (handle.clone(), Notes::open(&folder.join("stored")));
        tasks.spawn(async move {
            for number in (from..to).filter(|number| number % KEYS == key) {
                handle.append(Batch(number).messages()).await.unwrap();
                stored.write(&number.to_string());
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

// ---- the test around it

/// A store's folder, and what the processes on it have written down.
struct Scene {
    folder: TempDir,
    /// How many batches any process may have begun.
    batches: u64,
}

/// Which messages may have been sent twice.
#[derive(Clone, Copy, Debug)]
enum Twice {
    /// None.
    Nothing,
    /// Each that was sent by the process that died.
    All,
    /// Any of those.
    Some,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), batches: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, job: Job, crash_at: Option<&str>) -> Child {
        let test = format!("{}::{WORKER}", module_path!().split_once("::").unwrap().1);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&test, "--exact", "--nocapture", "--test-threads=1"]);
        command
            .env(JOB, format!("{} {}", self.folder.path().display(), Self::words(job)))
            .env("RUST_BACKTRACE", "0");
        command.env_remove("TOWER_OUTBOX_CRASH_AT");
        if let Some(place) = crash_at {
            command.env("TOWER_OUTBOX_CRASH_AT", place);
        }
        let said = File::create(self.path("said")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().unwrap()
    }

    fn words(job: Job) -> String {
        match job {
            Job::Prepare(from, to) => format!("prepare {from} {to}"),
            Job::Store(from, to) => format!("store {from} {to}"),
            Job::Send(from, to) => format!("send {from} {to}"),
            Job::SendEach(from, to) => format!("send-each {from} {to}"),
            Job::Recover => "recover 0 0".to_owned(),
            Job::Check => "check 0 0".to_owned(),
        }
    }

    /// Runs a process to its end; gives what it sent and said.
    fn run(&mut self, job: Job, crash_at: Option<&str>) -> Life {
        match job {
            Job::Prepare(_, to) | Job::Store(_, to) | Job::Send(_, to) | Job::SendEach(_, to) => {
                self.batches = to
            }
            Job::Recover | Job::Check => {}
        }
        let before = self.sent().len();
        let status = wait(self.start(job, crash_at));
        let said = self.said();
        Life { status, sent: self.sent().split_off(before), said }
    }

    /// Lets everything leave, dead letters one start later, and looks that nothing is left; gives what was sent.
    fn recover(&mut self) -> BTreeSet<Arrival> {
        let mut sent = Vec::new();
        for job in [Job::Recover, Job::Recover, Job::Check] {
            let life = self.run(job, None);
            life.assert_success();
            sent.extend(life.sent);
        }
        once(&sent)
    }

    /// The batches that were dead letters.
    fn dead(&self) -> BTreeSet<u64> {
        fs::read_to_string(self.path("dead")).unwrap().lines().map(|line| line.parse().unwrap()).collect()
    }

    /// The lines of the last process; it must not have found anything wrong with the store.
    fn said(&self) -> String {
        let said = fs::read_to_string(self.path("said")).unwrap();
        let is_of_files = |line: &str| line.contains("path=") || line.contains("folder=");
        assert!(!said.lines().any(|line| line.contains("ERROR") && is_of_files(line)), "{said}");
        said
    }

    fn sent(&self) -> Vec<Arrival> {
        let text = fs::read_to_string(self.path("sent")).unwrap_or_default();
        text.lines().map(parse_line).collect()
    }

    /// Every stored message has been sent, all of a batch, in order; no batch was in part.
    fn assert_nothing_lost(&self) {
        let mut ledger = Ledger::default();
        let mut keys = std::collections::HashMap::new();
        for number in 0..self.batches {
            let key = *keys.entry(Batch(number).key()).or_insert_with(|| ledger.key());
            ledger.begin(key, 10 * number, Batch(number).len(), 0);
        }
        for line in fs::read_to_string(self.path("stored")).unwrap_or_default().lines() {
            ledger.end(line.parse().unwrap(), Outcome::Accepted);
        }
        let verdict = ledger.verdict(&self.sent());
        assert!(verdict.is_good(), "{verdict}\n{}", verdict.examples());
        assert!(verdict.messages > 0);
    }
}

/// A failed message can be looked at.
impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!(
                "the store, and what the processes wrote down, is kept in {}",
                self.folder.path().display()
            );
        }
    }
}

/// A process that has ended.
struct Life {
    status: ExitStatus,
    sent: Vec<Arrival>,
    said: String,
}

impl Life {
    fn assert_success(&self) {
        assert!(self.status.success(), "{}: {}", self.status, self.said);
    }
}

/// The messages sent, none of them twice.
fn once(sent: &[Arrival]) -> BTreeSet<Arrival> {
    let set: BTreeSet<_> = sent.iter().copied().collect();
    assert_eq!(
        set.len(),
        sent.len(),
        "something was sent twice by one process, or by two that ended in order"
    );
    set
}

/// The numbers of the batches that are rejected.
fn rejected(from: u64, to: u64) -> BTreeSet<u64> {
    (from..to).filter(|number| matches!(Batch(*number).kind(), Kind::Rejected)).collect()
}

fn wait(mut process: Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > LONG {
            process.kill().unwrap();
            panic!("it does not end, and was killed: {}", process.wait().unwrap());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

const WORKER: &str = "without_a_crash_everything_is_sent_once";

/// This test is also the process that dies, when it is given a job.
#[test]
fn without_a_crash_everything_is_sent_once() {
    if let Ok(job) = std::env::var(JOB) {
        let (folder, job) = job.split_once(' ').unwrap();
        let (name, range) = job.split_once(' ').unwrap();
        let (from, to) = parse_line(range);
        let job = match name {
            "prepare" => Job::Prepare(from, to),
            "store" => Job::Store(from, to),
            "send" => Job::Send(from, to),
            "send-each" => Job::SendEach(from, to),
            "recover" => Job::Recover,
            _ => Job::Check,
        };
        tracing_subscriber::fmt()
            .with_env_filter("tower_outbox=info")
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(work(Path::new(folder), job));
    }
    let mut scene = Scene::new();
    for job in [Job::Prepare(0, 60), Job::Store(60, 80), Job::Send(80, 120)] {
        scene.run(job, None).assert_success();
    }
    scene.recover();
    scene.assert_nothing_lost();
    let sent = once(&scene.sent());
    assert_eq!(sent.len() as u64, (0..120).map(|number| Batch(number).len()).sum::<u64>());
    assert_eq!(scene.dead(), rejected(0, 120));
}

/// A process that has stored and sent something ends in order; the next one dies at this place; one more recovers.
fn crash_at(place: &str, times: u32, job: fn(u64, u64) -> Job, twice: Twice) {
    let mut scene = Scene::new();
    let prepared = scene.run(Job::Prepare(0, BEFORE), None);
    prepared.assert_success();
    let at = format!("{place}:{times}");
    let crashed = scene.run(job(BEFORE, BEFORE + DURING), Some(&at));
    // A place that is not reached proves nothing, and a panic is no crash.
    assert_eq!(crashed.status.signal(), Some(6), "{at} is not reached: {}: {}", crashed.status, crashed.said);
    assert!(!crashed.said.contains("panicked"), "{}", crashed.said);
    let after = scene.recover();
    scene.assert_nothing_lost();

    assert!(
        scene.dead().is_superset(&rejected(0, SENT_BEFORE)),
        "{at}: dead letters live: {:?}",
        scene.dead()
    );
    let (before, died) = (once(&prepared.sent), once(&crashed.sent));
    assert!(!before.is_empty() && !after.is_empty());
    assert!(
        before.is_disjoint(&died) && before.is_disjoint(&after),
        "{at}: what had left has left once more"
    );
    match twice {
        Twice::Nothing => assert!(died.is_disjoint(&after), "{at}: {:?} twice", &died & &after),
        Twice::All => {
            assert!(died.is_subset(&after), "{at}: {:?} not sent again", &died - &after);
        }
        Twice::Some => {}
    }
}

/// A test for each place, which is its name.
macro_rules! places {
    ($($place:ident: $(($times:literal, $job:ident, $twice:ident)),+;)+) => {
        const PLACES: &[&str] = &[$(stringify!($place)),+];

        mod recovers_from {
            use super::{Job, Twice, crash_at};
            $(
                #[test]
                fn $place() {
                    $(crash_at(stringify!($place), $times, Job::$job, Twice::$twice);)+
                }
            )+
        }
    };
}

places! {
    append_before_write: (1, Store, Nothing), (4, Store, Nothing), (9, Send, Some);
    append_half_written: (1, Store, Nothing), (4, Store, Nothing), (9, Send, Some);
    append_before_sync: (1, Store, Nothing), (4, Store, Nothing), (9, Send, Some);
    append_before_reply: (1, Store, Nothing), (4, Store, Nothing), (9, Send, Some);
    segment_before_roll: (1, Store, Nothing), (3, Send, Some);
    leased_before_send: (1, SendEach, Nothing), (9, Send, Some);
    sent_before_settle: (1, SendEach, All), (9, Send, Some);
    settled_before_journal: (1, Send, All), (5, Send, Some);
    journal_half_written: (1, Send, Some), (5, Send, Some);
    segment_before_delete: (1, Send, Some), (3, Send, Some);
    // The first snapshot is written when the store is opened, the second when it is closed.
    snapshot_before_rename: (1, Send, Nothing), (2, Send, Nothing);
    snapshot_after_rename: (1, Send, Nothing), (2, Send, Nothing);
    compaction_before_rename: (1, Send, Some), (2, Send, Some);
    compaction_after_rename: (1, Send, Some), (2, Send, Some);
}

#[test]
fn every_place_in_the_source_is_crashed_at() {
    fn places(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                places(&entry.path(), found);
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap();
            for call in ["crash::point(\"", "crash::armed(\""] {
                found.extend(text.split(call).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
            }
        }
    }
    let mut found = BTreeSet::new();
    places(&root().join("src"), &mut found);
    let crashed_at = PLACES.iter().chain(&crate::channels::crash::POINTS);
    assert_eq!(found, crashed_at.map(|place| (*place).to_owned()).collect());
}

#[test]
fn a_process_killed_at_any_moment_loses_nothing() {
    let seed = Random::any_seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut scene = Scene::new();
    for life in 0..15 {
        let from = life * 1_000;
        scene.batches = from + 1_000;
        let mut process = scene.start(Job::Send(from, scene.batches), None);
        thread::sleep(Duration::from_micros(random.in_range(0..120_000)));
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9), "{}", scene.said());
        scene.said();
    }
    scene.recover();
    scene.assert_nothing_lost();
}

//! Queues and streams of the embedded engine, against a bare loop of write and fdatasync on the same disk.
//!
//!     cargo bench -p tower-outbox-benches --bench channels
//!     cargo bench -p tower-outbox-benches --bench channels -- --quick     a short run
//!     cargo bench -p tower-outbox-benches --bench channels -- memory      this part alone
//!
//! | part | measured |
//! |---|---|
//! | `rates` | 64 tasks send to a queue, send and receive with an acknowledgement, append to a stream; each waits until it is durable. Bare: a thread gathers whatever waits into one write and one `fdatasync`. Each ratio is taken within one round |
//! | `memory` | two million messages in 1,000 queues: resident memory, and the time of a restart after a close and after a kill |

mod support;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::group_commit::bare;
use support::{Spread, asked, disk, quick};
use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{
    ChannelName, Content, Policy, QueueMessage, Queues, Receive, Settle, Streams, Which,
};

const TASKS: u64 = 64;
const BODY: usize = 300;
const QUEUES: u64 = 1_000;

/// The variable that makes this bench the process whose memory is measured: its folder, and what it does.
const JOB: &str = "CHANNELS_BENCH_JOB";

#[tokio::main(worker_threads = 2)]
async fn main() {
    if let Ok(job) = std::env::var(JOB) {
        return run(&job).await;
    }
    if asked("rates") {
        rates().await;
    }
    if asked("memory") {
        memory();
    }
}

fn name(name: &str) -> ChannelName {
    ChannelName::new(name).expect("it is allowed")
}

fn content() -> Content {
    Content { body: vec![b'x'; BODY].into(), ..Content::default() }
}

fn message() -> QueueMessage {
    QueueMessage { content: content(), policy: Policy::default() }
}

async fn open(folder: &std::path::Path) -> EmbeddedEngine {
    let settings = EmbeddedEngineSettings::new(folder.join("channels"));
    EmbeddedEngine::open(settings).await.expect("the folder can be used")
}

/// How often a second the tasks did it.
async fn rate<F>(turn: Duration, work: impl Fn(u64) -> F + Send + Sync + 'static) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let (done, work, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(work), Instant::now());
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (done, work) = (Arc::clone(&done), Arc::clone(&work));
            tokio::spawn(async move {
                while begun.elapsed() < turn {
                    work(task).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it does not panic");
    }
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

async fn rates() {
    let (rounds, turn) = if quick() { (3, Duration::from_millis(300)) } else { (9, Duration::from_secs(1)) };
    let folder = disk::folder("channels");
    let engine = open(folder.path()).await;
    let group = Arc::new(bare(folder.path(), Arc::default()));
    let record = Bytes::from(vec![b'x'; BODY + 60]);
    let mut ratios = [Vec::new(), Vec::new(), Vec::new()];
    let mut all = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let (of_bare, record) = (Arc::clone(&group), record.clone());
        let bare = rate(turn, move |_| {
            let (group, record) = (Arc::clone(&of_bare), record.clone());
            async move { group.append(record).await }
        });
        let bare = bare.await;
        let of_send = engine.clone();
        let send = rate(turn, move |task| {
            let engine = of_send.clone();
            async move {
                let messages = vec![(name(&format!("sent-{task}")), message())];
                engine.send(messages).await.remove(0).expect("there is room");
            }
        });
        let send = send.await;
        let of_both = engine.clone();
        let both = rate(turn, move |task| {
            let engine = of_both.clone();
            async move {
                let queue = name(&format!("both-{task}"));
                engine.send(vec![(queue.clone(), message())]).await.remove(0).expect("there is room");
                let received = engine.receive(&queue, Receive::default()).await.expect("it can be read");
                engine.settle(received.receipt, Which::All, Settle::Ack).await.expect("it is held");
            }
        });
        // A send and an acknowledgement are two durable records.
        let both = 2.0 * both.await;
        let of_append = engine.clone();
        let append = rate(turn, move |_| {
            let engine = of_append.clone();
            async move {
                engine.append(vec![(name("stream"), content())]).await.remove(0).expect("there is room");
            }
        });
        let append = append.await;
        for (at, rate) in [send, both, append].into_iter().enumerate() {
            ratios[at].push(rate / bare);
            all[at].push(rate);
        }
        all[3].push(bare);
    }
    let [send, both, append] = ratios;
    let [sends, boths, appends, bares] = all;
    println!(
        "{TASKS} tasks, messages of {BODY} bytes, {rounds} rounds; ratios to bare, {:.0}/s",
        Spread::of(bares)
    );
    for (what, ratio, rates) in [
        ("send to a queue", send, sends),
        ("send, receive, acknowledge", both, boths),
        ("append", append, appends),
    ] {
        println!(
            "  {what:<28} {:.2}   target >= 0.5   ({:.0} records/s)",
            Spread::of(ratio),
            Spread::of(rates)
        );
    }
}

/// Runs a process that does this to a folder; returns its output.
fn process(folder: &std::path::Path, job: &str) -> String {
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.env(JOB, format!("{job} {}", folder.display())).arg(if quick() { "--quick" } else { "--bench" });
    let output = command.stdout(Stdio::piped()).spawn().and_then(std::process::Child::wait_with_output);
    String::from_utf8(output.expect("it runs").stdout).expect("it is text")
}

fn memory() {
    let folder = disk::folder("channels");
    println!("{} messages in {QUEUES} queues", messages());
    print!("{}", process(folder.path(), "fill"));
    print!("{}", process(folder.path(), "open-after-close"));
    print!("{}", process(folder.path(), "kill"));
    print!("{}", process(folder.path(), "open-after-kill"));
}

fn messages() -> u64 {
    if quick() { 200_000 } else { 2_000_000 }
}

fn resident(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with(field)).expect("it is there");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("it is a number");
    kib / 1_024.0
}

/// The work of the process whose memory is measured.
async fn run(job: &str) {
    let (what, folder) = job.split_once(' ').expect("a job has a folder");
    let begun = Instant::now();
    let engine = open(std::path::Path::new(folder)).await;
    let opened = begun.elapsed().as_secs_f64();
    match what {
        "fill" => {
            let names: Vec<ChannelName> = (0..QUEUES).map(|n| name(&format!("queue-{n}"))).collect();
            let begun = Instant::now();
            for _ in 0..messages() / QUEUES / 10 {
                for names in names.chunks(100) {
                    let batch = names.iter().flat_map(|name| (0..10).map(move |_| (name.clone(), message())));
                    for sent in engine.send(batch.collect()).await {
                        sent.expect("there is room");
                    }
                }
            }
            println!(
                "  filled at {:.0}/s; resident {:.0} MiB, at most {:.0} MiB   target < 200",
                messages() as f64 / begun.elapsed().as_secs_f64(),
                resident("VmRSS:"),
                resident("VmHWM:")
            );
        }
        "kill" => {
            for _ in 0..200 {
                let batch = (0..500).map(|n| (name(&format!("queue-{n}")), message())).collect();
                for sent in engine.send(batch).await {
                    sent.expect("there is room");
                }
            }
            std::process::abort();
        }
        _ => println!(
            "  {what}: {opened:.2} s   target < 3; resident {:.0} MiB, at most {:.0} MiB",
            resident("VmRSS:"),
            resident("VmHWM:")
        ),
    }
}

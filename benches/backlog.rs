//! The effect of ten million stored messages: rates of append and relay, memory, and the time to restart.
//!
//!     cargo bench -p tower-outbox-benches --bench backlog
//!     BACKLOG=2000000 cargo bench -p tower-outbox-benches --bench backlog     another number of messages
//!     cargo bench -p tower-outbox-benches --bench backlog -- --quick          a short run
//!
//! It runs itself once for each part:
//!
//! | part | what |
//! |---|---|
//! | small | a tenth of the backlog is appended to an empty store, and relayed; before and after the other parts |
//! | fill | the backlog is appended, and the process ends as if it were killed |
//! | empty | the store is opened, closed and opened again; then a relay sends everything |
//!
//! 64 tasks append 16 messages of 300 bytes at a time. A real relay sends to a messenger that confirms at once.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use support::relay::relay;
use support::{Event, NoOp, disk, quick};
use tower_outbox::Message;
use tower_outbox::message::Settlement;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, Limits, Store};

const TASKS: u64 = 64;
const BATCH: u64 = 16;

/// How much room a message takes at most.
const ROOM: u64 = 600;

/// The figures of a part.
type Figures = BTreeMap<String, f64>;

fn main() {
    let backlog = std::env::var("BACKLOG").ok().map(|number| number.parse().expect("BACKLOG is a number"));
    let backlog: u64 = backlog.unwrap_or_else(|| if quick() { 500_000 } else { 10_000_000 });
    // The number is a whole number of batches for each task.
    let step = (backlog / 10).next_multiple_of(TASKS * BATCH);
    let backlog = 10 * step;
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.windows(2).find(|pair| pair[0] == "--part") {
        Some(pair) => part(&pair[1], Path::new(arguments.last().expect("the folder")), backlog, step),
        None => compare(backlog, step),
    }
}

fn compare(backlog: u64, step: u64) {
    let folder = disk::folder("backlog");
    let free = disk::free(folder.path());
    let needed = backlog * ROOM;
    assert!(free > needed, "there are {free} bytes free on the disk of target, and {needed} may be needed");
    let run = |part: &str| {
        let sync = disk::fdatasync(folder.path(), 64 << 10);
        eprintln!("{part}; an fdatasync of 64 KiB takes {sync:.0} µs");
        run(part, folder.path(), backlog)
    };

    let small = [run("small")];
    let fill = run("fill");
    let empty = run("empty");
    let small = [&small[0], &run("small")];

    let mean = |name: &str| f64::midpoint(small[0][name], small[1][name]);
    let millions = |messages: u64| messages as f64 / 1e6;
    println!(
        "{} million messages of 300 bytes; of the small backlog, {} million",
        millions(backlog),
        millions(step)
    );
    println!("  append/s, first tenth          {:>9.0}", fill["append first"]);
    println!("  append/s, last tenth           {:>9.0}", fill["append last"]);
    println!("  append/s, small backlog        {:>9.0} and {:.0}", small[0]["append"], small[1]["append"]);
    println!("  relayed/s, first tenth         {:>9.0}", empty["relay first"]);
    println!("  relayed/s, all                 {:>9.0}", empty["relay all"]);
    println!("  relayed/s, small backlog       {:>9.0} and {:.0}", small[0]["relay"], small[1]["relay"]);
    let last = fill["append last"];
    println!("  append, last tenth / first     {:>9.2}   target >= 0.85", last / fill["append first"]);
    println!("  append, last tenth / small     {:>9.2}", last / mean("append"));
    println!(
        "  relay, first tenth / small     {:>9.2}   target >= 0.85",
        empty["relay first"] / mean("relay")
    );
    println!("  resident memory, at most       {:>9.0} MiB to append   target < 200", fill["resident"]);
    println!(
        "                                 {:>9.0} MiB to restart and relay   target < 200",
        empty["resident"]
    );
    println!("                                 {:>9.0} MiB with the small backlog", small[0]["resident"]);
    println!("  open to first lease            {:>9.2} s after a kill   target < 3", empty["killed"]);
    println!("                                 {:>9.2} s after a close   target < 3", empty["closed"]);
    println!("  bytes on the disk a message    {:>9.0}", fill["taken"] / backlog as f64);
    println!("  bytes on the disk at the end   {:>9.0}", empty["taken"]);
    let content = (message(&Event::new().bytes()).size() as u64 * backlog) as f64;
    println!("  written for a byte of content  {:>9.2} to append", fill["written"] / content);
    println!(
        "                                 {:>9.2} until confirmed",
        (fill["written"] + empty["written"]) / content
    );
}

fn run(part: &str, folder: &Path, backlog: u64) -> Figures {
    let mut command = Command::new(std::env::current_exe().expect("this file has a name"));
    command.args(["--part", part]).arg(folder).env("BACKLOG", backlog.to_string());
    let output = command.stderr(Stdio::inherit()).output().expect("it can be run again");
    assert!(output.status.success(), "{part} failed: {}", output.status);
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

#[tokio::main(worker_threads = 2)]
async fn part(part: &str, folder: &Path, backlog: u64, step: u64) {
    let mut figures = Figures::new();
    let mut figure = |name: &str, value: f64| {
        figures.insert(name.to_owned(), value);
    };
    match part {
        "small" => {
            let folder = folder.join("small");
            let store = open(&folder).await;
            figure("append", step as f64 / append(&store, step).await);
            let (seconds, left) = relay(NoOp, store.clone(), step, step).await;
            assert_eq!(left.pending, 0);
            figure("relay", step as f64 / seconds[0]);
            store.close().await;
            std::fs::remove_dir_all(folder).expect("it is closed");
        }
        "fill" => {
            let store = open(&folder.join("large")).await;
            for tenth in 0..10 {
                let rate = step as f64 / append(&store, step).await;
                eprintln!("  appended {step} at {rate:.0}/s; resident {:.0} MiB", mebibytes("VmRSS:"));
                match tenth {
                    0 => figure("append first", rate),
                    9 => figure("append last", rate),
                    _ => {}
                }
            }
            figure("taken", disk::taken(folder) as f64);
        }
        _ => {
            let folder = folder.join("large");
            figure("killed", ready(&folder).await);
            figure("closed", ready(&folder).await);
            eprintln!("  opened twice; resident {:.0} MiB", mebibytes("VmRSS:"));
            let store = open(&folder).await;
            let (seconds, left) = relay(NoOp, store.clone(), backlog, step).await;
            let rates: Vec<_> = seconds.iter().map(|seconds| (step as f64 / seconds).round()).collect();
            eprintln!("  relayed at {rates:?}/s; resident {:.0} MiB", mebibytes("VmRSS:"));
            assert_eq!(left.pending, 0);
            figure("relay first", step as f64 / seconds[0]);
            figure("relay all", backlog as f64 / seconds.iter().sum::<f64>());
            store.close().await;
            figure("taken", disk::taken(&folder) as f64);
        }
    }
    figure("resident", mebibytes("VmHWM:"));
    figure("written", disk::written() as f64);
    println!("{}", serde_json::to_string(&figures).expect("it is JSON"));
    if part == "fill" {
        // Nothing is dropped, so nothing closed.
        std::process::exit(0);
    }
}

async fn open(folder: &Path) -> Arc<EmbeddedStore> {
    let mut limits = Limits::default();
    (limits.max_messages, limits.max_bytes) = (u64::MAX, u64::MAX);
    let settings = EmbeddedStoreSettings::new(folder).with_limits(limits);
    Arc::new(EmbeddedStore::open(&settings).await.expect("it can be opened"))
}

/// Seconds from opening the store to its first lease.
async fn ready(folder: &Path) -> f64 {
    let begun = Instant::now();
    let store = open(folder).await;
    let leased = store.lease(1).await.expect("it can be read");
    let seconds = begun.elapsed().as_secs_f64();
    store.settle(&[(leased[0].lease, Settlement::Release)]).await.expect("it can be written");
    store.close().await;
    seconds
}

/// Seconds to append so many messages.
async fn append(store: &Arc<EmbeddedStore>, messages: u64) -> f64 {
    let event = Event::new().bytes();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, event) = (Arc::clone(store), event.clone());
            tokio::spawn(async move {
                for _ in 0..messages / TASKS / BATCH {
                    let batch = (0..BATCH).map(|_| message(&event)).collect();
                    store.append(batch).await.expect("there is room");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it does not panic");
    }
    begun.elapsed().as_secs_f64()
}

fn message(event: &Bytes) -> Message {
    Message::new("bench.event", event.clone()).expect("the topic is one")
}

/// A line of this process's status.
fn mebibytes(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|known| known.strip_prefix(line)).expect("it has a size");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("it is a number") / 1024.0
}

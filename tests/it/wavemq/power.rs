//! A power cut: the process is gone, and of its files all that was written after the last `fdatasync`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::time::sleep;

use super::crash::{Process, UNLIMITED, client, free_port, make_queue, publish, publish_one, receive};
use super::sites::until;

/// The number of publishers, each with a URI of its own.
const PUBLISHERS: u32 = 4;

/// A router whose machine loses its power.
struct Machine {
    router: Process,
    /// The file that names each segment with its durable length, which the router writes.
    synced: PathBuf,
    /// The durable lengths of the last power cut.
    durable: HashMap<PathBuf, u64>,
}

impl Machine {
    fn new(folder: &Path, queue: &str) -> Self {
        let synced = folder.join("synced");
        let mut router = Process::new(&folder.join("router"), free_port(), queue, "");
        router.environment = vec![("TOWER_OUTBOX_SYNCED", synced.clone())];
        Self { router, synced, durable: HashMap::new() }
    }

    /// The durable lengths of the segments.
    fn durable(&self) -> HashMap<PathBuf, u64> {
        let mut durable = self.durable.clone();
        let text = std::fs::read_to_string(&self.synced).unwrap_or_default();
        for line in text.lines() {
            // The process may have died in its last line.
            if let Some((length, path)) = line.split_once(' ')
                && path.ends_with(".log")
            {
                durable.insert(path.into(), length.parse().unwrap());
            }
        }
        durable
    }

    fn durable_bytes(&self) -> u64 {
        self.durable().values().sum()
    }

    /// Cuts the power; returns how many bytes were lost.
    async fn lose_power(&mut self) -> u64 {
        self.router.kill().await;
        self.durable = self.durable();
        std::fs::remove_file(&self.synced).unwrap();
        let (log, mut lost) = (self.router.queue.join("log"), 0);
        for file in std::fs::read_dir(log).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let durable = self.durable.get(&path).copied().unwrap_or_default();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let written = file.metadata().unwrap().len();
            if written > durable {
                lost += written - durable;
                file.set_len(durable).unwrap();
            }
        }
        lost
    }
}

/// `TOWER_OUTBOX_ROUNDS` sets the number of rounds; by default there are 4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_confirmed() {
    let rounds: u32 = std::env::var("TOWER_OUTBOX_ROUNDS").map_or(4, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(folder.path(), UNLIMITED);
    machine.router.start().await;
    let address = machine.router.clients;
    make_queue(address).await;
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|n| tokio::spawn(publish(address, n, Arc::clone(&stop)))).collect();
    let mut lost = 0;
    for _ in 0..rounds {
        let wait = Duration::from_millis(rand::rng().random_range(20..400));
        sleep(wait).await;
        lost += machine.lose_power().await;
        machine.router.start().await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut confirmed = Vec::new();
    for publisher in publishers {
        confirmed.push(publisher.await.unwrap());
    }
    let published: usize = confirmed.iter().map(Vec::len).sum();
    let came = receive(address, &confirmed).await;
    println!("{rounds} power cuts, {lost} bytes lost, {published} confirmed, {came} came");
    assert!(published > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_flush_interval_a_power_cut_loses_no_more_than_that() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(folder.path(), "flushInterval = 1");
    machine.router.start().await;
    let address = machine.router.clients;
    make_queue(address).await;
    let mut early = client(address);
    let (begun, before) = (Instant::now(), machine.durable_bytes());
    for number in 0..50 {
        assert!(publish_one(&mut early, 0, number).await);
    }
    // With some time for a busy machine.
    let interval = Duration::from_secs(1);
    until("the messages are flushed", async || machine.durable_bytes() > before).await;
    assert!(begun.elapsed() < interval * 5, "it took {:?}", begun.elapsed());
    sleep(interval * 2).await;
    for number in 0..50 {
        assert!(publish_one(&mut early, 1, number).await);
    }
    machine.lose_power().await;
    machine.router.start().await;
    let last = publish_one(&mut client(address), 1, 50).await;
    assert!(last);
    // All of the first publisher are there, and of the second one those that were flushed.
    let came = receive(address, &[(0..50).collect(), vec![50]]).await;
    println!("{} of 50 messages of the last second were lost", 101 - came);
    assert!((51..=101).contains(&came), "{came} came");
}

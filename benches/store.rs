//! Appends a second into the embedded store, against a bare loop of write and fdatasync on the same disk.
//!
//!     cargo bench -p tower-outbox-benches --bench store
//!     cargo bench -p tower-outbox-benches --bench store -- --quick     a short run
//!
//! | who | how |
//! |---|---|
//! | embedded | `EmbeddedStore::append`, one message of 300 bytes each |
//! | bare | a thread gathers whatever waits into one `write` and one `fdatasync`; records as long as those of the store, to a file that grows |
//! | fjall | a thread gathers whatever waits into one batch of fjall 3, durability `SyncData`; the same records |
//!
//! 1, 16, 64 and 256 tasks append, each waits until its record is durable before its next. Turns of the two that are
//! compared alternate; each ratio is taken within one round. Then, by how many append at a time: what a message takes on
//! the disk, how many bytes are written to the disk for each byte of its topic, headers and body until it is confirmed,
//! and how fast what is stored is read and confirmed.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use support::group_commit::{GroupCommit, bare};
use support::{Event, Spread, disk, quick};
use tower_outbox::Message;
use tower_outbox::message::Settlement;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, Limits, Store};

const WRITERS: [usize; 4] = [1, 16, 64, 256];
const ROUNDS: usize = 9;
const TURN: Duration = Duration::from_secs(1);

/// How many messages are confirmed at once, as the relay does.
const BATCH: usize = 256;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let (rounds, turn) = if quick() { (3, TURN / 5) } else { (ROUNDS, TURN) };
    let event = Event::new().bytes();
    let record = record(&event).await;
    println!("messages of 300 bytes, records of {} bytes, {rounds} rounds", record.len());
    for writers in WRITERS {
        let folder = disk::folder("store");
        let embedded = Arc::new(open(folder.path()).await);
        let embedded = || {
            let (store, event) = (Arc::clone(&embedded), event.clone());
            move || {
                let (store, message) = (Arc::clone(&store), message(&event));
                async move { store.append(vec![message]).await.expect("there is room") }
            }
        };
        let grouped = |group: &Arc<GroupCommit>| {
            let (group, record) = (Arc::clone(group), record.clone());
            move || {
                let (group, record) = (Arc::clone(&group), record.clone());
                async move { group.append(record).await }
            }
        };
        println!("{writers} writers");

        let syncs = Arc::default();
        let bare = Arc::new(bare(folder.path(), Arc::clone(&syncs)));
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for who in [round % 2, (round + 1) % 2] {
                rates[who].push(match who {
                    0 => appends(writers, turn, embedded()).await,
                    _ => appends(writers, turn, grouped(&bare)).await,
                });
            }
        }
        let syncs = std::mem::take(&mut *syncs.lock().expect("nobody panics"));
        println!("  an fdatasync of bare  {:.0} µs", Spread::of(syncs));
        print("bare", rates, "target >= 0.4, 0.5 if possible");

        let fjall = Fjall::open(folder.path());
        let fjall = Arc::new(fjall.group);
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for who in [round % 2, (round + 1) % 2] {
                rates[who].push(match who {
                    0 => appends(writers, turn, embedded()).await,
                    _ => appends(writers, turn, grouped(&fjall)).await,
                });
            }
        }
        print("fjall", rates, "");
    }
    for (writers, messages) in [(1, 20_000), (16, 200_000), (256, 1_000_000)] {
        let messages = if quick() { messages / 20 } else { messages } / writers * writers;
        println!("{messages} messages, {writers} at a time, then all confirmed in batches of {BATCH}");
        let folder = disk::folder("store");
        let store = Arc::new(open(folder.path()).await);
        let append = {
            let (store, event) = (Arc::clone(&store), event.clone());
            move || {
                let (store, message) = (Arc::clone(&store), message(&event));
                async move { store.append(vec![message]).await.expect("there is room") }
            }
        };
        let footprint = Footprint { folder: folder.path(), writers, messages };
        footprint.print("embedded", append, confirm_all(&store, messages)).await;
        store.close().await;

        let folder = disk::folder("store");
        let fjall = Arc::new(Fjall::open(folder.path()));
        let append = {
            let (fjall, record) = (Arc::clone(&fjall), record.clone());
            move || {
                let (fjall, record) = (Arc::clone(&fjall), record.clone());
                async move { fjall.group.append(record).await }
            }
        };
        let footprint = Footprint { folder: folder.path(), writers, messages };
        footprint.print("fjall", append, fjall.remove_all(messages)).await;
    }
}

fn print(rival: &str, [embedded, rivals]: [Vec<f64>; 2], target: &str) {
    let ratios = embedded.iter().zip(&rivals).map(|(embedded, rival)| embedded / rival).collect();
    println!("  embedded {:>8.0} appends/s", Spread::of(embedded));
    println!("  {rival:<8} {:>8.0} appends/s", Spread::of(rivals));
    println!("  embedded / {rival:<5} {:.2}   {target}", Spread::of(ratios));
}

async fn open(folder: &Path) -> EmbeddedStore {
    let mut limits = Limits::default();
    (limits.max_messages, limits.max_bytes) = (u64::MAX, u64::MAX);
    let settings = EmbeddedStoreSettings::new(folder.join("outbox")).with_limits(limits);
    EmbeddedStore::open(&settings).await.expect("it can be created")
}

fn message(event: &Bytes) -> Message {
    Message::new("bench.event", event.clone()).expect("the topic is one")
}

/// As long as a record of the store.
async fn record(event: &Bytes) -> Bytes {
    const MESSAGES: u64 = 50_000;
    let folder = disk::folder("store");
    let store = open(folder.path()).await;
    for _ in 0..MESSAGES / 500 {
        store.append(vec![message(event); 500]).await.expect("there is room");
    }
    store.close().await;
    drop(store);
    vec![b'x'; (disk::length(folder.path()) / MESSAGES).max(300) as usize].into()
}

/// Appends a second, with this many at a time.
async fn appends<F, T>(writers: usize, time: Duration, append: F) -> f64
where
    F: Fn() -> T + Clone + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (append, stop) = (append.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut appended = 0;
                while !stop.load(Ordering::Relaxed) {
                    append().await;
                    appended += 1;
                }
                appended
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut appended = 0;
    for task in tasks {
        appended += task.await.expect("it does not panic");
    }
    f64::from(appended) / begun.elapsed().as_secs_f64()
}

struct Fjall {
    database: Database,
    keyspace: Keyspace,
    group: GroupCommit,
}

impl Fjall {
    fn open(folder: &Path) -> Self {
        let database = Database::builder(folder.join("fjall")).open().expect("it can be created");
        let keyspace = database.keyspace("messages", KeyspaceCreateOptions::default);
        let keyspace = keyspace.expect("it can be created");
        let mut position = 0_u64;
        let group = {
            let (database, keyspace) = (database.clone(), keyspace.clone());
            GroupCommit::start(move |group| {
                let mut batch = database.batch().durability(Some(PersistMode::SyncData));
                for (record, _) in group {
                    batch.insert(&keyspace, position.to_be_bytes(), record.as_ref());
                    position += 1;
                }
                batch.commit().expect("there is room");
            })
        };
        Self { database, keyspace, group }
    }

    /// Reads all in order and removes it, as a relay would: without a sync, and never from before what was removed.
    async fn remove_all(&self, messages: usize) {
        let mut position = 0;
        while position < messages as u64 {
            let records = self.keyspace.range(position.to_be_bytes()..).take(BATCH);
            let records: Vec<_> =
                records.map(|record| record.into_inner().expect("it can be read")).collect();
            let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
            for (key, _) in &records {
                batch.remove(&self.keyspace, key.clone());
            }
            batch.commit().expect("there is room");
            position += records.len() as u64;
        }
    }
}

async fn confirm_all(store: &EmbeddedStore, messages: usize) {
    let mut left = messages;
    while left > 0 {
        let leased = store.lease(BATCH).await.expect("it can be read");
        left -= leased.len();
        let settled: Vec<_> = leased.iter().map(|one| (one.lease, Settlement::Ack)).collect();
        store.settle(&settled).await.expect("it can be written");
    }
}

/// The bytes of messages on the disk, and the bytes that are written for them until they are confirmed.
struct Footprint<'a> {
    folder: &'a Path,
    writers: usize,
    messages: usize,
}

impl Footprint<'_> {
    async fn print<F, T>(&self, who: &str, append: F, confirm: impl Future<Output = ()>)
    where
        F: Fn() -> T + Clone + Send + 'static,
        T: Future<Output = ()> + Send,
    {
        let (each, before) = (self.messages / self.writers, disk::written());
        let tasks: Vec<_> = (0..self.writers)
            .map(|_| {
                let append = append.clone();
                tokio::spawn(async move {
                    for _ in 0..each {
                        append().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("it does not panic");
        }
        let (appended, taken) = (disk::written() - before, disk::taken(self.folder));
        let begun = Instant::now();
        confirm.await;
        let rate = self.messages as f64 / begun.elapsed().as_secs_f64();
        let (written, left) = (disk::written() - before, disk::taken(self.folder));
        let per_message = |bytes: u64| bytes as f64 / self.messages as f64;
        let content = message(&Event::new().bytes()).size() as f64;
        println!(
            "  {who:<8} {:.0} bytes on the disk for each, {left} in all at the end; written for each byte of content {:.2}, of it to append {:.2}; confirmed {rate:.0}/s",
            per_message(taken),
            per_message(written) / content,
            per_message(appended) / content,
        );
    }
}

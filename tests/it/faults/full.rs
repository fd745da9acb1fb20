//! A full disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::header::RETRY_AFTER;
use http::{Request, Response, StatusCode};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_outbox::message::Settlement;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::{Counts, EmbeddedStore, EmbeddedStoreSettings, OpenError, Store};
use tower_outbox::{Failure, Health, Message, MessageQueue, MessagingLayer, Messenger, Unsent, async_trait};
use uuid::Uuid;

use super::{assert_works, drain, without};
use crate::support::logs;
use crate::support::messengers::Journal;
use crate::support::stores::{STUCK, confirm, depth, ids, ids_of, lease_all, open, until};

/// A file system in memory.
pub struct Disk(TempDir);

impl Disk {
    pub fn mount(options: &str) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(disk.0.path()).output();
        let mounted = mounted.expect("the command mount is there");
        let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
        assert!(mounted.status.success(), "a tmpfs cannot be mounted, which needs root: {said}");
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.path()).status();
        assert!(status.unwrap().success(), "{options}");
    }

    /// Fills the disk; returns the file that does.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::options().append(true).create(true).open(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// A broker that can be switched on and off.
#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>, Journal);

#[async_trait]
impl Messenger for Switch {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        if !self.0.load(Ordering::SeqCst) {
            return Err(Unsent::new(batch, &Failure::transient("down")));
        }
        batch.iter().for_each(|message| self.1.write(message.id()));
        Ok(())
    }

    async fn health(&self) -> Health {
        if self.0.load(Ordering::SeqCst) { Health::Up } else { Health::Down { reason: "down".to_owned() } }
    }
}

impl Switch {
    fn set(&self, up: bool) {
        self.0.store(up, Ordering::SeqCst);
    }

    fn sent(&self) -> Vec<Uuid> {
        self.1.read().iter().map(|id| id.parse().unwrap()).collect()
    }
}

/// An app with an outbox on that disk.
struct App {
    router: Router,
    store: EmbeddedStore,
    handled: Arc<AtomicUsize>,
    stop: oneshot::Sender<()>,
    relay: JoinHandle<Counts>,
}

impl App {
    async fn start(settings: &EmbeddedStoreSettings, bus: &Switch) -> Self {
        let store = open(settings).await.unwrap();
        let (outbox, relay) = Outbox::new(bus.clone(), Arc::new(store.clone()), RelaySettings::default());
        let (stop, stopped) = oneshot::channel();
        let relay = tokio::spawn(
            relay.with_graceful_shutdown(async { drop(stopped.await) }, Duration::from_secs(10)),
        );
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let handler = move |queue: MessageQueue| async move {
            count.fetch_add(1, Ordering::SeqCst);
            let message = Message::new("a", vec![7; 3_000]).unwrap();
            let id = message.id().to_string();
            queue.enqueue(message).unwrap();
            id
        };
        let router = Router::new().route("/", post(handler)).layer(MessagingLayer::new(outbox));
        Self { router, store, handled, stop, relay }
    }

    async fn post(&self) -> Response<Body> {
        self.router.clone().oneshot(Request::post("/").body(Body::empty()).unwrap()).await.unwrap()
    }

    /// Posts; returns the id of the stored message.
    async fn stored(&self) -> Option<Uuid> {
        let response = self.post().await;
        if response.status() == StatusCode::OK {
            return Some(crate::support::text(response).await.parse().unwrap());
        }
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER), "{response:?}");
        None
    }

    /// Posts until the disk is full; returns the ids of the stored messages.
    async fn post_until_full(&self) -> Vec<Uuid> {
        let mut ids = Vec::new();
        while let Some(id) = self.stored().await {
            ids.push(id);
            assert!(ids.len() < 10_000, "the disk is never full");
        }
        ids
    }

    async fn end(self) -> Counts {
        self.stop.send(()).unwrap();
        let left = self.relay.await.unwrap();
        self.store.close().await;
        left
    }
}

fn settings(disk: &Disk) -> EmbeddedStoreSettings {
    EmbeddedStoreSettings::new(disk.path().join("outbox")).with_segment_bytes(128 << 10)
}

#[tokio::test]
#[ignore = "needs root to mount: ./scripts/test"]
async fn a_full_disk_rejects_requests_and_loses_nothing() {
    let disk = Disk::mount("size=2m");
    let bus = Switch::default();
    let app = App::start(&settings(&disk), &bus).await;
    let mut stored: Vec<_> = vec![app.stored().await.expect("there is room")];
    let log = logs::listen();
    let ballast = disk.fill();
    stored.extend(app.post_until_full().await);

    // For about a second requests do not reach the handler.
    let handled = app.handled.load(Ordering::SeqCst);
    for _ in 0..5 {
        let response = app.post().await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
    }
    assert_eq!(app.handled.load(Ordering::SeqCst), handled, "rejected before the handler");
    let said = log.alarms(settings(&disk).path.to_str().unwrap());
    assert!(said.iter().any(|event| event.is_error() && event.has("messages")), "{said:?}");
    // Then one request is tried, and the others are rejected again.
    until("one is tried", || async {
        assert_eq!(app.stored().await, None);
        app.handled.load(Ordering::SeqCst) > handled
    })
    .await;

    // Room on the disk is enough to continue.
    fs::remove_file(ballast).unwrap();
    let begun = Instant::now();
    stored.push(loop {
        if let Some(id) = app.stored().await {
            break id;
        }
        assert!(begun.elapsed() < STUCK, "it does not continue");
        sleep(Duration::from_millis(5)).await;
    });
    bus.set(true);
    until("all is confirmed", || async { depth(&app.store).await.0 == 0 }).await;
    assert_eq!(app.end().await.pending, 0);
    assert_eq!(bus.sent(), stored, "each stored message once, in order");
}

#[tokio::test]
#[ignore = "needs root to mount: ./scripts/test"]
async fn a_full_disk_drains_by_itself() {
    let disk = Disk::mount("size=2m");
    let bus = Switch::default();
    let app = App::start(&settings(&disk), &bus).await;
    let mut stored: Vec<_> = app.post_until_full().await;
    disk.fill();
    assert!(stored.len() > 400, "the store itself has filled the disk: {}", stored.len());
    bus.set(true);
    until("all is confirmed", || async { depth(&app.store).await.0 == 0 }).await;
    let mut ids = Vec::new();
    for _ in 0..600 {
        ids.extend(app.stored().await);
        if ids.len() == 20 {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ids.len(), 20, "its own files have made room");
    stored.extend(ids);
    assert_eq!(app.end().await.pending, 0);
    assert_eq!(bus.sent(), stored);
    let store = open(&settings(&disk)).await.unwrap();
    assert!(drain(&store).await.is_empty(), "nothing is sent twice");
    assert_works(&store).await;
}

/// Stores 200 messages, fills the disk, and confirms 150 of them; returns the ids of those, and of the others.
async fn confirmed_on_a_full_disk(
    disk: &Disk,
    log: &logs::Logs,
) -> (EmbeddedStore, PathBuf, Vec<Uuid>, Vec<Uuid>) {
    let store = open(&settings(disk)).await.unwrap();
    let messages: Vec<_> = (0..200).map(|_| Message::new("a", vec![7; 3_000]).unwrap()).collect();
    for batch in messages.chunks(10) {
        store.append(batch.to_vec()).await.unwrap();
    }
    let ballast = disk.fill();
    // The last block of the journal has some room: retries fill it.
    let mut out = lease_all(&store, 200).await;
    let mut gone = Vec::new();
    for _ in 0..150 {
        let mut one = out.remove(0);
        gone.push(one.message.id());
        for _ in 0..10 {
            let retry = Settlement::Retry { after: Duration::ZERO, reason: "no answer from the bus".into() };
            store.settle(&[(one.lease, retry)]).await.unwrap();
            let mut again = lease_all(&store, 1).await;
            assert_eq!(ids_of(&again), gone[gone.len() - 1..]);
            one = again.remove(0);
        }
        confirm(&store, &[one]).await;
    }
    // `ENOSPC`: only the journal is written now.
    let broken = || log.alarms("os error 28").len();
    until("the journal is full", || async { broken() > 0 }).await;
    (store, ballast, gone, ids(&messages[150..]))
}

#[tokio::test]
#[ignore = "needs root to mount: ./scripts/test"]
async fn messages_confirmed_on_a_full_disk_are_not_sent_again() {
    let log = logs::listen();
    let disk = Disk::mount("size=2m");
    let (store, ballast, gone, rest) = confirmed_on_a_full_disk(&disk, &log).await;
    assert_eq!(depth(&store).await, (50, 0));
    let journal = settings(&disk).path.join("state");
    let before = fs::metadata(&journal).unwrap().modified().unwrap();
    fs::remove_file(ballast).unwrap();
    // A copy is like a kill after the journal was replaced.
    let copy = tempfile::tempdir().unwrap();
    let copied = EmbeddedStoreSettings::new(copy.path().join("outbox"));
    until("the journal is written anew", || async {
        fs::metadata(&journal).unwrap().modified().unwrap() > before
    })
    .await;
    assert!(
        Command::new("cp").arg("-a").arg(settings(&disk).path).arg(&copied.path).status().unwrap().success()
    );
    let killed = open(&copied).await.unwrap();
    assert_eq!(drain(&killed).await, rest);
    assert_works(&killed).await;
    drop(store);
    let store = open(&settings(&disk)).await.unwrap();
    let sent = drain(&store).await;
    assert_eq!(sent, rest);
    assert!(without(&gone, &sent).len() == gone.len());
    assert_works(&store).await;
}

#[tokio::test]
#[ignore = "needs root to mount: ./scripts/test"]
async fn a_full_disk_at_start_loses_nothing_and_logs_no_damage() {
    let log = logs::listen();
    let disk = Disk::mount("size=2m");
    let (store, ballast, gone, rest) = confirmed_on_a_full_disk(&disk, &log).await;
    let folder = settings(&disk).path;
    // A copy is like a kill; the other disk is as full.
    let copy = Disk::mount("size=2m");
    assert!(Command::new("cp").arg("-a").arg(&folder).arg(copy.path()).status().unwrap().success());
    drop((store, ballast));
    let copied = settings(&copy);
    let ballast = copy.fill();
    for round in 0..3 {
        // The close finds no room either.
        let store = open(&copied).await.unwrap();
        let (pending, dead) = depth(&store).await;
        assert!(pending >= rest.len() as u64 && dead == 0, "round {round}: {pending} {dead}");
        copy.fill();
        drop(store);
        copy.fill();
    }
    let store = open(&copied).await.unwrap();
    fs::remove_file(ballast).unwrap();
    let more: Vec<_> = (0..100).map(|_| Message::new("a", vec![7; 3_000]).unwrap()).collect();
    for batch in more.chunks(10) {
        store.append(batch.to_vec()).await.unwrap();
    }
    let rest = [rest, ids(&more)].concat();
    drop(store);
    let store = open(&copied).await.unwrap();
    let sent = drain(&store).await;
    assert!(without(&rest, &sent).is_empty(), "nothing is lost");
    assert!(without(&sent, &[gone, rest].concat()).is_empty());
    assert_eq!(depth(&store).await, (0, 0));
    let said = log.alarms(copied.path.to_str().unwrap());
    assert!(!said.iter().any(|event| event.is_error() && !event.has("error")), "{said:?}");
    assert_works(&store).await;
}

#[tokio::test]
#[ignore = "needs root to mount: ./scripts/test"]
async fn a_store_that_cannot_be_created_on_a_full_disk_names_the_cure() {
    let disk = Disk::mount("size=64k,nr_inodes=100");
    disk.fill();
    match EmbeddedStore::open(&settings(&disk)).await {
        // The folder may take no room, but the first segment does.
        Err(error @ OpenError::Io { .. }) => {
            let text = error.to_string();
            assert!(text.contains(settings(&disk).path.to_str().unwrap()), "{text}");
            assert!(text.contains("make room on that file system"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

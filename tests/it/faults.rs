//! Faults of the environment: the disk, its files, other processes, the clock.

mod clock;
mod damage;
pub mod full;
mod locked;
mod many;
mod missing;
mod opening;
mod shutdown;
mod torn;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::timeout;
use tower_outbox::Message;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, EntryState, Filter, Store};
use uuid::Uuid;

use crate::support::stores::{STUCK, batch, confirm, depth, lease_all, list_by, open};

/// The variable that tells a process which part of a test it plays.
pub const PART: &str = "TOWER_OUTBOX_TEST_PART";

/// Runs this test as another process, which plays `part` and ends with this one.
pub fn again(test: &str, part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--include-ignored"]).env(PART, part);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The part of this process; `None` in the test itself.
pub fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// The folder of an embedded store.
pub struct StoreFolder {
    pub settings: EmbeddedStoreSettings,
    _folder: TempDir,
}

impl StoreFolder {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { settings: EmbeddedStoreSettings::new(folder.path().join("outbox")), _folder: folder }
    }

    pub fn with_segment_bytes(mut self, bytes: u64) -> Self {
        self.settings = self.settings.with_segment_bytes(bytes);
        self
    }

    pub fn path(&self) -> &Path {
        &self.settings.path
    }

    pub async fn open(&self) -> EmbeddedStore {
        open(&self.settings).await.unwrap()
    }

    /// Copies the files, as a process that is killed now leaves them.
    pub fn copy(&self) -> Self {
        let copy = Self::new().with_segment_bytes(self.settings.segment_bytes);
        fs::create_dir(copy.path()).unwrap();
        for entry in fs::read_dir(self.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        // Without the zeros that were allocated ahead.
        cut(&copy.last_log(), written(&copy.last_log()).len());
        copy
    }

    pub fn journal(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The segments, oldest first.
    pub fn logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut logs: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
        logs.sort();
        logs
    }

    pub fn last_log(&self) -> PathBuf {
        self.logs().pop().unwrap()
    }
}

/// Confirms all messages; returns their ids in the order of the leases.
pub async fn drain(store: &(impl Store + ?Sized)) -> Vec<Uuid> {
    let (mut left, begun) = (Vec::new(), Instant::now());
    while depth(store).await.0 > 0 {
        assert!(begun.elapsed() < STUCK, "a pending message is never leased");
        // A damaged message is never leased.
        if let Ok(leased) = timeout(Duration::from_millis(3), store.lease(100)).await {
            let leased = leased.unwrap();
            left.extend(leased.iter().map(|one| one.message.id()));
            confirm(store, &leased).await;
        }
    }
    left
}

/// Counts the dead letters whose message is damaged.
pub async fn unreadable(store: &(impl Store + ?Sized)) -> usize {
    let dead = list_by(store, &Filter::state(EntryState::Dead), 100).await;
    dead.iter()
        .filter(|entry| {
            let reason = entry.failures.last().map_or("", |failure| &failure.reason);
            entry.message.is_none() && reason.contains("can no longer be read")
        })
        .count()
}

/// Returns the ids of `all` that are not in `some`.
pub fn without(all: &[Uuid], some: &[Uuid]) -> Vec<Uuid> {
    all.iter().copied().filter(|id| !some.contains(id)).collect()
}

/// The bytes of a file before the zeros that were allocated ahead.
pub fn written(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
}

pub fn flip(path: &Path, at: usize, with: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= with;
    fs::write(path, bytes).unwrap();
}

pub fn cut(path: &Path, len: usize) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len as u64).unwrap();
}

/// Asserts that the store takes messages and leases them.
pub async fn assert_works(store: &(impl Store + ?Sized)) {
    let (before, more) = (depth(store).await.0, batch("more", 3));
    assert_eq!(before, 0, "it is empty");
    store.append(more.clone()).await.unwrap();
    let leased = lease_all(store, 3).await;
    assert_eq!(
        leased.iter().map(|one| &one.message).collect::<Vec<_>>(),
        more.iter().collect::<Vec<&Message>>()
    );
    confirm(store, &leased).await;
}

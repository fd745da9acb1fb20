//! What a disk may hold, for [`fuzzing`](crate::fuzzing).

use std::fs;
use std::time::Duration;

use super::event::Event;
use super::head::{HEAD, Head};
use super::record::{self, Key};
use super::segment::Segment;
use super::writer::JOURNAL;
use super::{EmbeddedStore, EmbeddedStoreSettings};
use crate::message::fuzzing::shown;
use crate::store::{Filter, Store};

/// The random number of the store.
const STORE: u64 = 7;

/// The payload of a record of the log.
pub fn records(data: &[u8]) {
    let Ok(message) = record::message(data) else { return };
    assert!(message.size() <= 8 * data.len());
    let mut written = Vec::new();
    if record::push_batch(&mut written, 0, std::slice::from_ref(&message)).is_ok() {
        let again = record::message(&written[record::HEADER..]).expect("what was written can be read");
        assert_eq!(shown(&again), shown(&message));
    }
}

/// The payload of a record of the journal.
pub fn journal(data: &[u8]) {
    let Ok(event) = Event::read(data) else { return };
    let mut written = Vec::new();
    event.write(&mut written, 0);
    let again = Event::read(&written[record::HEADER..]).expect("what was written can be read");
    assert_eq!(format!("{again:?}"), format!("{event:?}"));
}

/// A folder: pieces, before each its kind and its length in two bytes. A piece is a record of the log or of the journal, with
/// its checksums, or bytes of either as they are.
pub fn store(data: &[u8]) {
    let (mut log, mut state) = (File::new(Head::log(STORE, 1, None), 1), File::new(Head::journal(STORE), 0));
    let mut rest = data;
    while let [kind, low, high, more @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (piece, behind) = more.split_at(length);
        rest = behind;
        match kind & 3 {
            0 => log.record(piece),
            1 => state.record(piece),
            2 => log.bytes.extend_from_slice(piece),
            _ => state.bytes.extend_from_slice(piece),
        }
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("store");
    fs::create_dir(&path).expect("a folder can be made");
    fs::write(path.join(Segment::name(1)), &log.bytes).expect("a file can be written");
    if !state.is_empty() {
        fs::write(path.join(JOURNAL), &state.bytes).expect("a file can be written");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let settings = EmbeddedStoreSettings::new(&path);
    runtime.block_on(async {
        let Some(first) = look(&settings).await else { return };
        assert!(first <= data.len() as u64, "{first:?} of {} bytes", data.len());
        assert_eq!(look(&settings).await, Some(first), "what was opened once can be opened again");
    });
}

/// How many messages there are; none if it does not open. One that cannot be read is dead once it was leased.
async fn look(settings: &EmbeddedStoreSettings) -> Option<u64> {
    let store = EmbeddedStore::open(settings).await.ok()?;
    let counts = store.counts().await.expect("it can be counted");
    let (mut after, mut listed) = (None, 0);
    loop {
        let page = store.list(&Filter::default(), after, 100).await.expect("it can be listed");
        listed += page.entries.len() as u64;
        match page.next {
            Some(next) if after.is_none_or(|after| after < next) => after = Some(next),
            Some(_) => panic!("the list does not go on"),
            None => break,
        }
    }
    assert!(listed <= counts.pending + counts.dead, "{listed} of {counts:?}");
    // It waits where none is due.
    let leased = tokio::time::timeout(Duration::from_millis(1), store.lease(10)).await;
    assert!(!matches!(leased, Ok(Err(_))), "it can be leased from");
    store.close().await;
    Some(counts.pending + counts.dead)
}

struct File {
    bytes: Vec<u8>,
    key: Key,
    next: u64,
}

impl File {
    fn new(head: Head, next: u64) -> Self {
        Self { bytes: head.to_bytes().to_vec(), key: head.key(), next }
    }

    fn is_empty(&self) -> bool {
        self.bytes.len() as u64 <= HEAD
    }

    fn record(&mut self, payload: &[u8]) {
        let at = self.bytes.len();
        let pushed = record::push(&mut self.bytes, self.key.payload, true, |bytes| {
            bytes.extend_from_slice(payload);
            Ok(())
        });
        pushed.expect("a record can be written");
        self.next = record::place(&mut self.bytes[at..], &self.key, at as u64, self.next);
    }
}

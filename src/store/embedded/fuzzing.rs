//! Arbitrary bytes on disk, for [`fuzzing`](crate::fuzzing).

use std::fs;
use std::time::Duration;

use super::encoding::{decode_message, push_batch};
use super::event::Event;
use super::journal::JOURNAL;
use super::settings::EmbeddedStoreSettings;
use super::store::EmbeddedStore;
use crate::log::format::{HEAD, RECORD_HEADER};
use crate::log::head::Head;
use crate::log::record::{Key, assign_positions, push_record};
use crate::log::segment::Segment;
use crate::message::fuzzing::shown;
use crate::store::{Filter, Store};

/// The random number of the log.
const LOG: u64 = 7;

/// The payload of a record of a segment.
pub fn records(data: &[u8]) {
    let Ok(message) = decode_message(data) else { return };
    assert!(message.size() <= 8 * data.len());
    let mut written = Vec::new();
    if push_batch(&mut written, 0, std::slice::from_ref(&message)).is_ok() {
        let again = decode_message(&written[RECORD_HEADER..]).expect("a written record can be read");
        assert_eq!(shown(&again), shown(&message));
    }
}

/// The payload of a record of the journal.
pub fn journal(data: &[u8]) {
    let Ok(event) = Event::read(data) else { return };
    let mut written = Vec::new();
    event.write(&mut written, 0);
    let again = Event::read(&written[RECORD_HEADER..]).expect("a written record can be read");
    assert_eq!(format!("{again:?}"), format!("{event:?}"));
}

/// A folder: pieces, each behind its kind and its length in two bytes. A piece is a record of the segment or of the journal,
/// with its checksums, or raw bytes of either.
pub fn store(data: &[u8]) {
    let (mut log, mut state) = (File::new(Head::segment(LOG, 1, None), 1), File::new(Head::journal(LOG), 0));
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
        assert_eq!(look(&settings).await, Some(first), "a store that was opened can be opened again");
    });
}

/// Returns the number of messages; `None` if the store does not open. A damaged message is dead once it was leased.
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
        let pushed = push_record(&mut self.bytes, self.key.payload, true, |bytes| {
            bytes.extend_from_slice(payload);
            Ok(())
        });
        pushed.expect("a record can be written");
        self.next = assign_positions(&mut self.bytes[at..], &self.key, at as u64, self.next);
    }
}

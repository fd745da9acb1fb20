//! Arbitrary bytes on disk, for [`fuzzing`](crate::fuzzing).

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::checkpoint;
use super::engine::EmbeddedEngine;
use super::record::{self, Record};
use super::settings::EmbeddedEngineSettings;
use crate::channels::engine::Engine;
use crate::channels::info::ChannelKind;
use crate::channels::queue::Queues;
use crate::channels::queue_types::Receive;
use crate::channels::stream::Streams;
use crate::channels::stream_types::{Start, Subscribe};
use crate::log::format::RECORD_HEADER;
use crate::log::head::Head;
use crate::log::record::{Key, assign_positions, push_record};
use crate::log::segment::Segment;

/// The random number of the log.
const LOG: u64 = 7;

/// The payload of a record.
pub fn channel_records(data: &[u8]) {
    let Ok(record) = record::decode(data) else { return };
    let mut written = Vec::new();
    record::push(&mut written, 0, &record).expect("a record can be written");
    let again = record::decode(&written[RECORD_HEADER..]).expect("a written record can be read");
    assert_eq!(format!("{again:?}"), format!("{record:?}"));
    if let Record::Put(put) = record {
        assert!(put.body.len() + put.tags.len() <= data.len());
    }
}

/// A folder: pieces, each behind its kind and its length in two bytes. A piece is a record of the log or a part of a checkpoint, with
/// its checksums, or raw bytes of either.
pub fn channels(data: &[u8]) {
    let (mut log, mut parts) =
        (File::new(Head::segment(LOG, 1, None), 1), File::new(checkpoint::head(LOG, 1), 0));
    let (mut rest, mut has_parts) = (data, false);
    while let [kind, low, high, more @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (piece, behind) = more.split_at(length);
        rest = behind;
        has_parts |= kind & 1 == 1;
        match kind & 3 {
            0 => log.record(piece),
            1 => parts.record(piece),
            2 => log.bytes.extend_from_slice(piece),
            _ => parts.bytes.extend_from_slice(piece),
        }
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("channels");
    fs::create_dir(&path).expect("a folder can be made");
    fs::write(path.join(Segment::name(1)), &log.bytes).expect("a file can be written");
    if has_parts {
        fs::write(path.join(checkpoint::name(1)), &parts.bytes).expect("a file can be written");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if use_all(&path).await {
            assert!(use_all(&path).await, "channels that were opened can be opened again");
        }
    });
}

/// Opens the channels, and uses each; returns whether they could be opened.
async fn use_all(path: &Path) -> bool {
    let mut settings = EmbeddedEngineSettings::new(path);
    settings.stream_max_age = None;
    let Ok(engine) = EmbeddedEngine::open(settings).await else { return false };
    for queue in engine.list(ChannelKind::Queue, "").await.expect("it can be listed").into_iter().take(8) {
        let peeked = engine.peek(&queue.name, 100, Duration::ZERO).await.expect("it can be read");
        assert!(peeked.messages.len() as u64 <= queue.messages);
        let receive = Receive { max: 10, auto_ack: true, ..Receive::default() };
        engine.receive(&queue.name, receive).await.expect("it can be received from");
        engine.purge(&queue.name).await.expect("it can be purged");
    }
    for stream in engine.list(ChannelKind::Stream, "").await.expect("it can be listed").into_iter().take(8) {
        let subscribe = Subscribe { start: Start::First, ..Subscribe::default() };
        let subscription = engine.subscribe_stream(&stream.name, subscribe).await.expect("it can be read");
        // It waits where there is none.
        let received = tokio::time::timeout(Duration::from_millis(1), subscription.receive(100)).await;
        assert!(!matches!(received, Ok(Err(_))), "it can be received from");
    }
    engine.close(Duration::from_secs(10)).await;
    true
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

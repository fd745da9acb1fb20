//! Makes room on the disk: what is still needed of the oldest segment is written again, and the segment is deleted.

use std::io;
use std::ops::Range;

use super::record::Record;
use super::router_shared::{RouterShared, SEGMENT};
use crate::log::reader::ReadItem;
use crate::log::record_log::RecordLog;
use crate::util::sync::lock;

/// Rewrites the oldest segment if more than half of the log is not needed.
pub(super) async fn oldest_segment(router: &RouterShared) {
    let needed = lock(&router.state).stored().1;
    if router.log.bytes() <= 2 * needed + 2 * SEGMENT {
        return;
    }
    let Some(positions) = router.log.oldest() else { return };
    if let Err(error) = rewrite(router, positions).await {
        tracing::warn!(%error, "could not rewrite the oldest segment of the router; it stays for now");
    }
}

async fn rewrite(router: &RouterShared, positions: Range<u64>) -> io::Result<()> {
    let (log, end) = (router.log.clone(), positions.end);
    let found =
        tokio::task::spawn_blocking(move || read(&log, positions)).await.map_err(io::Error::other)??;
    let (mut records, mut seqs) = (Vec::new(), Vec::new());
    for (position, payload) in &found {
        let Ok(record) = Record::decode(payload) else { continue };
        let Some(record) = lock(&router.state).rewrite(*position, record) else { continue };
        seqs.push(match &record {
            Record::Message(message) => Some((message.seq, *position)),
            _ => None,
        });
        records.push(record.encode().map_err(io::Error::other)?);
    }
    let written = router.log.append(&records).await?;
    {
        let mut state = lock(&router.state);
        for (position, seq) in written.zip(seqs) {
            if let Some((seq, former)) = seq
                && let Some(stored) = state.message_mut(seq).filter(|stored| stored.position == Some(former))
            {
                stored.position = Some(position);
            }
        }
    }
    let log = router.log.clone();
    tokio::task::spawn_blocking(move || log.delete_before(end)).await.map_err(io::Error::other)
}

/// Reads the records of these positions. Blocks.
fn read(log: &RecordLog, positions: Range<u64>) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let (mut reader, mut found) = (log.read(positions.start), Vec::new());
    while let Some(item) = reader.next()? {
        match item {
            ReadItem::Record { position, .. } if position >= positions.end => break,
            ReadItem::Record { position, payload } => found.push((position, payload.to_vec())),
            ReadItem::Lost(lost) if lost.start >= positions.end => break,
            ReadItem::Lost(_) => {}
        }
    }
    Ok(found)
}

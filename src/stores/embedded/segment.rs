//! One file of messages, and the set of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::record;
use super::scan::{Found, Scan};
use crate::message::Message;

/// What every file of messages begins with.
pub(super) const MAGIC: &[u8; 8] = b"TOBXLOG1";

/// How far apart the entries of an index are, in bytes.
pub(super) const INDEX_STEP: u64 = 16 << 10;

/// A file of messages, with positions from `base` to `end`.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    /// The position after its last.
    pub(super) end: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// How many bytes are committed.
    pub(super) len: u64,
    /// How many of its messages are there, and about how many bytes they have.
    pub(super) live: u64,
    pub(super) live_bytes: u64,
    /// Where some of its records begin; none when that has not been looked for.
    pub(super) index: Option<Arc<Vec<(u64, u64)>>>,
}

impl Segment {
    /// The name of a file that is written as messages come.
    pub(super) fn name(base: u64) -> String {
        format!("{base:020}.log")
    }

    /// The name of a file that was rewritten with what was left of one or more.
    pub(super) fn compacted_name(base: u64, end: u64) -> String {
        format!("{base:020}-{end:020}.log")
    }

    /// The base, and the end if it is compacted, by the name of its file.
    pub(super) fn parse_name(name: &str) -> Option<(u64, Option<u64>)> {
        let stem = name.strip_suffix(".log")?;
        match stem.split_once('-') {
            None => Some((stem.parse().ok()?, None)),
            Some((base, end)) => Some((base.parse().ok()?, Some(end.parse().ok()?))),
        }
    }

    /// A message of it is gone.
    pub(super) fn gone(&mut self) -> u64 {
        let bytes = self.live_bytes.checked_div(self.live).unwrap_or(0);
        self.live = self.live.saturating_sub(1);
        self.live_bytes -= bytes;
        bytes
    }

    /// Where to begin to look for a position.
    fn start(&self, position: u64) -> u64 {
        let index = self.index.as_deref().map_or(&[][..], Vec::as_slice);
        let after = index.partition_point(|(indexed, _)| *indexed <= position);
        after.checked_sub(1).map_or(MAGIC.len() as u64, |at| index[at].1)
    }

    /// A scan from the last known place not after `position`.
    pub(super) fn scan(&self, position: u64) -> Scan {
        Scan::new(Arc::clone(&self.file), self.start(position), self.len)
    }

    /// Looks where its records begin.
    pub(super) fn make_index(&self) -> io::Result<Arc<Vec<(u64, u64)>>> {
        let mut scan = Scan::new(Arc::clone(&self.file), MAGIC.len() as u64, self.len);
        let mut index: Vec<(u64, u64)> = Vec::new();
        let mut offset = scan.offset();
        while let Some(found) = scan.next()? {
            if let Found::Record(header) = found
                && index.last().is_none_or(|(_, last)| offset - last >= INDEX_STEP)
            {
                index.push((header.position, offset));
            }
            offset = scan.offset();
        }
        Ok(Arc::new(index))
    }
}

/// What was read for a position: the message, or none when it is damaged.
pub(super) type Read = (u64, Option<Message>);

/// Reads the messages at `positions`, which rise, from segments that are known; with an id, only those of that id, and
/// what cannot be read.
pub(super) fn read_many(
    segments: &BTreeMap<u64, Segment>,
    positions: &[u64],
    id: Option<Uuid>,
) -> io::Result<Vec<Read>> {
    let mut read = Vec::new();
    let mut rest = positions;
    while let Some(first) = rest.first() {
        let Some((_, segment)) = segments.range(..=*first).next_back() else {
            read.push((*first, None));
            rest = &rest[1..];
            continue;
        };
        let count = rest.partition_point(|position| *position < segment.end).max(1);
        read_of_one(segment, &rest[..count], id, &mut read)?;
        rest = &rest[count..];
    }
    Ok(read)
}

fn read_of_one(
    segment: &Segment,
    positions: &[u64],
    id: Option<Uuid>,
    read: &mut Vec<Read>,
) -> io::Result<()> {
    let mut scan = segment.scan(positions[0]);
    let mut wanted = positions.iter().copied().peekable();
    while let Some(next) = wanted.peek().copied() {
        scan.skip_to(segment.start(next));
        match scan.next()? {
            Some(Found::Record(header)) => {
                while let Some(missing) = wanted.next_if(|wanted| *wanted < header.position) {
                    read.push((missing, None));
                }
                if wanted.next_if_eq(&header.position).is_some()
                    && id.is_none_or(|id| record::has_id(scan.payload(), id))
                {
                    read.push((header.position, record::message(scan.payload()).ok()));
                }
            }
            Some(Found::Damage(_)) => {}
            None => {
                read.extend(wanted.map(|missing| (missing, None)));
                break;
            }
        }
    }
    Ok(())
}

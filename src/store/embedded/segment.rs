//! One file of messages, and the set of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::head::{HEAD, Head};
use super::record::{self, MAX_POSITION};
use super::scan::{Found, Scan};
use crate::message::Message;

/// How far apart the entries of an index are, in bytes.
pub(super) const INDEX_STEP: u64 = 16 << 10;

/// A file of messages, with positions from `base` to `end`.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    /// The position after its last.
    pub(super) end: u64,
    pub(super) head: Head,
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

    /// The name of the file with this head.
    pub(super) fn name_of(head: &Head) -> String {
        head.end.map_or_else(|| Self::name(head.base), |end| Self::compacted_name(head.base, end))
    }

    /// The base, and the end if it is compacted, by the name of its file; none for names we do not give.
    pub(super) fn parse_name(name: &str) -> Option<(u64, Option<u64>)> {
        let stem = name.strip_suffix(".log")?;
        let (base, end) = match stem.split_once('-') {
            None => (stem.parse().ok()?, None),
            Some((base, end)) => (base.parse().ok()?, Some(end.parse().ok()?)),
        };
        let ours = Self::name_of(&Head::log(0, base, end)) == name;
        (ours && base <= MAX_POSITION && end.is_none_or(|end| base <= end && end <= MAX_POSITION))
            .then_some((base, end))
    }

    /// A file of messages that holds none yet.
    pub(super) fn new(head: Head, path: PathBuf, file: Arc<File>, len: u64) -> Self {
        let (base, end) = (head.base, head.end.unwrap_or(head.base));
        Self { base, end, head, path, file, len, live: 0, live_bytes: 0, index: None }
    }

    /// A message of it is gone.
    pub(super) fn gone(&mut self) -> u64 {
        let bytes = self.live_bytes.checked_div(self.live).unwrap_or(0);
        self.live = self.live.saturating_sub(1);
        self.live_bytes -= bytes;
        bytes
    }

    /// Where to begin to look for a position: that of an earlier record, and where that begins.
    fn start(&self, position: u64) -> (u64, u64) {
        let index = self.index.as_deref().map_or(&[][..], Vec::as_slice);
        let after = index.partition_point(|(indexed, _)| *indexed <= position);
        after.checked_sub(1).map_or((self.base, HEAD), |at| index[at])
    }

    /// A scan from the last known place not after `position`.
    pub(super) fn scan(&self, position: u64) -> Scan {
        self.scan_from(self.start(position)).before(self.end)
    }

    /// A scan to see where it ends.
    pub(super) fn scan_to_end(&self) -> Scan {
        self.scan_from((self.base, HEAD))
    }

    fn scan_from(&self, start: (u64, u64)) -> Scan {
        let scan = Scan::new(Arc::clone(&self.file), self.head.key(), start, self.len);
        scan.with_gaps(self.head.end.is_some())
    }

    /// Looks where its records begin.
    pub(super) fn make_index(&self) -> io::Result<Arc<Vec<(u64, u64)>>> {
        let mut scan = self.scan_from((self.base, HEAD)).before(self.end);
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

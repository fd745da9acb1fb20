//! A segment: one file of a log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files;
use super::format::{HEAD, MAX_POSITION};
use super::head::Head;
use super::scan::{Found, Scan};

/// The distance between two entries of an index, in bytes.
pub(crate) const INDEX_STEP: u64 = 16 << 10;

/// Positions, and the offsets of their records.
pub(crate) type Index = Vec<(u64, u64)>;

/// The segments of a log, by their bases.
pub(crate) type Segments = BTreeMap<u64, Segment>;

/// One file of a log, with the positions from `base` to `end`. A clone shares the open file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    /// The position after the last record.
    pub(crate) end: u64,
    pub(crate) head: Head,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// The number of committed bytes.
    pub(crate) len: u64,
    /// The number of records that are still needed. A log without settlement leaves it at 0.
    pub(crate) live: u64,
    /// About how many bytes these records take.
    pub(crate) live_bytes: u64,
    /// The offsets of some records; `None` until the segment was scanned.
    pub(crate) index: Option<Arc<Index>>,
}

impl Segment {
    /// Returns the name of a segment that is written in order.
    pub(crate) fn name(base: u64) -> String {
        format!("{base:020}.log")
    }

    /// Returns the name of a segment that was rewritten from one or more segments.
    pub(crate) fn compacted_name(base: u64, end: u64) -> String {
        format!("{base:020}-{end:020}.log")
    }

    /// Returns the name of the segment with this head.
    pub(crate) fn name_of(head: &Head) -> String {
        head.end.map_or_else(|| Self::name(head.base), |end| Self::compacted_name(head.base, end))
    }

    /// Parses a file name into the base, and the end of a rewritten segment; `None` for a name no segment has.
    pub(crate) fn parse_name(name: &str) -> Option<(u64, Option<u64>)> {
        let stem = name.strip_suffix(".log")?;
        let (base, end) = match stem.split_once('-') {
            None => (stem.parse().ok()?, None),
            Some((base, end)) => (base.parse().ok()?, Some(end.parse().ok()?)),
        };
        let is_canonical = Self::name_of(&Head::segment(0, base, end)) == name;
        (is_canonical && base <= MAX_POSITION && end.is_none_or(|end| base <= end && end <= MAX_POSITION))
            .then_some((base, end))
    }

    /// Creates the file of a segment without records.
    pub(crate) fn create(folder: &Path, head: Head) -> io::Result<Self> {
        let path = folder.join(Self::name_of(&head));
        let file = files::create(&path)?;
        if let Err(error) = files::write_at(&file, &head.to_bytes(), 0).and_then(|()| file.sync_all()) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self::new(head, path, Arc::new(file), HEAD))
    }

    /// A segment of `len` bytes whose records are not counted yet.
    pub(crate) fn new(head: Head, path: PathBuf, file: Arc<File>, len: u64) -> Self {
        let (base, end) = (head.base, head.end.unwrap_or(head.base));
        Self { base, end, head, path, file, len, live: 0, live_bytes: 0, index: None }
    }

    /// Counts one needed record less; returns about how many bytes it took.
    pub(crate) fn settle_one(&mut self) -> u64 {
        let bytes = self.live_bytes.checked_div(self.live).unwrap_or(0);
        self.live = self.live.saturating_sub(1);
        self.live_bytes -= bytes;
        bytes
    }

    /// Adds an index entry for a record that was just written, if the last entry is far enough behind.
    pub(crate) fn index_record(&mut self, position: u64, offset: u64) {
        let index = Arc::make_mut(self.index.get_or_insert_default());
        if index.last().is_none_or(|(_, last)| offset - last >= INDEX_STEP) {
            index.push((position, offset));
        }
    }

    /// Returns the nearest indexed record that is not after `position`: its position and offset.
    pub(crate) fn nearest(&self, position: u64) -> (u64, u64) {
        let index = self.index.as_deref().map_or(&[][..], Vec::as_slice);
        let after = index.partition_point(|(indexed, _)| *indexed <= position);
        after.checked_sub(1).map_or((self.base, HEAD), |at| index[at])
    }

    /// Scans from the nearest indexed record that is not after `position`.
    pub(crate) fn scan(&self, position: u64) -> Scan {
        self.scan_from(self.nearest(position)).before(self.end)
    }

    /// Scans all bytes of the file, whatever position they end at.
    pub(crate) fn scan_to_end(&self) -> Scan {
        self.scan_from((self.base, HEAD))
    }

    fn scan_from(&self, start: (u64, u64)) -> Scan {
        let scan = Scan::new(Arc::clone(&self.file), self.head.key(), start, self.len);
        scan.with_gaps(self.head.end.is_some())
    }

    /// Builds the index by a scan of the file.
    pub(crate) fn make_index(&self) -> io::Result<Arc<Index>> {
        let mut scan = self.scan_from((self.base, HEAD)).before(self.end);
        let mut index = Index::new();
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

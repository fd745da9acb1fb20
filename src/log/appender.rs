//! Appends batches of records to the last segment of a log, and begins the next segment when that one is full.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{sync_folder, write_at};
use super::format::HEAD;
use super::head::Head;
use super::record::assign_positions;
use super::segment::Segment;
use crate::util::crash;

/// The number of bytes that are allocated ahead, at least and at most.
const AHEAD: std::ops::Range<u64> = (64 << 10)..(1 << 20);

/// The largest buffer that is kept for the next write.
const KEPT_BUFFER: usize = 16 << 20;

/// The end of a log. [`write`](Self::write) and [`sync`](Self::sync) alternate.
#[derive(Debug)]
pub(crate) struct Appender {
    folder: PathBuf,
    /// The length from which a segment is full.
    segment_bytes: u64,
    file: Arc<File>,
    head: Head,
    /// The number of durable bytes; `u64::MAX` if the segment must not be written any more.
    len: u64,
    /// The offset up to which the file has its length and its blocks.
    prepared: u64,
    /// The bytes of the last write. The buffer is kept for its capacity.
    buffer: Vec<u8>,
    /// The position of the first record of the last write.
    first: u64,
    begun: Option<Segment>,
}

impl Appender {
    /// Continues `last`.
    pub(crate) fn new(folder: PathBuf, segment_bytes: u64, last: &Segment) -> Self {
        Self {
            folder,
            segment_bytes,
            file: Arc::clone(&last.file),
            head: last.head,
            len: last.len,
            prepared: last.len,
            buffer: Vec::new(),
            first: last.end,
            begun: None,
        }
    }

    /// Returns the durable length of the last segment.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the segment that the last call began. Its records are stored there, also when the call failed.
    pub(crate) fn take_begun(&mut self) -> Option<Segment> {
        self.begun.take()
    }

    /// Writes batches, whose records get the positions from `first` on, in one write; returns their offset in the last
    /// segment. They are durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// The file is as it was before; or the next write begins a new segment.
    pub(crate) fn write<'a>(
        &mut self,
        batches: impl Iterator<Item = &'a mut Vec<u8>>,
        first: u64,
    ) -> io::Result<u64> {
        self.first = first;
        if self.len > HEAD && self.len >= self.segment_bytes {
            crash::point("segment_before_roll");
            self.begin_segment()?;
        }
        let (offset, key, mut position) = (self.len, self.head.key(), first);
        self.buffer.clear();
        for records in batches {
            let at = offset + self.buffer.len() as u64;
            position = assign_positions(records, &key, at, position);
            self.buffer.extend_from_slice(records);
        }
        self.prepare();
        #[cfg(feature = "_crash_points")]
        if crash::armed("append_half_written") {
            let _ = write_at(&self.file, &self.buffer[..self.buffer.len() / 2], offset);
            std::process::abort();
        }
        if let Err(error) = write_at(&self.file, &self.buffer, offset) {
            self.prepared = offset;
            if self.file.set_len(offset).is_err() {
                self.abandon();
            }
            return Err(error);
        }
        Ok(offset)
    }

    /// Makes the last write durable.
    ///
    /// # Errors
    /// The batches of the last write are not stored.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        crash::point("append_before_sync");
        if let Err(error) = self.file.sync_data() {
            // After a failed sync the content of the file is unknown.
            let _ = self.file.set_len(self.len);
            self.abandon();
            return Err(error);
        }
        self.len += self.buffer.len() as u64;
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Writes zeros behind the records: a sync that changes neither the length of a file nor its blocks costs about half.
    fn prepare(&mut self) {
        let end = self.len + self.buffer.len() as u64;
        if end <= self.prepared {
            return;
        }
        let step = (self.len / 4).clamp(AHEAD.start, AHEAD.end);
        self.prepared = self.write_zeros(self.prepared.max(self.len), end + step).unwrap_or_else(|_| {
            // The disk is nearly full; the records need the room.
            let _ = self.file.set_len(self.len);
            u64::MAX
        });
    }

    /// Writes page by page, since the kernel may keep a larger write as one piece, and write all of it for one changed byte.
    fn write_zeros(&self, mut from: u64, to: u64) -> io::Result<u64> {
        const PAGE: [u8; 4096] = [0; 4096];
        while from < to {
            let piece = PAGE.len() - from as usize % PAGE.len();
            write_at(&self.file, &PAGE[..piece], from)?;
            from += piece as u64;
        }
        Ok(from)
    }

    /// Frees the bytes that were allocated ahead.
    pub(crate) fn trim(&mut self) {
        if self.prepared > self.len && self.file.set_len(self.len).is_ok() {
            self.prepared = self.len;
        }
    }

    /// Gives the segment up, and begins a new one.
    fn abandon(&mut self) {
        self.len = u64::MAX;
        if let Err(error) = self.begin_segment() {
            tracing::error!(folder = %self.folder.display(), %error, "could not begin a new file; the next write retries");
        }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.trim();
        let segment = Segment::create(&self.folder, Head::segment(self.head.log, self.first, None))?;
        sync_folder(&self.folder)?;
        (self.file, self.head) = (Arc::clone(&segment.file), segment.head);
        (self.len, self.prepared) = (segment.len, segment.len);
        self.begun = Some(segment);
        Ok(())
    }
}

//! Reads the records of a log in order, across its segments.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::scan::{Found, Scan};
use super::segment::{Segment, Segments};
use crate::util::sync::lock;

/// Reads records from a position on. At the end of the log it continues when records were added.
pub(crate) struct Reader {
    segments: Arc<Mutex<Segments>>,
    /// The position of the next item.
    position: u64,
    /// The segment that is read, as far as it is known.
    segment: Option<(Segment, Scan)>,
    /// Whether the scan is already at the record of `position`.
    is_at_record: bool,
}

/// An item of a [`Reader`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadItem<'a> {
    Record {
        position: u64,
        payload: &'a [u8],
    },
    /// These records are damaged, or were deleted by the retention.
    Lost(Range<u64>),
}

impl Reader {
    pub(super) fn new(segments: Arc<Mutex<Segments>>, from: u64) -> Self {
        Self { segments, position: from, segment: None, is_at_record: false }
    }

    /// Returns the next item; `None` at the end of the log. Blocks.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<ReadItem<'_>>> {
        while !self.is_at_record {
            let Some(next) = self.advance()? else { return Ok(None) };
            if next > self.position {
                let lost = self.position..next;
                self.position = next;
                // Before its first record a log has nothing to lose.
                if lost.end > 1 {
                    return Ok(Some(ReadItem::Lost(lost.start.max(1)..lost.end)));
                }
            }
        }
        self.is_at_record = false;
        let position = self.position;
        self.position += 1;
        let payload = self.segment.as_ref().map_or(&[][..], |(_, scan)| scan.payload());
        Ok(Some(ReadItem::Record { position, payload }))
    }

    /// Moves to the next record, or to the next segment; returns the position reached, `None` at the end of the log.
    fn advance(&mut self) -> io::Result<Option<u64>> {
        let Some((segment, scan)) = &mut self.segment else { return Ok(self.enter_segment()) };
        while let Some(found) = scan.next()? {
            if let Found::Record(header) = found
                && header.position >= self.position
            {
                self.is_at_record = true;
                return Ok(Some(header.position));
            }
        }
        let grown = lock(&self.segments).get(&segment.base).filter(|now| now.end > segment.end).cloned();
        if let Some(grown) = grown {
            let end = segment.end.max(self.position);
            scan.extend_to(grown.len, grown.end);
            *segment = grown;
            return Ok(Some(end));
        }
        let end = segment.end;
        self.segment = None;
        Ok(Some(end.max(self.position)))
    }

    /// Enters the segment of the position, or the next one; returns its first position from there on.
    fn enter_segment(&mut self) -> Option<u64> {
        let segment = {
            let segments = lock(&self.segments);
            let at = segments.range(..=self.position).next_back().map(|(_, segment)| segment);
            let at = at.filter(|segment| self.position < segment.end);
            let after = || segments.range(self.position..).map(|(_, segment)| segment).next();
            at.or_else(after).filter(|segment| segment.base < segment.end).cloned()?
        };
        let position = segment.base.max(self.position);
        let scan = segment.scan(position);
        self.segment = Some((segment, scan));
        Some(position)
    }
}

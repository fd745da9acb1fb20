//! The files of the log, and how much of each is still needed.

use std::fs::File;
use std::sync::Arc;

use super::entry::Location;
use crate::log::record::Key;
use crate::log::segment::{Segment, Segments};

/// The segments of the log. Each counts the records that are needed.
#[derive(Default)]
pub(super) struct LiveSegments {
    pub(super) all: Segments,
    /// The bytes of all records that are needed.
    pub(super) live_bytes: u64,
}

impl LiveSegments {
    fn of(&mut self, position: u64) -> Option<&mut Segment> {
        self.all.range_mut(..=position).next_back().map(|(_, segment)| segment)
    }

    /// Counts a record as needed.
    pub(super) fn count(&mut self, place: Location) {
        self.live_bytes += u64::from(place.len);
        if let Some(segment) = self.of(place.position) {
            segment.live += 1;
            segment.live_bytes += u64::from(place.len);
        }
    }

    /// Counts a record as not needed any more.
    pub(super) fn uncount(&mut self, place: Location) {
        self.live_bytes = self.live_bytes.saturating_sub(u64::from(place.len));
        if let Some(segment) = self.of(place.position) {
            segment.live = segment.live.saturating_sub(1);
            segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(place.len));
        }
    }

    /// Returns the file of a record, which stays readable also when it is deleted; `None` if the file is missing or too short.
    pub(super) fn file(&self, place: Location) -> Option<(Arc<File>, Key)> {
        let (_, segment) = self.all.range(..=place.position).next_back()?;
        let is_inside = u64::from(place.offset) + u64::from(place.len) <= segment.len;
        is_inside.then(|| (Arc::clone(&segment.file), segment.head.key()))
    }

    /// Returns the position of the next record.
    pub(super) fn next(&self) -> u64 {
        self.all.last_key_value().map_or(1, |(_, last)| last.end)
    }
}

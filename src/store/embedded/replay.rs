//! Writes the index as a snapshot, and restores it from the events of the journal.

use std::io;
use std::num::NonZeroU64;

use roaring::RoaringTreemap;

use super::event::{Event, Snapshot};
use super::index::LogIndex;

impl LogIndex {
    /// Appends a snapshot to `journal`. `end` has the base and the length of the last segment of a store that is closed.
    pub(super) fn snapshot(&mut self, end: Option<(u64, u64)>, journal: &mut Vec<u8>) {
        let mut live = Vec::with_capacity(self.live.serialized_size());
        self.live.serialize_into(&mut live).expect("a vector takes every write");
        let mut event = Event::Snapshot(Snapshot {
            next: self.next,
            live,
            // Moved, not copied: there may be a million.
            retries: std::mem::take(&mut self.retries),
            dropped_unreported: self.dropped_unreported,
            last: self.segments.last_key_value().map_or(0, |(base, _)| *base),
            reasons: self.generation,
            end,
        });
        event.write(journal, self.seed);
        if let Event::Snapshot(snapshot) = &mut event {
            self.retries = std::mem::take(&mut snapshot.retries);
        }
    }

    /// Applies an event of the journal.
    ///
    /// # Errors
    /// The bitmap of a snapshot is invalid.
    pub(super) fn replay(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Snapshot(snapshot) => {
                self.live = RoaringTreemap::deserialize_from(&snapshot.live[..])?;
                self.next = snapshot.next;
                self.retries = snapshot.retries;
                self.dropped_unreported = snapshot.dropped_unreported;
                self.last_begun = snapshot.last;
                self.generation = snapshot.reasons;
            }
            Event::Removed(runs) => {
                for (first, len) in runs {
                    let after = first.saturating_add(len);
                    self.live.remove_range(first..after);
                    self.next = self.next.max(after);
                }
            }
            Event::AttemptFailed { position, at, after, bytes } => {
                self.retries.entry(position).or_default().fail(at, after, bytes);
            }
            Event::DeadLettered { position, bytes } => {
                self.retries.entry(position).or_default().dead_letter(bytes)
            }
            Event::Reasons(offsets) => {
                for (position, offset) in offsets {
                    self.retries.entry(position).or_default().reason = NonZeroU64::new(offset);
                }
            }
            Event::Requeued { positions, at, pace } => {
                for (index, position) in positions.into_iter().enumerate() {
                    let wait = pace.saturating_mul(u32::try_from(index).unwrap_or(u32::MAX));
                    self.retries.entry(position).or_default().requeue(at, wait);
                }
            }
            Event::SegmentBegun(base) => {
                self.last_begun = base;
                self.next = self.next.max(base);
            }
            Event::DroppedForRoom(count) => {
                self.dropped_unreported = self.dropped_unreported.saturating_add(count);
            }
            Event::DropsReported(count) => {
                self.dropped_unreported = self.dropped_unreported.saturating_sub(count);
            }
        }
        Ok(())
    }
}

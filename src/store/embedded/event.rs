//! The events of the journal.
//!
//! The journal is the file `state`: a snapshot, and the events after it. The positions of its
//! [records](crate::log::record) number the events of the file, from 0 on.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::reasons::REASONS;
use crate::log::format::MAX_POSITION;
use crate::log::record::push_record;
use crate::util::error::BoxError;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Event {
    Snapshot(Snapshot),
    /// Messages were confirmed or dropped: runs of positions, first and length.
    Removed(Vec<(u64, u64)>),
    /// An attempt failed. The next one is due this long after `at`. The reason takes so many bytes.
    AttemptFailed {
        position: u64,
        at: SystemTime,
        after: Duration,
        bytes: u32,
    },
    /// A message became a dead letter, for a reason of so many bytes.
    DeadLettered {
        position: u64,
        bytes: u32,
    },
    /// Reasons were written: positions, and the offsets of their last reasons.
    Reasons(Vec<(u64, u64)>),
    /// Messages were made due, the first at `at`, each other one `pace` later.
    Requeued {
        positions: Vec<u64>,
        at: SystemTime,
        pace: Duration,
    },
    /// The segment of this base was begun.
    SegmentBegun(u64),
    /// So many messages were dropped for lack of room.
    DroppedForRoom(u64),
    /// A sent message has reported so many of them.
    DropsReported(u64),
}

/// All that is known of the messages before `next`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// The position of the next message.
    pub(super) next: u64,
    /// The positions of the stored messages, as a serialised bitmap.
    pub(super) live: Vec<u8>,
    pub(super) retries: BTreeMap<u64, RetryState>,
    /// The number of messages that were dropped for lack of room and that no sent message has reported yet.
    pub(super) dropped_unreported: u64,
    /// The base of the last segment.
    pub(super) last: u64,
    /// The generation of the file of reasons.
    pub(super) reasons: u64,
    /// The base and the length of the last segment, if the store was closed.
    pub(super) end: Option<(u64, u64)>,
}

/// The failures of a message, and the time of its next attempt. There may be a million of them, so they are small, and the
/// [reasons](super::reasons) are on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RetryState {
    pub(super) attempts: u32,
    /// About how many bytes the kept reasons take.
    pub(super) bytes: u32,
    /// The number of kept reasons.
    pub(super) kept: u8,
    pub(super) dead: bool,
    /// The offset of the last reason on disk.
    pub(super) reason: Option<NonZeroU64>,
    /// The next attempt is due this long after this time.
    pub(super) due: Option<Box<(SystemTime, Duration)>>,
}

impl RetryState {
    pub(super) fn fail(&mut self, at: SystemTime, after: Duration, bytes: u32) {
        self.attempts = self.attempts.saturating_add(1);
        self.due = Some(Box::new((at, after)));
        self.count(bytes);
    }

    pub(super) fn dead_letter(&mut self, bytes: u32) {
        self.dead = true;
        self.due = None;
        self.count(bytes);
    }

    pub(super) fn requeue(&mut self, at: SystemTime, after: Duration) {
        self.attempts = 0;
        self.dead = false;
        self.due = Some(Box::new((at, after)));
    }

    /// Counts a reason. Beyond [`REASONS`] the oldest one is removed.
    fn count(&mut self, bytes: u32) {
        if self.kept < REASONS {
            self.kept += 1;
        } else {
            self.bytes -= self.bytes / u32::from(REASONS);
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Returns the time until the next attempt. It is never longer than the wait, whatever the clock did.
    pub(super) fn remaining(&self, now: SystemTime) -> Duration {
        let Some((at, after)) = self.due.as_deref() else { return Duration::ZERO };
        let passed = now.duration_since(*at).unwrap_or_default();
        after.saturating_sub(passed)
    }
}

impl Event {
    /// Appends the event to `journal`, without its number and offset.
    pub(super) fn write(&self, journal: &mut Vec<u8>, seed: u32) {
        let written: Result<(), BoxError> = push_record(journal, seed, true, |journal| {
            let taken = std::mem::take(journal);
            *journal = postcard::to_extend(self, taken)?;
            Ok(())
        });
        written.expect("an event can be serialised");
    }

    /// Decodes an event.
    ///
    /// # Errors
    /// The payload is not an event, or an event that no store can have.
    pub(super) fn read(payload: &[u8]) -> Result<Self, BoxError> {
        let event: Self = postcard::from_bytes(payload)?;
        let possible = match &event {
            Self::Snapshot(snapshot) => {
                let live = RoaringTreemap::deserialize_from(&snapshot.live[..])?;
                let last = live.max().unwrap_or_default();
                [snapshot.next, snapshot.last, last].iter().all(|position| *position <= MAX_POSITION)
            }
            Self::Removed(runs) => runs.iter().all(|(first, len)| first.saturating_add(*len) <= MAX_POSITION),
            Self::SegmentBegun(base) => *base <= MAX_POSITION,
            _ => true,
        };
        if possible { Ok(event) } else { Err("a position of the event is out of range".into()) }
    }
}

/// Groups positions into runs, first and length.
pub(super) fn runs(mut positions: Vec<u64>) -> Vec<(u64, u64)> {
    positions.sort_unstable();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for position in positions {
        match runs.last_mut() {
            Some((first, len)) if *first + *len == position => *len += 1,
            _ => runs.push((position, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_in_any_order() {
        assert_eq!(runs(vec![5, 1, 2, 9, 4, 3]), [(1, 5), (9, 1)]);
        assert_eq!(runs(Vec::new()), []);
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_lengthen_a_wait() {
        let now = SystemTime::now();
        let minute = Duration::from_secs(60);
        let due =
            |at| RetryState { due: Some(Box::new((at, minute))), ..RetryState::default() }.remaining(now);
        assert_eq!(due(now), minute);
        assert_eq!(due(now - minute / 2), minute / 2);
        assert_eq!(due(now - minute * 5), Duration::ZERO);
        assert_eq!(due(now + minute * 1_000), minute);
    }
}

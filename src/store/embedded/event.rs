//! What happened to stored messages: the records of the journal.
//!
//! The journal is the file `state`: a snapshot, then what happened since. Its records are those of
//! [`record`](super::record), whose positions count the events of the file, from 0 on.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::reasons::REASONS;
use super::record::{self, MAX_POSITION};
use crate::util::error::BoxError;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Event {
    Snapshot(Snapshot),
    /// Confirmed or dropped: runs of positions, first and length.
    Done(Vec<(u64, u64)>),
    /// An attempt failed: the next is due so long after. Its reason takes so many bytes.
    Failed {
        position: u64,
        at: SystemTime,
        after: Duration,
        bytes: u32,
    },
    /// Given up on, for a reason of so many bytes.
    Dead {
        position: u64,
        bytes: u32,
    },
    /// Where the last reasons of messages stand: positions and places.
    Reasons(Vec<(u64, u64)>),
    /// Due again, the first at `at` and each so long after the one before.
    Requeued {
        positions: Vec<u64>,
        at: SystemTime,
        pace: Duration,
    },
    /// The file of this base was begun.
    Begun(u64),
    /// So many were dropped for lack of room.
    Overflowed(u64),
    /// So many of those were told of.
    Told(u64),
}

/// All that is known of the messages before `next`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// The position of the next message.
    pub(super) next: u64,
    /// The positions of those that are there, as a serialised bitmap.
    pub(super) live: Vec<u8>,
    pub(super) fates: BTreeMap<u64, Fate>,
    /// How many were dropped for lack of room, and not told of.
    pub(super) untold: u64,
    /// The base of the last file.
    pub(super) last: u64,
    /// The generation of the file of reasons.
    pub(super) reasons: u64,
    /// The last file and its length, when the store was closed in order.
    pub(super) end: Option<(u64, u64)>,
}

/// What happened to a message that did not simply leave. There may be a million of them: it is small, and the
/// [reasons](super::reasons) are on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Fate {
    pub(super) attempts: u32,
    /// About how many bytes the reasons have that are kept, and how many these are.
    pub(super) bytes: u32,
    pub(super) kept: u8,
    pub(super) dead: bool,
    /// Where the last reason stands, if there is one on disk.
    pub(super) reason: Option<NonZeroU64>,
    /// When it is due: so long after a time.
    pub(super) due: Option<Box<(SystemTime, Duration)>>,
}

impl Fate {
    pub(super) fn failed(&mut self, at: SystemTime, after: Duration, bytes: u32) {
        self.attempts = self.attempts.saturating_add(1);
        self.due = Some(Box::new((at, after)));
        self.count(bytes);
    }

    pub(super) fn die(&mut self, bytes: u32) {
        self.dead = true;
        self.due = None;
        self.count(bytes);
    }

    pub(super) fn requeue(&mut self, at: SystemTime, after: Duration) {
        self.attempts = 0;
        self.dead = false;
        self.due = Some(Box::new((at, after)));
    }

    /// A reason more, and if there are enough one less.
    fn count(&mut self, bytes: u32) {
        if self.kept < REASONS {
            self.kept += 1;
        } else {
            self.bytes -= self.bytes / u32::from(REASONS);
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// How long it has to wait; a clock that jumped back cannot make it longer than it was to be.
    pub(super) fn remaining(&self, now: SystemTime) -> Duration {
        let Some((at, after)) = self.due.as_deref() else { return Duration::ZERO };
        let passed = now.duration_since(*at).unwrap_or_default();
        after.saturating_sub(passed)
    }
}

impl Event {
    /// Appends it to `journal`, without its number and place.
    pub(super) fn write(&self, journal: &mut Vec<u8>, seed: u32) {
        let written: Result<(), BoxError> = record::push(journal, seed, true, |journal| {
            let taken = std::mem::take(journal);
            *journal = postcard::to_extend(self, taken)?;
            Ok(())
        });
        written.expect("an event can be serialised");
    }

    /// What a record of the journal says, if it is something that can have happened.
    pub(super) fn read(payload: &[u8]) -> Result<Self, BoxError> {
        let event: Self = postcard::from_bytes(payload)?;
        let possible = match &event {
            Self::Snapshot(snapshot) => {
                let live = RoaringTreemap::deserialize_from(&snapshot.live[..])?;
                let last = live.max().unwrap_or_default();
                [snapshot.next, snapshot.last, last].iter().all(|position| *position <= MAX_POSITION)
            }
            Self::Done(runs) => runs.iter().all(|(first, len)| first.saturating_add(*len) <= MAX_POSITION),
            Self::Begun(base) => *base <= MAX_POSITION,
            _ => true,
        };
        if possible { Ok(event) } else { Err("no store has that many messages".into()) }
    }
}

/// Runs of consecutive positions, first and length.
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
        let due = |at| Fate { due: Some(Box::new((at, minute))), ..Fate::default() }.remaining(now);
        assert_eq!(due(now), minute);
        assert_eq!(due(now - minute / 2), minute / 2);
        assert_eq!(due(now - minute * 5), Duration::ZERO);
        assert_eq!(due(now + minute * 1_000), minute);
    }
}

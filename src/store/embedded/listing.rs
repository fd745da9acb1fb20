//! Lists the messages of the index.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

use super::event::RetryState;
use super::index::LogIndex;
use super::leasing::delay_left;
use super::positions::Positions;
use super::reasons::Reasons;
use crate::message::Message;
use crate::store::{Entry, EntryState, Wait};
use crate::util::deadline::after;

/// The file of a message's reasons, and the offset of the last one.
pub(super) type History = (Reasons, NonZeroU64);

impl LogIndex {
    /// Returns positions after `after`, at most `limit`: of dead letters, of pending messages, or of both.
    pub(super) fn positions(&self, state: Option<EntryState>, after: Option<u64>, limit: usize) -> Vec<u64> {
        let from = after.map_or(0, |after| after.saturating_add(1));
        match state {
            Some(EntryState::Dead) => {
                let dead = self.retries.range(from..).filter(|(_, retry)| retry.dead);
                dead.map(|(position, _)| *position).take(limit).collect()
            }
            Some(EntryState::Pending) => self
                .live
                .within(from..u64::MAX)
                .filter(|position| !self.is_dead(*position))
                .take(limit)
                .collect(),
            None => self.live.within(from..u64::MAX).take(limit).collect(),
        }
    }

    /// Returns the entry of a message, and the place of its earlier reasons; `None` if the message was removed.
    pub(super) fn entry(&self, position: u64, message: Option<Message>) -> Option<(Entry, Option<History>)> {
        if !self.live.contains(position) {
            return None;
        }
        let retry = self.retries.get(&position);
        let dead = retry.is_some_and(|retry| retry.dead);
        let state = if dead { EntryState::Dead } else { EntryState::Pending };
        let mut entry = Entry::new(position, state, message);
        let mut history = None;
        if let Some(retry) = retry {
            entry.attempts = retry.attempts;
            entry.failures = self.waiting_reasons.of(position).to_vec();
            history = self.reasons.clone().zip(retry.reason);
        }
        if !dead {
            entry.wait = Some(self.wait(position, retry, entry.message.as_ref()));
        }
        Some((entry, history))
    }

    fn wait(&self, position: u64, retry: Option<&RetryState>, message: Option<&Message>) -> Wait {
        let now = SystemTime::now();
        if self.schedule.is_leased(position) {
            return Wait::Sending;
        }
        let retry = retry.map_or(Duration::ZERO, |retry| retry.remaining(now));
        if !retry.is_zero() {
            return Wait::Retry { until: after(now, retry) };
        }
        let delay = message.map_or(Duration::ZERO, |message| delay_left(message, now));
        if !delay.is_zero() {
            return Wait::Delayed { until: after(now, delay) };
        }
        if self.schedule.is_behind(position) { Wait::Key } else { Wait::Turn }
    }

    /// Returns the position of the oldest pending message.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.live.iter().find(|position| !self.is_dead(*position))
    }
}

//! Leases messages in order: from memory, from messages read ahead, and from messages that became due again.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::index::LogIndex;
use super::positions::Positions;
use super::read::Read;
use crate::message::Message;
use crate::message::headers::DROPPED;
use crate::store::{Lease, Leased, StoreError};
use crate::util::deadline::after;

/// The result of [`LogIndex::lease`].
pub(super) enum LeaseStep {
    Leased(Vec<Leased>),
    /// The messages at these positions must be read from disk first.
    Fetch(Vec<u64>),
    /// The segment at the cursor must be read first, from one position up to another.
    ReadAhead {
        from: u64,
        to: u64,
    },
    /// No message is due before this time.
    Idle {
        until: Option<Instant>,
    },
}

impl LogIndex {
    /// Leases messages that are due, at most `limit`; or returns the read that is needed first.
    pub(super) fn lease(&mut self, limit: usize) -> Result<LeaseStep, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        self.schedule.tick(Instant::now());
        let due = self.schedule.due(limit);
        let missing: Vec<u64> = due
            .iter()
            .copied()
            .filter(|position| self.is_pending(*position) && !self.fetched.contains_key(position))
            .collect();
        if !missing.is_empty() {
            return Ok(LeaseStep::Fetch(missing));
        }
        let token = self.schedule.next_lease_token();
        let mut leased = Vec::new();
        for position in due {
            match self.fetched.remove(&position) {
                Some(message) if self.is_pending(position) => {
                    self.offer(position, message, token, &mut leased)
                }
                _ => self.schedule.forget(position),
            }
        }
        if self.schedule.is_due() && leased.len() < limit {
            // Some due messages were removed, or wait for their key. The next due ones go before those at the cursor.
            if leased.is_empty() {
                return self.lease(limit);
            }
            self.attach_drop_notice(&mut leased[0]);
            return Ok(LeaseStep::Leased(leased));
        }
        while leased.len() < limit {
            if self.ahead.is_empty() && self.cursor < self.ahead_end {
                self.cursor = self.ahead_end;
            }
            let recent_start = self.recent.front().map_or(self.next, |(position, _)| *position);
            let (position, message) = if let Some(ahead) = self.ahead.pop_front() {
                ahead
            } else if self.cursor < recent_start {
                if leased.is_empty() {
                    return Ok(LeaseStep::ReadAhead { from: self.cursor, to: recent_start });
                }
                break;
            } else if let Some((position, message)) = self.recent.pop_front() {
                self.recent_bytes -= message.size();
                (position, message)
            } else {
                break;
            };
            if position < self.cursor {
                continue;
            }
            self.cursor = position + 1;
            if self.is_pending(position) {
                self.reach(position, message, token, &mut leased);
            }
        }
        if !leased.is_empty() {
            self.attach_drop_notice(&mut leased[0]);
            return Ok(LeaseStep::Leased(leased));
        }
        if self.schedule.is_due() {
            // Other messages of the same keys have become due.
            return self.lease(limit);
        }
        Ok(LeaseStep::Idle { until: self.schedule.next_timer() })
    }

    /// Leases the message at the cursor, or lets it wait for its retry, its delay, or its key.
    fn reach(&mut self, position: u64, message: Message, token: u64, leased: &mut Vec<Leased>) {
        let (now, instant) = (SystemTime::now(), Instant::now());
        let retry = self.retries.get(&position).map_or(Duration::ZERO, |retry| retry.remaining(now));
        if !retry.is_zero() {
            let key = self.schedule.ordering_key(&message);
            return self.schedule.wait(position, key, after(instant, retry));
        }
        let delay = delay_left(&message, now);
        if !delay.is_zero() {
            return self.schedule.delay(position, after(instant, delay));
        }
        self.offer(position, message, token, leased);
    }

    /// Leases a message unless an earlier message of its key is leased or waits.
    fn offer(&mut self, position: u64, message: Message, token: u64, leased: &mut Vec<Leased>) {
        let key = self.schedule.ordering_key(&message);
        if self.schedule.take(position, key, token) {
            let attempts = self.retries.get(&position).map_or(0, |retry| retry.attempts);
            leased.push(Leased::new(Lease::new(position, token), message, attempts));
        }
    }

    /// Adds the number of dropped messages to a message as a header, unless another leased message has it.
    fn attach_drop_notice(&mut self, leased: &mut Leased) {
        if self.dropped_unreported > 0 && self.drop_notice.is_none() {
            self.drop_notice = Some((leased.lease.position, self.dropped_unreported));
            let dropped = i64::try_from(self.dropped_unreported).unwrap_or(i64::MAX);
            leased.message.set_header(DROPPED, dropped);
        }
    }

    /// Takes the messages of a [`LeaseStep::Fetch`].
    pub(super) fn fetched(&mut self, read: Vec<Read>) {
        for (position, message) in read {
            match message {
                Some(message) => {
                    self.fetched.insert(position, message);
                }
                None => self.damaged(position),
            }
        }
    }

    /// Whether the next read ahead begins at this position.
    pub(super) fn reads_from(&self, from: u64) -> bool {
        self.cursor == from && self.ahead.is_empty() && self.ahead_end <= from
    }

    /// Takes the messages of a [`LeaseStep::ReadAhead`]: all readable ones between `from` and `to`.
    pub(super) fn read_ahead(&mut self, from: u64, to: u64, read: Vec<(u64, Message)>) {
        if !self.reads_from(from) {
            return;
        }
        self.ahead = read.into_iter().filter(|(position, _)| self.live.contains(*position)).collect();
        self.ahead_end = to;
        let mut found = self.ahead.iter().map(|(position, _)| *position).peekable();
        let is_missing = |position: &u64| found.next_if_eq(position).is_none();
        let missing: Vec<u64> = self.live.within(from..to).filter(is_missing).collect();
        for position in missing {
            self.damaged(position);
        }
    }
}

/// Returns the rest of a message's delay. It is never longer than the delay, whatever the clock did.
pub(super) fn delay_left(message: &Message, now: SystemTime) -> Duration {
    let Some(delay) = message.delay() else { return Duration::ZERO };
    delay.saturating_sub(now.duration_since(message.time()).unwrap_or_default())
}

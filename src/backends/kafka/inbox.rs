//! The messages that are unsettled here: those that the application may receive, those that it has, and those that wait.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use krafka::ConsumerRecord;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep_until};

use super::inbox_state::InboxState;
use super::letter::{Arrival, Letter, Partition};
use super::offsets::Offsets;
use crate::messenger::Failure;
use crate::source::SourceError;
use crate::util::error::Chain;
use crate::util::sync::lock;

/// The most messages that wait for a retry, beside the prefetched ones.
const WAITING: usize = 1_000;

/// The limits of a source.
pub(super) struct Limits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) uncommitted: u64,
    pub(super) is_ordered: bool,
}

impl Limits {
    /// How many messages are taken from the client at a time.
    pub(super) fn batch(&self) -> usize {
        (self.messages / 2).clamp(1, 1_000)
    }

    /// How many more the client keeps of an answer. All of it has room here then, so the next answer is fetched while the messages of
    /// this one are handled.
    pub(super) fn buffered(&self) -> usize {
        (self.messages - self.batch()).max(1)
    }

    fn leave_room(&self, state: &InboxState) -> bool {
        state.held + self.batch() <= self.messages
            && state.held_bytes < self.bytes
            && state.waiting.len() < WAITING
            && state.waiting_bytes < self.bytes
    }
}

/// The messages of a source.
pub(super) struct Inbox {
    pub(super) limits: Limits,
    state: Mutex<InboxState>,
    arrived: Notify,
    /// There is more room.
    freed: Notify,
    /// A wait may begin earlier than the others.
    delayed: Notify,
    /// A position may have moved.
    moved: Notify,
    /// The application has one message less.
    returned: Notify,
}

impl Inbox {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            arrived: Notify::new(),
            freed: Notify::new(),
            delayed: Notify::new(),
            moved: Notify::new(),
            returned: Notify::new(),
        }
    }

    /// Adds messages, also such that wait until they are due.
    pub(super) fn push(&self, arrivals: impl IntoIterator<Item = Arrival>) {
        let mut state = lock(&self.state);
        let mut before = None;
        for Arrival { mut letter, due } in arrivals {
            letter.assignment = state.read(&letter.record, &mut before);
            match due {
                Some(after) => state.wait(letter, after),
                None => {
                    state.hold(letter.size);
                    state.ready.push_back(letter);
                }
            }
        }
        drop(state);
        self.delayed.notify_one();
        self.arrived.notify_waiters();
    }

    /// The number of messages that the application can take, or can once their wait ends.
    pub(super) fn ready(&self) -> u64 {
        let state = lock(&self.state);
        (state.ready.len() + state.waiting.len()) as u64
    }

    /// Settles a message that is not for this source.
    pub(super) fn pass(&self, record: &ConsumerRecord) {
        let mut state = lock(&self.state);
        let assignment = state.read(record, &mut None);
        if let Some(offsets) = state.offsets(assignment) {
            offsets.settled(record.offset);
        }
        drop(state);
        self.moved.notify_one();
    }

    /// Takes the next messages, or the permanent error.
    pub(super) fn take(&self, limit: usize) -> Option<Result<Vec<Letter>, SourceError>> {
        let mut state = lock(&self.state);
        let mut taken = Vec::new();
        if self.limits.is_ordered {
            let waiting: HashSet<_> = state.waiting.values().map(Letter::partition).collect();
            let is_free = |state: &InboxState, partition: &Partition| {
                !waiting.contains(partition) && state.of(partition).is_none_or(|offsets| offsets.taken == 0)
            };
            let has_free = state.numbers.keys().any(|partition| is_free(&state, partition));
            // Messages of a partition come together, so most are of the same one as the message before.
            let (mut at, mut before): (usize, Option<(Partition, bool)>) = (0, None);
            while has_free && at < state.ready.len() && taken.len() < limit {
                let letter = &state.ready[at];
                if !before.as_ref().is_some_and(|(partition, _)| letter.is_of(partition)) {
                    let partition = letter.partition();
                    let is_free = is_free(&state, &partition);
                    before = Some((partition, is_free));
                }
                // The next one of its partition waits for it.
                let takes = before.as_mut().is_some_and(|(_, is_free)| std::mem::take(is_free));
                match takes.then(|| state.ready.remove(at)).flatten() {
                    Some(letter) => state.give(&mut taken, letter),
                    None => at += 1,
                }
            }
        } else {
            while taken.len() < limit
                && let Some(letter) = state.ready.pop_front()
            {
                state.give(&mut taken, letter);
            }
        }
        if !taken.is_empty() {
            return Some(Ok(taken));
        }
        state.error.take().map(|failure| Err(SourceError::unavailable(Chain(failure.cause()).to_string())))
    }

    /// Takes a letter from the application. Returns the offsets of its partition, if that is still ours.
    fn returned<'a>(&self, state: &'a mut InboxState, letter: &Letter) -> Option<&'a mut Offsets> {
        let had_room = self.limits.leave_room(state);
        state.let_go(letter.size);
        if !had_room && self.limits.leave_room(state) {
            self.freed.notify_one();
        }
        let offsets = state.offsets(letter.assignment)?;
        offsets.taken = offsets.taken.saturating_sub(1);
        if offsets.is_leaving {
            self.returned.notify_waiters();
        }
        Some(offsets)
    }

    /// Records that a message is settled. Returns whether its partition is still ours.
    pub(super) fn settled(&self, letter: &Letter) -> bool {
        let mut state = lock(&self.state);
        let Some(offsets) = self.returned(&mut state, letter) else { return false };
        let is_far = |offsets: &Offsets| offsets.uncommitted() >= self.limits.uncommitted;
        let was_far = is_far(offsets);
        offsets.settled(letter.record.offset);
        if was_far && !is_far(offsets) {
            self.freed.notify_one();
        }
        drop(state);
        self.moved.notify_one();
        if self.limits.is_ordered {
            self.arrived.notify_waiters();
        }
        true
    }

    /// Returns a message untried; it is the next. Returns whether its partition is still ours.
    pub(super) fn release(&self, letter: Letter) -> bool {
        let mut state = lock(&self.state);
        let Some(offsets) = self.returned(&mut state, &letter) else { return false };
        if !offsets.is_leaving {
            state.hold(letter.size);
            state.ready.push_front(letter);
        }
        drop(state);
        self.arrived.notify_waiters();
        true
    }

    /// Lets a message wait. Returns whether its partition is still ours.
    pub(super) fn delay(&self, letter: Letter, after: Duration) -> bool {
        let mut state = lock(&self.state);
        let Some(offsets) = self.returned(&mut state, &letter) else { return false };
        if !offsets.is_leaving {
            state.wait(letter, after);
        }
        drop(state);
        self.delayed.notify_one();
        true
    }

    /// Whether the partition of a message is no longer ours.
    pub(super) fn is_stale(&self, letter: &Letter) -> bool {
        !lock(&self.state).is_current(letter)
    }

    /// Ends each wait when it is over.
    pub(super) async fn end_waits(&self) {
        loop {
            let due = lock(&self.state).waiting.first_key_value().map(|((due, _), _)| *due);
            match due {
                None => self.delayed.notified().await,
                Some(due) => tokio::select! {
                    () = sleep_until(due) => self.end_due(),
                    () = self.delayed.notified() => {}
                },
            }
        }
    }

    fn end_due(&self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        while let Some(entry) = state.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let letter = entry.remove();
            state.waiting_bytes -= letter.size;
            state.hold(letter.size);
            // An ordered partition goes on where it waited.
            if self.limits.is_ordered {
                state.ready.push_front(letter)
            } else {
                state.ready.push_back(letter)
            }
        }
        drop(state);
        self.freed.notify_one();
        self.arrived.notify_waiters();
    }

    /// Whether more messages may be fetched.
    pub(super) fn has_room(&self) -> bool {
        self.limits.leave_room(&lock(&self.state))
    }

    /// The partitions that are read too far beyond their first unsettled message.
    pub(super) fn far_ahead(&self) -> HashSet<Partition> {
        let state = lock(&self.state);
        let is_far = |offsets: &Offsets| offsets.uncommitted() >= self.limits.uncommitted;
        let far = state.numbers.keys().filter(|partition| state.of(partition).is_some_and(is_far));
        far.cloned().collect()
    }

    /// Completes when there is more room.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Completes when a position may have moved.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Takes the positions that moved, of these partitions or of all.
    pub(super) fn take_positions(&self, of: Option<&[Partition]>) -> Vec<(Partition, i64)> {
        let mut state = lock(&self.state);
        let partitions = of.map_or_else(|| state.numbers.keys().cloned().collect(), <[_]>::to_vec);
        let moved = partitions.into_iter().filter_map(|partition| {
            let position = state.of_mut(&partition)?.take_position()?;
            Some((partition, position))
        });
        moved.collect()
    }

    /// Records that these positions could not be committed.
    pub(super) fn not_committed(&self, positions: &[(Partition, i64)]) {
        let mut state = lock(&self.state);
        for (partition, _) in positions {
            if let Some(offsets) = state.of_mut(partition) {
                offsets.not_committed();
            }
        }
        drop(state);
        self.moved.notify_one();
    }

    /// Takes back the messages of these partitions that the application does not have: they go to another process.
    pub(super) fn withdraw(&self, partitions: &[Partition]) {
        let mut state = lock(&self.state);
        for partition in partitions {
            if let Some(offsets) = state.of_mut(partition) {
                offsets.is_leaving = true;
            }
        }
        state.drop_those(|letter| partitions.contains(&letter.partition()));
        drop(state);
        self.freed.notify_one();
    }

    /// Completes when the application has no message of these partitions.
    pub(super) async fn returned_all(&self, partitions: &[Partition]) {
        loop {
            let returned = self.returned.notified();
            let has_some = {
                let state = lock(&self.state);
                let taken = |partition| state.of(partition).is_some_and(|offsets| offsets.taken > 0);
                partitions.iter().any(taken)
            };
            if !has_some {
                return;
            }
            returned.await;
        }
    }

    /// Forgets these partitions: their messages cannot be settled any more.
    pub(super) fn remove(&self, partitions: &[Partition]) {
        let mut state = lock(&self.state);
        for partition in partitions {
            state.remove(partition);
        }
        state.drop_those(|letter| partitions.contains(&letter.partition()));
        drop(state);
        self.freed.notify_one();
        self.returned.notify_waiters();
    }

    /// The partitions with messages.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        lock(&self.state).numbers.keys().cloned().collect()
    }

    /// Sets or clears a permanent error for the next `receive`.
    pub(super) fn set_error(&self, error: Option<Failure>) {
        let mut state = lock(&self.state);
        if error.is_some() || state.error.is_some() {
            state.error = error;
            drop(state);
            self.arrived.notify_waiters();
        }
    }

    /// Completes when a message arrives after this call.
    pub(super) fn arrived(&self) -> Notified<'_> {
        self.arrived.notified()
    }

    pub(super) fn wake(&self) {
        self.arrived.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use futures_util::FutureExt;

    use super::*;
    use crate::backends::kafka::letter::Earlier;

    fn inbox(messages: usize, uncommitted: u64) -> Inbox {
        Inbox::new(Limits { messages, bytes: 1 << 20, uncommitted, is_ordered: false })
    }

    fn push(inbox: &Inbox, partition: i32, offsets: impl IntoIterator<Item = i64>) {
        let record = |offset| ConsumerRecord::new("t", partition, offset, None, None);
        inbox.push(offsets.into_iter().map(|offset| Arrival::new(record(offset), None, Earlier::default())));
    }

    fn take(inbox: &Inbox) -> Vec<Letter> {
        inbox.take(usize::MAX).unwrap().unwrap()
    }

    fn is_freed(inbox: &Inbox) -> bool {
        inbox.freed().now_or_never().is_some()
    }

    #[test]
    fn there_is_room_for_the_next_messages_when_enough_are_settled() {
        let inbox = inbox(4, 100);
        push(&inbox, 0, 0..4);
        let letters = take(&inbox);
        assert!(!inbox.has_room());
        assert!(inbox.settled(&letters[0]));
        assert!(!inbox.has_room() && !is_freed(&inbox));
        assert!(inbox.settled(&letters[1]));
        assert!(inbox.has_room() && is_freed(&inbox));
        assert!(inbox.settled(&letters[2]));
        assert!(!is_freed(&inbox), "nobody waits for it");
    }

    #[test]
    fn a_partition_that_is_no_longer_far_ahead_is_read_again_at_once() {
        let inbox = inbox(100, 3);
        push(&inbox, 0, 0..3);
        let letters = take(&inbox);
        assert_eq!(inbox.far_ahead(), HashSet::from([letters[0].partition()]));
        assert!(inbox.settled(&letters[1]));
        assert!(!is_freed(&inbox));
        assert!(inbox.settled(&letters[0]));
        assert!(inbox.far_ahead().is_empty() && is_freed(&inbox));
    }

    #[tokio::test]
    async fn a_partition_that_leaves_waits_for_the_messages_that_the_application_has() {
        let inbox = inbox(100, 100);
        push(&inbox, 0, 0..3);
        let mut letters = take(&inbox);
        push(&inbox, 1, 0..1);
        let partition = letters[0].partition();
        inbox.withdraw(from_ref(&partition));
        let mut returned = std::pin::pin!(inbox.returned_all(from_ref(&partition)));
        assert!(inbox.settled(&letters.remove(0)));
        assert!(inbox.release(letters.remove(0)));
        assert!(returned.as_mut().now_or_never().is_none());
        assert!(inbox.delay(letters.remove(0), Duration::ZERO));
        returned.await;
        assert_eq!(take(&inbox).iter().map(|letter| letter.record.partition).collect::<Vec<_>>(), [1]);
    }
}

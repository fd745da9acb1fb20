//! The messages whose confirmation is awaited.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::util::sync::lock;

/// How many messages are remembered whose confirmation did not come in time.
const REMEMBERED: usize = 65_536;

/// The ids of messages that were sent and are not confirmed.
#[derive(Debug, Default)]
pub(super) struct Awaited(Mutex<AwaitedIds>);

#[derive(Debug, Default)]
struct AwaitedIds {
    waiting: HashMap<Uuid, Waiting>,
    /// Messages that nobody waits for now, and the late answer to them.
    late: HashMap<Uuid, Option<Answer>>,
    /// The ids in `late`, oldest first; an id may be here several times, or no longer be in `late`.
    order: VecDeque<Uuid>,
}

#[derive(Debug)]
struct Waiting {
    answer: watch::Sender<Option<Answer>>,
    /// How many sends wait for it: an app may send two messages with one id.
    sends: usize,
}

/// The consumer's answer to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Handled,
    /// It made a dead letter of the message, for this reason.
    Rejected(Arc<str>),
}

/// The effect of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    InTime,
    Late,
    Again,
    Unknown,
}

impl Confirmed {
    /// Its word in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InTime => "confirmed",
            Self::Late => "late",
            Self::Again => "again",
            Self::Unknown => "unknown",
        }
    }
}

impl Awaited {
    /// Awaits the answer to a message that is to be sent.
    ///
    /// # Errors
    /// The answer, if it has come since an earlier send.
    pub(super) fn await_one(self: &Arc<Self>, id: Uuid) -> Result<Confirmation, Answer> {
        let mut ids = lock(&self.0);
        if let Some(Some(answer)) = ids.late.remove(&id) {
            return Err(answer);
        }
        let waiting =
            ids.waiting.entry(id).or_insert_with(|| Waiting { answer: watch::Sender::new(None), sends: 0 });
        waiting.sends += 1;
        let answer = waiting.answer.subscribe();
        Ok(Confirmation { awaited: Arc::clone(self), id, answer, is_done: false })
    }

    /// Records an answer; the first one counts.
    pub(super) fn confirm(&self, id: Uuid, answer: Answer) -> Confirmed {
        let mut ids = lock(&self.0);
        if let Some(waiting) = ids.waiting.get(&id) {
            let is_first = waiting.answer.send_if_modified(|known| {
                let is_first = known.is_none();
                if is_first {
                    *known = Some(answer);
                }
                is_first
            });
            return if is_first { Confirmed::InTime } else { Confirmed::Again };
        }
        match ids.late.get_mut(&id) {
            Some(Some(_)) => Confirmed::Again,
            Some(late) => {
                *late = Some(answer);
                Confirmed::Late
            }
            None => Confirmed::Unknown,
        }
    }

    fn leave(&self, id: Uuid, is_done: bool) {
        let mut ids = lock(&self.0);
        let Some(waiting) = ids.waiting.get_mut(&id) else { return };
        waiting.sends -= 1;
        if waiting.sends > 0 {
            return;
        }
        let answer = waiting.answer.borrow().clone();
        ids.waiting.remove(&id);
        if is_done {
            return;
        }
        ids.late.insert(id, answer);
        ids.order.push_back(id);
        if ids.order.len() > REMEMBERED
            && let Some(oldest) = ids.order.pop_front()
        {
            ids.late.remove(&oldest);
        }
    }
}

/// The confirmation that one send waits for. Dropped before it is done, it is remembered as missing.
#[derive(Debug)]
pub(super) struct Confirmation {
    awaited: Arc<Awaited>,
    id: Uuid,
    answer: watch::Receiver<Option<Answer>>,
    is_done: bool,
}

impl Confirmation {
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Returns the answer, if it has come.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.answer.borrow().clone()
    }

    /// Waits for the answer; `None` if it has not come by then.
    pub(super) async fn come_by(&mut self, until: Instant) -> Option<Answer> {
        let come = timeout_at(until, self.answer.wait_for(Option::is_some)).await;
        come.ok()?.ok()?.clone()
    }

    /// Records that the sender knows of it.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Confirmation {
    fn drop(&mut self) {
        self.awaited.leave(self.id, self.is_done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> Uuid {
        Uuid::from_u128(n as u128)
    }

    #[test]
    fn a_confirmation_is_in_time_late_again_or_unknown() {
        let awaited = Arc::new(Awaited::default());
        assert_eq!(awaited.confirm(id(1), Answer::Handled), Confirmed::Unknown);
        let confirmation = awaited.await_one(id(1)).unwrap();
        assert_eq!(confirmation.answer(), None);
        assert_eq!(awaited.confirm(id(1), Answer::Handled), Confirmed::InTime);
        assert_eq!(awaited.confirm(id(1), Answer::Handled), Confirmed::Again);
        assert_eq!(confirmation.answer(), Some(Answer::Handled));
        confirmation.done();
        assert_eq!(awaited.confirm(id(1), Answer::Handled), Confirmed::Unknown);

        drop(awaited.await_one(id(2)));
        assert_eq!(awaited.confirm(id(2), Answer::Handled), Confirmed::Late);
        assert_eq!(awaited.confirm(id(2), Answer::Handled), Confirmed::Again);
        assert_eq!(awaited.await_one(id(2)).err(), Some(Answer::Handled));
        assert!(awaited.await_one(id(2)).is_ok());
    }

    #[test]
    fn the_first_answer_counts() {
        let (awaited, rejected) = (Arc::new(Awaited::default()), Answer::Rejected("no".into()));
        let confirmation = awaited.await_one(id(1)).unwrap();
        assert_eq!(awaited.confirm(id(1), rejected.clone()), Confirmed::InTime);
        assert_eq!(awaited.confirm(id(1), Answer::Handled), Confirmed::Again);
        assert_eq!(confirmation.answer(), Some(rejected.clone()));
        drop(confirmation);
        assert_eq!(awaited.await_one(id(1)).err(), Some(rejected));
    }

    #[test]
    fn two_sends_of_one_id_share_its_confirmation() {
        let awaited = Arc::new(Awaited::default());
        let (first, second) = (awaited.await_one(id(1)).unwrap(), awaited.await_one(id(1)).unwrap());
        drop(first);
        assert_eq!(awaited.confirm(id(1), Answer::Handled), Confirmed::InTime);
        assert_eq!(second.answer(), Some(Answer::Handled));
    }

    #[test]
    fn the_memory_of_missing_confirmations_is_bounded() {
        let awaited = Arc::new(Awaited::default());
        for n in 0..REMEMBERED + 10 {
            drop(awaited.await_one(id(n)));
        }
        let ids = lock(&awaited.0);
        assert_eq!((ids.waiting.len(), ids.late.len(), ids.order.len()), (0, REMEMBERED, REMEMBERED));
        drop(ids);
        assert_eq!(
            (awaited.confirm(id(9), Answer::Handled), awaited.confirm(id(10), Answer::Handled)),
            (Confirmed::Unknown, Confirmed::Late)
        );
        // One message sent again and again fills nothing.
        for _ in 0..2 * REMEMBERED {
            drop(awaited.await_one(id(10)));
        }
        assert!(lock(&awaited.0).order.len() <= REMEMBERED);
    }
}

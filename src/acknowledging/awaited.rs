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
    /// Messages that nobody waits for now, and whether they were confirmed late.
    late: HashMap<Uuid, bool>,
    /// The ids in `late`, oldest first; an id may be here several times, or no longer be in `late`.
    order: VecDeque<Uuid>,
}

#[derive(Debug)]
struct Waiting {
    confirmed: watch::Sender<bool>,
    /// How many sends wait for it: an app may send two messages with one id.
    sends: usize,
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
    /// Awaits the confirmation of a message that is to be sent; `None` if it has come since an earlier send.
    pub(super) fn await_one(self: &Arc<Self>, id: Uuid) -> Option<Confirmation> {
        let mut ids = lock(&self.0);
        if ids.late.remove(&id) == Some(true) {
            return None;
        }
        let waiting = ids
            .waiting
            .entry(id)
            .or_insert_with(|| Waiting { confirmed: watch::Sender::new(false), sends: 0 });
        waiting.sends += 1;
        let confirmed = waiting.confirmed.subscribe();
        Some(Confirmation { awaited: Arc::clone(self), id, confirmed, is_done: false })
    }

    pub(super) fn confirm(&self, id: Uuid) -> Confirmed {
        let mut ids = lock(&self.0);
        if let Some(waiting) = ids.waiting.get(&id) {
            return if waiting.confirmed.send_replace(true) { Confirmed::Again } else { Confirmed::InTime };
        }
        match ids.late.get_mut(&id) {
            Some(confirmed) if *confirmed => Confirmed::Again,
            Some(confirmed) => {
                *confirmed = true;
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
        let is_confirmed = *waiting.confirmed.borrow();
        ids.waiting.remove(&id);
        if is_done {
            return;
        }
        ids.late.insert(id, is_confirmed);
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
    confirmed: watch::Receiver<bool>,
    is_done: bool,
}

impl Confirmation {
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Whether it has come.
    pub(super) fn has_come(&self) -> bool {
        *self.confirmed.borrow()
    }

    /// Waits for it; returns whether it has come.
    pub(super) async fn come_by(&mut self, until: Instant) -> bool {
        let come = timeout_at(until, self.confirmed.wait_for(|confirmed| *confirmed)).await;
        matches!(come, Ok(Ok(_)))
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
        assert_eq!(awaited.confirm(id(1)), Confirmed::Unknown);
        let confirmation = awaited.await_one(id(1)).unwrap();
        assert!(!confirmation.has_come());
        assert_eq!(awaited.confirm(id(1)), Confirmed::InTime);
        assert_eq!(awaited.confirm(id(1)), Confirmed::Again);
        assert!(confirmation.has_come());
        confirmation.done();
        assert_eq!(awaited.confirm(id(1)), Confirmed::Unknown);

        drop(awaited.await_one(id(2)));
        assert_eq!(awaited.confirm(id(2)), Confirmed::Late);
        assert_eq!(awaited.confirm(id(2)), Confirmed::Again);
        assert!(awaited.await_one(id(2)).is_none());
        assert!(awaited.await_one(id(2)).is_some());
    }

    #[test]
    fn two_sends_of_one_id_share_its_confirmation() {
        let awaited = Arc::new(Awaited::default());
        let (first, second) = (awaited.await_one(id(1)).unwrap(), awaited.await_one(id(1)).unwrap());
        drop(first);
        assert_eq!(awaited.confirm(id(1)), Confirmed::InTime);
        assert!(second.has_come());
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
        assert_eq!((awaited.confirm(id(9)), awaited.confirm(id(10))), (Confirmed::Unknown, Confirmed::Late));
        // One message sent again and again fills nothing.
        for _ in 0..2 * REMEMBERED {
            drop(awaited.await_one(id(10)));
        }
        assert!(lock(&awaited.0).order.len() <= REMEMBERED);
    }
}

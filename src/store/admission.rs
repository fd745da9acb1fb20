//! Admission control of requests.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Admission control: while it is closed, [`MessagingLayer`](crate::layer::MessagingLayer) answers 503 with `Retry-After`
/// before the handler runs, so that no side effect happens whose message cannot be stored.
///
/// With a store or buffer of this crate, each admitted request reserves capacity for one message until its messages are
/// stored or it ends without messages: no more requests are admitted at once than there is capacity for.
///
/// Requests by a safe method (GET, HEAD, OPTIONS, TRACE: RFC 9110, section 9.2.1) are always admitted, without a reservation.
/// A clone is a handle to the same gate, which begins open.
#[derive(Clone, Debug)]
pub struct Admission {
    gate: Arc<Gate>,
    or: Option<Box<Self>>,
}

#[derive(Debug)]
struct Gate {
    open: AtomicBool,
    room: Mutex<Room>,
}

/// Room for messages, in numbers of them.
#[derive(Debug)]
pub(crate) struct Room {
    /// How many more can be taken over, those included for which it is reserved.
    pub(crate) free: u64,
    /// How many requests have been let in whose messages have not been taken over yet.
    pub(crate) reserved: u64,
}

impl Default for Admission {
    fn default() -> Self {
        let room = Mutex::new(Room { free: u64::MAX, reserved: 0 });
        Self { gate: Arc::new(Gate { open: AtomicBool::new(true), room }), or: None }
    }
}

impl Admission {
    /// Whether requests are admitted.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.gate.open.load(Ordering::Relaxed) || self.or.as_ref().is_some_and(|or| or.is_open())
    }

    /// Both gates as one, which is open while one of them is. Setting it sets the first.
    #[must_use]
    pub(crate) fn or(mut self, other: Self) -> Self {
        self.or = Some(Box::new(match self.or.take() {
            Some(or) => or.or(other),
            None => other,
        }));
        self
    }

    /// Opens or closes it.
    pub fn set_open(&self, open: bool) {
        self.gate.open.store(open, Ordering::Relaxed);
    }

    /// Lets a request in, with room for one message; none when it is closed, or all room is taken.
    pub(crate) fn enter(&self) -> Option<Admitted> {
        if self.gate.open.load(Ordering::Relaxed) {
            let mut room = self.gate.room();
            if room.reserved < room.free {
                room.reserved += 1;
                drop(room);
                return Some(Admitted(Some(Arc::clone(&self.gate))));
            }
        }
        self.or.as_ref()?.enter()
    }

    /// The room reserved at this gate for the request whose messages this task sends.
    pub(crate) fn own(&self) -> Option<Admitted> {
        let own = SENDING.try_with(Cell::take).ok().flatten()?;
        if own.0.as_ref().is_some_and(|gate| Arc::ptr_eq(gate, &self.gate)) {
            return Some(own);
        }
        SENDING.with(|sending| sending.set(Some(own)));
        None
    }

    /// Turns what is reserved into what is taken, at once: nobody else gets it between the two.
    pub(crate) fn take_over<T>(&self, own: Option<Admitted>, take: impl FnOnce(&mut Room) -> T) -> T {
        let mut room = self.gate.room();
        if let Some(mut own) = own {
            own.0 = None;
            room.reserved -= 1;
        }
        take(&mut room)
    }

    /// Says for how many more messages there is room.
    pub(crate) fn set_free(&self, free: u64) {
        self.gate.room().free = free;
    }
}

impl Gate {
    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Whether so many fit beside what is reserved for others.
    pub(crate) fn fits(&self, messages: u64, free: u64) -> bool {
        messages.saturating_add(self.reserved) <= free
    }
}

/// How large a message is as long as none is known.
const TYPICAL: u64 = 1 << 10;

/// For how many messages there is room when they are as large as those held are on average; for one at least.
pub(crate) fn room_for(messages: u64, bytes: u64, held: (u64, u64)) -> u64 {
    let size = held.1.checked_div(held.0).unwrap_or(TYPICAL).max(1);
    messages.min((bytes / size).max(1))
}

/// Marks a 503 that was answered because the messages of the request could not be stored or sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnedAway;

tokio::task_local! {
    /// The room reserved for the messages that this task sends.
    static SENDING: Cell<Option<Admitted>>;
}

/// Room that is reserved for a message of a request until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted(Option<Arc<Gate>>);

impl Admitted {
    /// Sends with what is reserved, for [`Admission::own`].
    pub(crate) async fn send<F: Future>(self, send: F) -> F::Output {
        SENDING.scope(Cell::new(Some(self)), send).await
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            gate.room().reserved -= 1;
        }
    }
}

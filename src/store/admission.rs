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
    capacity: Mutex<FreeCapacity>,
}

/// How many more messages can be stored.
#[derive(Debug)]
pub(crate) struct FreeCapacity {
    /// The number of messages that fit, reservations included.
    pub(crate) free: u64,
    /// The number of admitted requests whose messages are not stored yet.
    pub(crate) reserved: u64,
}

impl Default for Admission {
    fn default() -> Self {
        let capacity = Mutex::new(FreeCapacity { free: u64::MAX, reserved: 0 });
        Self { gate: Arc::new(Gate { open: AtomicBool::new(true), capacity }), or: None }
    }
}

impl Admission {
    /// Whether requests are admitted.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.gate.open.load(Ordering::Relaxed) || self.or.as_ref().is_some_and(|or| or.is_open())
    }

    /// Joins two gates to one, which is open while one of them is. Opening or closing it changes the first.
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

    /// Admits a request and reserves capacity for one message; `None` when it is closed or nothing is free.
    pub(crate) fn enter(&self) -> Option<Admitted> {
        if self.gate.open.load(Ordering::Relaxed) {
            let mut capacity = self.gate.capacity();
            if capacity.reserved < capacity.free {
                capacity.reserved += 1;
                drop(capacity);
                return Some(Admitted(Some(Arc::clone(&self.gate))));
            }
        }
        self.or.as_ref()?.enter()
    }

    /// Returns the reservation at this gate of the request whose messages this task sends.
    pub(crate) fn own(&self) -> Option<Admitted> {
        let own = SENDING.try_with(Cell::take).ok().flatten()?;
        if own.0.as_ref().is_some_and(|gate| Arc::ptr_eq(gate, &self.gate)) {
            return Some(own);
        }
        SENDING.with(|sending| sending.set(Some(own)));
        None
    }

    /// Releases a reservation and takes capacity in one step, so that no other request gets it in between.
    pub(crate) fn take_over<T>(&self, own: Option<Admitted>, take: impl FnOnce(&mut FreeCapacity) -> T) -> T {
        let mut capacity = self.gate.capacity();
        if let Some(mut own) = own {
            own.0 = None;
            capacity.reserved -= 1;
        }
        take(&mut capacity)
    }

    /// Sets how many more messages fit.
    pub(crate) fn set_free(&self, free: u64) {
        self.gate.capacity().free = free;
    }
}

impl Gate {
    fn capacity(&self) -> MutexGuard<'_, FreeCapacity> {
        self.capacity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FreeCapacity {
    /// Whether so many fit beside the reservations of others.
    pub(crate) fn fits(&self, messages: u64, free: u64) -> bool {
        messages.saturating_add(self.reserved) <= free
    }
}

/// The assumed size of a message before any is stored, in bytes.
const TYPICAL: u64 = 1 << 10;

/// Returns how many messages of the average size of the stored ones fit; at least one.
pub(crate) fn room_for(messages: u64, bytes: u64, held: (u64, u64)) -> u64 {
    let size = held.1.checked_div(held.0).unwrap_or(TYPICAL).max(1);
    messages.min((bytes / size).max(1))
}

/// Marks a 503 that was answered because the messages of the request could not be stored or sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RejectedForCapacity;

tokio::task_local! {
    /// The reservation for the messages that this task sends.
    static SENDING: Cell<Option<Admitted>>;
}

/// Capacity reserved for one message of a request, until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted(Option<Arc<Gate>>);

impl Admitted {
    /// Sends with this reservation, which [`Admission::own`] returns.
    pub(crate) async fn send<F: Future>(self, send: F) -> F::Output {
        SENDING.scope(Cell::new(Some(self)), send).await
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            gate.capacity().reserved -= 1;
        }
    }
}

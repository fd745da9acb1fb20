//! Requests that are handled again.

use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::channels::request_types::Incoming;
use crate::message::FailedAttempt;
use crate::util::sync::lock;

/// A request at this responder.
pub(super) struct Held {
    pub(super) incoming: Incoming,
    pub(super) failures: Vec<FailedAttempt>,
    /// Whether a handler may have got it before.
    pub(super) redelivered: bool,
}

/// Requests that wait until they are due.
#[derive(Default)]
pub(super) struct Waiting {
    held: Mutex<Vec<(Instant, Held)>>,
    changed: Notify,
}

impl Waiting {
    pub(super) fn push(&self, due: Instant, held: Held) {
        lock(&self.held).push((due, held));
        self.changed.notify_one();
    }

    /// Waits for a request that is due.
    pub(super) async fn due(&self) -> Held {
        loop {
            let next = {
                let mut held = lock(&self.held);
                let first = held.iter().enumerate().min_by_key(|(_, (due, _))| *due);
                match first.map(|(at, (due, _))| (at, *due)) {
                    Some((at, due)) if due <= Instant::now() => return held.swap_remove(at).1,
                    first => first.map(|(_, due)| due),
                }
            };
            match next {
                None => self.changed.notified().await,
                Some(due) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    /// Drops all requests.
    pub(super) fn clear(&self) {
        lock(&self.held).clear();
    }
}

//! Requests that responders have, and whose answers come by SendResponse.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use tokio::time::Instant;

use super::limits;
use crate::channels::Responder;
use crate::util::sync::lock;

/// Requests that responders have, by their reply channels.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    responders: HashMap<String, (Responder, Instant)>,
    deadlines: BTreeSet<(Instant, String)>,
}

impl Pending {
    /// Keeps a request until its deadline; returns its reply channel, which nobody can guess. `None` if there are too many.
    pub(super) fn add(&self, responder: Responder, deadline: Instant) -> Option<String> {
        let channel = format!("_INBOX.{:032x}", rand::random::<u128>());
        let now = Instant::now();
        let mut inner = lock(&self.0);
        while let Some((at, _)) = inner.deadlines.first()
            && *at <= now
        {
            if let Some((_, over)) = inner.deadlines.pop_first() {
                inner.responders.remove(&over);
            }
        }
        if inner.responders.len() >= limits::PENDING {
            return None;
        }
        inner.deadlines.insert((deadline, channel.clone()));
        inner.responders.insert(channel.clone(), (responder, deadline));
        Some(channel)
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.0).responders.len()
    }

    /// Takes a request out; `None` if it is answered, its requester has gone, or there was none.
    pub(super) fn take(&self, channel: &str) -> Option<Responder> {
        let mut inner = lock(&self.0);
        let (responder, deadline) = inner.responders.remove(channel)?;
        inner.deadlines.remove(&(deadline, channel.to_owned()));
        Some(responder)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_kept_up_to_a_number_and_until_their_deadlines() {
        let (sender, _answers) = mpsc::channel(1);
        let (pending, responder) = (Pending::default(), Responder::new(sender));
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let first = pending.add(responder.clone(), at(1)).unwrap();
        for _ in 1..limits::PENDING {
            assert!(pending.add(responder.clone(), at(10)).is_some());
        }
        assert!(pending.add(responder.clone(), at(10)).is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        let last = pending.add(responder.clone(), at(10)).unwrap();
        assert!(pending.add(responder, at(10)).is_none());
        assert!(
            pending.take(&first).is_none() && pending.take(&last).is_some() && pending.take(&last).is_none()
        );
        assert_eq!(pending.count(), limits::PENDING - 1);
    }
}

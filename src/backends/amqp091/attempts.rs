//! Failed attempts that are counted nowhere else.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::incoming::Incoming;

/// More messages than a source holds, many times.
const MOST: usize = 10_000;

/// The failed attempts of messages that could not be forwarded, and so have no count in a header. Messages are identified by
/// their content, because only quorum queues count deliveries. The counts start at zero with each source.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<u64, u32>>);

impl Attempts {
    pub(super) fn of(&self, incoming: &Incoming) -> u32 {
        let counts = self.counts();
        if counts.is_empty() { 0 } else { counts.get(&key(incoming)).copied().unwrap_or(0) }
    }

    /// One more.
    pub(super) fn add(&self, incoming: &Incoming) {
        let key = key(incoming);
        let mut counts = self.counts();
        if counts.len() >= MOST
            && !counts.contains_key(&key)
            && let Some(other) = counts.keys().next().copied()
        {
            counts.remove(&other);
        }
        let count = counts.entry(key).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn forget(&self, incoming: &Incoming) {
        let mut counts = self.counts();
        if !counts.is_empty() {
            counts.remove(&key(incoming));
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(incoming: &Incoming) -> u64 {
    let mut hasher = DefaultHasher::new();
    let id = incoming.properties.message_id().as_ref().map(|id| id.as_str());
    (&incoming.routing_key, id, &incoming.body).hash(&mut hasher);
    hasher.finish()
}

//! What is remembered of messages whose handling failed, as not every broker counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use crate::store::FailedAttempt;

/// How many messages are remembered; the one that failed longest ago makes room.
const MESSAGES: usize = 10_000;
/// How many failures of each.
const FAILURES: usize = 10;

/// The failed attempts of messages that come again.
#[derive(Default)]
pub(super) struct Attempts {
    by_id: HashMap<Uuid, Failed>,
    oldest: BTreeMap<u64, Uuid>,
    next: u64,
}

#[derive(Default)]
struct Failed {
    count: u32,
    last: Vec<FailedAttempt>,
    number: u64,
}

impl Attempts {
    pub(super) fn failed(&mut self, id: Uuid, reason: Arc<str>) {
        let failed = self.by_id.entry(id).or_default();
        failed.count = failed.count.saturating_add(1);
        if failed.last.len() == FAILURES {
            failed.last.remove(0);
        }
        failed.last.push(FailedAttempt::new(SystemTime::now(), reason));
        self.oldest.remove(&failed.number);
        self.next += 1;
        failed.number = self.next;
        self.oldest.insert(self.next, id);
        if self.by_id.len() > MESSAGES
            && let Some((_, oldest)) = self.oldest.pop_first()
        {
            self.by_id.remove(&oldest);
        }
    }

    pub(super) fn count(&self, id: Uuid) -> u32 {
        self.by_id.get(&id).map_or(0, |failed| failed.count)
    }

    pub(super) fn last(&self, id: Uuid) -> &[FailedAttempt] {
        self.by_id.get(&id).map_or(&[], |failed| &failed.last)
    }

    pub(super) fn forget(&mut self, id: Uuid) {
        if let Some(failed) = self.by_id.remove(&id) {
            self.oldest.remove(&failed.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failures_are_kept_and_all_are_counted() {
        let mut attempts = Attempts::default();
        let id = Uuid::from_u128(1);
        (0..12).for_each(|n| attempts.failed(id, n.to_string().into()));
        assert_eq!((attempts.count(id), attempts.last(id).len()), (12, 10));
        assert_eq!(&*attempts.last(id)[9].reason, "11");
        attempts.forget(id);
        assert!(attempts.count(id) == 0 && attempts.oldest.is_empty());
    }

    #[test]
    fn the_one_that_failed_longest_ago_makes_room() {
        let mut attempts = Attempts::default();
        for n in 0..=MESSAGES as u128 {
            attempts.failed(Uuid::from_u128(n), "x".into());
            attempts.failed(Uuid::from_u128(0), "x".into());
        }
        assert_eq!((attempts.by_id.len(), attempts.oldest.len()), (MESSAGES, MESSAGES));
        assert_eq!(attempts.count(Uuid::from_u128(0)), MESSAGES as u32 + 2);
        assert_eq!(attempts.count(Uuid::from_u128(1)), 0);
    }
}

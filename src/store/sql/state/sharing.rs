//! Which buckets this process holds.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Known, State};

impl State {
    /// Sees to what this process holds; says whether that is anything.
    pub(crate) fn sync_share(&mut self, now: Instant) -> bool {
        if self.share.has_changed().unwrap_or(false) || self.until.is_none() || self.deferred {
            let share = self.share.borrow_and_update().clone();
            self.until = share.until;
            let mut held: BTreeMap<i16, i64> = share.buckets.into_iter().collect();
            let offered = held.len();
            // What comes back while something of before is out would leave beside it.
            let is_out = |bucket: &i16| self.out.values().any(|out| out.bucket == *bucket);
            held.retain(|bucket, token| self.held.get(bucket) == Some(token) || !is_out(bucket));
            self.deferred = held.len() < offered;
            let lost: Vec<i16> =
                self.held.iter().filter(|(b, t)| held.get(b) != Some(t)).map(|(b, _)| *b).collect();
            let gained = held.iter().any(|(bucket, token)| self.held.get(bucket) != Some(token));
            if !lost.is_empty() {
                self.forget_buckets(&lost);
            }
            self.held = held;
            if gained {
                self.rewind(0);
                self.next_due = Some(now);
            }
        }
        !self.held.is_empty() && self.until.is_some_and(|until| until > now)
    }

    /// Forgets all of these buckets. What is out of them may still be settled, if the database agrees.
    fn forget_buckets(&mut self, buckets: &[i16]) {
        let of_these = |known: &Known| match known {
            Known::Reserved(bucket) | Known::Here(bucket) => buckets.contains(bucket),
            Known::Condemned => false,
        };
        let lost: Vec<u64> =
            self.known.iter().filter(|(_, known)| of_these(known)).map(|(position, _)| *position).collect();
        for position in lost {
            self.forget(position);
        }
    }

    /// Whether nothing of a bucket is out.
    pub(crate) fn is_idle(&mut self, bucket: i16) -> bool {
        self.sync_share(Instant::now());
        self.out.values().all(|out| out.bucket != bucket)
    }

    /// The buckets with their tokens.
    pub(crate) fn held(&self) -> Vec<(i16, i64)> {
        self.held.iter().map(|(bucket, token)| (*bucket, *token)).collect()
    }

    pub(super) fn buckets(&self) -> Vec<i16> {
        self.held.keys().copied().collect()
    }

    /// The buckets in which this process puts what has no key.
    pub(crate) fn own(&mut self) -> Vec<i16> {
        if self.sync_share(Instant::now()) { self.buckets() } else { Vec::new() }
    }
}

//! Failed attempts, counted here because not every broker counts them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use crate::message::FailedAttempt;

/// The most messages with a record; the one that failed longest ago is removed first.
const MESSAGES: usize = 10_000;
/// The most failures that a record keeps.
const FAILURES: usize = 10;

/// The failed attempts of redelivered messages.
///
/// A record belongs to one message, unsettled or returned. A redelivered message takes a record with its content. So
/// messages with the same id have separate records, and equal messages never share one.
#[derive(Default)]
pub(in crate::backends) struct Attempts {
    by_content: HashMap<Uuid, Vec<u64>>,
    records: BTreeMap<u64, Record>,
    next: u64,
}

struct Record {
    content: Uuid,
    count: u32,
    last: Vec<FailedAttempt>,
    /// Whether its message is unsettled here.
    taken: bool,
}

impl Attempts {
    pub(in crate::backends) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes the record of a returned message with this content.
    pub(in crate::backends) fn take(&mut self, content: Uuid) -> Option<u64> {
        let numbers = self.by_content.get(&content)?;
        let number = *numbers.iter().find(|number| !self.records[number].taken)?;
        self.records.get_mut(&number)?.taken = true;
        Some(number)
    }

    /// Records a failed attempt, and returns the record.
    pub(in crate::backends) fn failed(
        &mut self,
        record: Option<u64>,
        content: Uuid,
        reason: Arc<str>,
    ) -> u64 {
        let record = record.and_then(|number| self.remove(number));
        let mut record = record.unwrap_or(Record { content, count: 0, last: Vec::new(), taken: true });
        record.count = record.count.saturating_add(1);
        if record.last.len() == FAILURES {
            record.last.remove(0);
        }
        record.last.push(FailedAttempt::new(SystemTime::now(), reason));
        self.next += 1;
        self.by_content.entry(record.content).or_default().push(self.next);
        self.records.insert(self.next, record);
        if self.records.len() > MESSAGES
            && let Some((oldest, _)) = self.records.first_key_value()
        {
            self.remove(*oldest);
        }
        self.next
    }

    pub(in crate::backends) fn count(&self, record: Option<u64>) -> u32 {
        self.record(record).map_or(0, |record| record.count)
    }

    pub(in crate::backends) fn last(&self, record: Option<u64>) -> &[FailedAttempt] {
        self.record(record).map_or(&[], |record| &record.last)
    }

    /// Records that the message was returned to the broker.
    #[cfg_attr(
        not(any(feature = "amqp091", feature = "amqp10")),
        allow(dead_code, reason = "MQTT returns nothing")
    )]
    pub(in crate::backends) fn give_back(&mut self, record: Option<u64>) {
        if let Some(record) = record.and_then(|number| self.records.get_mut(&number)) {
            record.taken = false;
        }
    }

    /// Records that all messages were returned to the broker.
    pub(in crate::backends) fn give_all_back(&mut self) {
        self.records.values_mut().for_each(|record| record.taken = false);
    }

    pub(in crate::backends) fn forget(&mut self, record: Option<u64>) {
        record.and_then(|number| self.remove(number));
    }

    fn record(&self, record: Option<u64>) -> Option<&Record> {
        self.records.get(&record?)
    }

    fn remove(&mut self, number: u64) -> Option<Record> {
        let record = self.records.remove(&number)?;
        if let Some(numbers) = self.by_content.get_mut(&record.content) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                self.by_content.remove(&record.content);
            }
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failures_are_kept_and_all_are_counted() {
        let mut attempts = Attempts::default();
        let content = Uuid::from_u128(1);
        let mut record = None;
        for n in 0..12 {
            record = Some(attempts.failed(record, content, n.to_string().into()));
            attempts.give_back(record);
            assert_eq!(attempts.take(content), record);
        }
        assert_eq!((attempts.count(record), attempts.last(record).len()), (12, 10));
        assert_eq!(&*attempts.last(record)[9].reason, "11");
        attempts.forget(record);
        assert!(attempts.is_empty() && attempts.by_content.is_empty());
    }

    #[test]
    fn messages_of_one_content_never_share_a_record() {
        let mut attempts = Attempts::default();
        let content = Uuid::from_u128(1);
        assert_eq!(attempts.take(content), None);
        let records = [(); 3].map(|()| Some(attempts.failed(None, content, "x".into())));
        assert_eq!(attempts.take(content), None, "none of them was given back");
        records.iter().for_each(|record| attempts.give_back(*record));
        let mut again = [(); 3].map(|()| attempts.take(content));
        again.sort();
        assert_eq!((again, attempts.take(content)), (records, None));
        assert!(again.iter().all(|record| attempts.count(*record) == 1));
        attempts.give_all_back();
        assert_eq!(attempts.take(content), records[0]);
    }

    #[test]
    fn the_one_that_failed_longest_ago_makes_room() {
        let mut attempts = Attempts::default();
        let mut first = None;
        for n in 0..=MESSAGES as u128 {
            attempts.failed(None, Uuid::from_u128(n + 1), "x".into());
            first = Some(attempts.failed(first, Uuid::from_u128(0), "x".into()));
        }
        assert_eq!((attempts.records.len(), attempts.by_content.len()), (MESSAGES, MESSAGES));
        assert_eq!(attempts.count(first), MESSAGES as u32 + 1);
        assert_eq!(attempts.take(Uuid::from_u128(1)), None);
    }
}

//! Records that the client library cannot read, and the way past them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::failure::Damage;
use super::letter::Partition;

/// So often a record is read before it counts as unreadable: it may be damaged on its way.
const READ_AGAIN: u32 = 3;
/// How long a partition rests before its record is read again.
const REST: Duration = Duration::from_millis(200);
/// More records than a batch can hold.
const MOST_OF_BATCH: i64 = 200_000;

/// The partitions whose next record cannot be read.
///
/// Brokers give a batch for the offset of each of its records, and the client library does not tell how many it has. The batch is
/// passed offset by offset. Its fault shows at all of them, so that a whole batch becomes one dead letter.
///
/// A batch may claim to have billions of records. Its end is searched in growing steps, if its fault is that of no other batch. A
/// step beyond its end is taken back: no record after it is left out.
#[derive(Default)]
pub(super) struct Unreadable(HashMap<Partition, Batch>);

/// A damaged batch.
struct Batch {
    fault: String,
    /// The offset at which it was found.
    first: i64,
    /// How often it was read there.
    times: u32,
    rests_until: Instant,
    /// The last offset that is known to be its own.
    last: i64,
    /// The offset that is read now.
    at: i64,
    /// The lowest offset that is known not to be its own.
    beyond: Option<i64>,
    /// The end of the partition when it was found.
    end: i64,
}

/// The way on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is read again after a rest.
    Rest,
    /// It becomes a dead letter.
    DeadLetter,
    /// All up to this offset belongs to a batch that is a dead letter. The next offset is the one to read.
    Passed(i64, i64),
    /// This offset is the one to read.
    Back(i64),
}

/// The offsets of a batch that could not be read.
pub(super) struct Passed {
    pub(super) first: i64,
    pub(super) last: i64,
}

impl Unreadable {
    /// Records that a record cannot be read.
    pub(super) fn found(&mut self, partition: &Partition, damage: &Damage) -> Step {
        let batch = self.0.entry(partition.clone()).or_insert_with(|| Batch::new(damage));
        if damage.offset != batch.at || (batch.is_passed() && batch.beyond == Some(batch.at)) {
            *batch = Batch::new(damage);
        } else if batch.is_passed() {
            if damage.fault != batch.fault {
                return match batch.step_back() {
                    Some(at) => Step::Back(at),
                    None => self.replace(partition, damage),
                };
            }
            batch.last = batch.at;
            batch.at = batch.next();
            return Step::Passed(batch.last, batch.at);
        }
        batch.times += 1;
        damage.fault.clone_into(&mut batch.fault);
        if batch.is_passed() {
            return Step::DeadLetter;
        }
        batch.rests_until = Instant::now() + REST;
        Step::Rest
    }

    fn replace(&mut self, partition: &Partition, damage: &Damage) -> Step {
        self.0.remove(partition);
        self.found(partition, damage)
    }

    /// Records that it is a dead letter, and how far the partition goes. Returns the next offset to read.
    pub(super) fn is_dead_letter(&mut self, partition: &Partition, end: Option<i64>) -> Option<i64> {
        let batch = self.0.get_mut(partition)?;
        batch.end = end.unwrap_or_default();
        batch.at = batch.next();
        Some(batch.at)
    }

    /// Records that a record can be read. If that is so beyond the end of a damaged batch, which is searched, it returns the offset
    /// to go back to.
    pub(super) fn readable(&mut self, partition: &Partition, offset: i64) -> Result<Option<Passed>, i64> {
        let Some(batch) = self.0.get_mut(partition) else { return Ok(None) };
        if batch.is_passed()
            && offset >= batch.at
            && let Some(at) = batch.step_back()
        {
            return Err(at);
        }
        let passed = self.0.remove(partition).filter(Batch::is_passed);
        Ok(passed.map(|Batch { first, last, .. }| Passed { first, last }))
    }

    /// Records that nothing came, but for these partitions. Returns the offsets to go back to.
    pub(super) fn nothing_came(&mut self, but_for: &HashSet<Partition>) -> Vec<(Partition, i64)> {
        let searched =
            self.0.iter_mut().filter(|(partition, batch)| batch.is_passed() && !but_for.contains(*partition));
        searched.filter_map(|(partition, batch)| Some((partition.clone(), batch.step_back()?))).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The partitions that are not read now.
    pub(super) fn resting(&self) -> impl Iterator<Item = &Partition> {
        let now = Instant::now();
        let resting = self.0.iter().filter(move |(_, batch)| !batch.is_passed() && now < batch.rests_until);
        resting.map(|(partition, _)| partition)
    }
}

impl Batch {
    fn new(damage: &Damage) -> Self {
        let Damage { offset, fault, .. } = damage;
        Self {
            fault: fault.clone(),
            first: *offset,
            times: 0,
            rests_until: Instant::now(),
            last: *offset,
            at: *offset,
            beyond: None,
            end: 0,
        }
    }

    /// Whether it is a dead letter.
    fn is_passed(&self) -> bool {
        self.times >= READ_AGAIN
    }

    /// Whether the same fault at two offsets is that of one batch: a checksum occurs once, and no two batches of a sound broker have more
    /// records than fit.
    fn is_unique(&self) -> bool {
        let claimed = self.fault.split_once("declares ").and_then(|(_, rest)| rest.split_once(' '));
        let claimed = claimed.and_then(|(count, _)| count.parse::<i64>().ok()).unwrap_or_default();
        self.fault.contains("CRC mismatch") || claimed.max(self.last - self.first) > MOST_OF_BATCH
    }

    /// The next offset to read.
    fn next(&self) -> i64 {
        let after = self.last.saturating_add(1);
        let next = match self.beyond {
            Some(beyond) => self.last + (beyond - self.last) / 2,
            None if self.is_unique() => {
                let step = (self.last - self.first).max(1);
                self.last.saturating_add(step).min(self.end.saturating_sub(1))
            }
            None => after,
        };
        next.max(after)
    }

    /// Takes the last step back if it led beyond the end. Returns the next offset to read.
    fn step_back(&mut self) -> Option<i64> {
        if self.at <= self.last.saturating_add(1) {
            return None;
        }
        self.beyond = Some(self.at);
        self.at = self.next();
        Some(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of an imagined partition: the first offset, the number of records, and the fault, if any.
    type Log = [(i64, i64, Option<&'static str>)];

    /// Reads a partition as the worker does. Returns the offsets of good records that came, of dead letters, and how many reads it took.
    fn read(log: &Log) -> (Vec<i64>, Vec<i64>, u32) {
        let partition: Partition = ("t".into(), 0);
        let end = log.last().map_or(0, |(offset, count, _)| offset + count);
        let (mut unreadable, mut at, mut settled) = (Unreadable::default(), 0, -1);
        let (mut good, mut dead, mut reads) = (Vec::new(), Vec::new(), 0);
        while at < end {
            reads += 1;
            let (offset, count, fault) =
                *log.iter().find(|(offset, count, _)| (*offset..offset + count).contains(&at)).unwrap();
            match fault {
                None => match unreadable.readable(&partition, at) {
                    Err(back) => at = back,
                    Ok(_) => {
                        good.extend(at..offset + count);
                        at = offset + count;
                        settled = at - 1;
                    }
                },
                Some(fault) => {
                    let damage =
                        Damage { topic: "t".to_owned(), partition: 0, offset: at, fault: fault.to_owned() };
                    match unreadable.found(&partition, &damage) {
                        Step::Rest => {}
                        Step::DeadLetter => {
                            dead.push(at);
                            settled = at;
                            at = unreadable.is_dead_letter(&partition, Some(end)).unwrap();
                        }
                        Step::Passed(last, next) => (settled, at) = (last, next),
                        Step::Back(next) => at = next,
                    }
                }
            }
            assert!(at > settled, "an offset is read twice: {at}");
        }
        assert_eq!(settled, end - 1, "some offsets are left out");
        (good, dead, reads)
    }

    #[test]
    fn a_batch_is_one_dead_letter_and_no_good_record_is_left_out() {
        let broken = Some("CRC mismatch: expected 1, got 2");
        let other = Some("CRC mismatch: expected 3, got 4");
        let bomb = Some("too large");
        for count in [1, 2, 3, 7, 8, 9, 100, 1_000] {
            for after in [1, 2, 5, 1_000] {
                let good = (count..count + after).collect::<Vec<_>>();
                for fault in [broken, bomb] {
                    let (found, dead, reads) = read(&[(0, count, fault), (count, after, None)]);
                    assert_eq!((found, dead), (good.clone(), vec![0]), "{count} {after}");
                    assert!(fault == bomb || reads < 30, "{reads} reads of {count}");
                }
                // The same fault again, which is no checksum: no step leads over the good one.
                let (found, dead, _) =
                    read(&[(0, count, bomb), (count, after, None), (count + after, count, bomb)]);
                assert_eq!((found, dead), (good, vec![0, count + after]));
                let (_, dead, _) =
                    read(&[(0, count, broken), (count, after, other), (count + after, 1, None)]);
                assert_eq!(dead, [0, count]);
            }
        }
    }

    #[test]
    fn a_batch_of_billions_of_records_is_passed() {
        let most = i64::from(i32::MAX);
        for fault in
            ["CRC mismatch: expected 1, got 2", "record batch declares 2147483647 records but holds only 7"]
        {
            let (good, dead, reads) = read(&[(0, 3, None), (3, most, Some(fault)), (most + 3, 2, None)]);
            assert_eq!((good, dead), (vec![0, 1, 2, most + 3, most + 4], vec![3]));
            assert!(reads < 100, "{reads} reads");
        }
        let (_, dead, reads) = read(&[(0, most, Some("too large")), (most, 1, None)]);
        assert_eq!(dead, [0]);
        assert!(reads < 200_200, "{reads} reads");
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_is_read_again_after_a_rest_also_when_it_comes_back() {
        let partition: Partition = ("t".into(), 0);
        let damage =
            Damage { topic: "t".to_owned(), partition: 0, offset: 7, fault: "CRC mismatch".to_owned() };
        let mut unreadable = Unreadable::default();
        for _ in 0..3 {
            for _ in 0..2 {
                assert_eq!(unreadable.found(&partition, &damage), Step::Rest);
                assert_eq!(unreadable.resting().count(), 1);
                tokio::time::advance(REST).await;
                assert_eq!(unreadable.resting().count(), 0);
            }
            assert_eq!(unreadable.found(&partition, &damage), Step::DeadLetter);
            assert_eq!(unreadable.is_dead_letter(&partition, Some(9)), Some(8));
        }
        assert!(unreadable.readable(&partition, 7).is_ok_and(|passed| passed.is_some()));
        assert_eq!(unreadable.found(&partition, &damage), Step::Rest);
        assert!(unreadable.readable(&partition, 7).is_ok_and(|passed| passed.is_none()), "damage on the way");
    }

    /// At the end of the log may be marks of transactions, which are no records.
    #[test]
    fn a_step_after_which_nothing_comes_is_taken_back() {
        let partition: Partition = ("t".into(), 0);
        let damage =
            |offset| Damage { topic: "t".to_owned(), partition: 0, offset, fault: "CRC mismatch".to_owned() };
        let mut unreadable = Unreadable::default();
        for _ in 0..READ_AGAIN {
            unreadable.found(&partition, &damage(0));
        }
        assert_eq!(unreadable.is_dead_letter(&partition, Some(100)), Some(1));
        assert_eq!(unreadable.nothing_came(&HashSet::new()), [], "there is no step to take back");
        assert_eq!(unreadable.found(&partition, &damage(1)), Step::Passed(1, 2));
        assert_eq!(unreadable.found(&partition, &damage(2)), Step::Passed(2, 4));
        assert_eq!(unreadable.nothing_came(&HashSet::from([partition.clone()])), []);
        assert_eq!(unreadable.nothing_came(&HashSet::new()), [(partition.clone(), 3)]);
        assert_eq!(unreadable.nothing_came(&HashSet::new()), []);
        assert!(unreadable.readable(&partition, 5).is_ok_and(|passed| passed.is_some()));
    }
}

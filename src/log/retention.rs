//! Retention: which old segments a log deletes.

use std::time::{Duration, SystemTime};

use super::segment::Segment;

/// The limits up to which a log keeps records. Whole segments are deleted, oldest first and never the last one, so that a
/// log keeps at least the records within its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// The time since the last write to a segment. `None` keeps records of any age.
    pub(crate) max_age: Option<Duration>,
    /// The number of records. `None` keeps any number.
    pub(crate) max_records: Option<u64>,
    /// The size of all segments in bytes. `None` keeps any size.
    pub(crate) max_bytes: Option<u64>,
}

impl Retention {
    /// Returns the number of segments to delete from the front of `segments`. `written` returns the time of the last write.
    pub(crate) fn expired<'a>(
        &self,
        segments: impl Iterator<Item = &'a Segment> + Clone,
        written: impl Fn(&Segment) -> SystemTime,
        now: SystemTime,
    ) -> usize {
        let (mut records, mut bytes, mut count) = (0, 0, 0_usize);
        for segment in segments.clone() {
            records += segment.end - segment.base;
            bytes += segment.len;
            count += 1;
        }
        let mut expired = 0;
        for segment in segments.take(count.saturating_sub(1)) {
            records -= segment.end - segment.base;
            bytes -= segment.len;
            let is_old = |age| now.duration_since(written(segment)).is_ok_and(|passed| passed > age);
            let is_expired = self.max_records.is_some_and(|most| records >= most)
                || self.max_bytes.is_some_and(|most| bytes >= most)
                || self.max_age.is_some_and(is_old);
            if !is_expired {
                break;
            }
            expired += 1;
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::head::Head;
    use super::*;

    /// Segments of ten records and 1,000 bytes each; the newest was written just now, each other one an hour before the next.
    fn expired(retention: Retention) -> usize {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let now = SystemTime::now();
        let segments: Vec<_> = (0..5)
            .map(|n| {
                let head = Head::segment(1, 1 + 10 * n, None);
                let segment = Segment::new(head, "".into(), Arc::clone(&file), 1_000);
                Segment { end: segment.base + 10, ..segment }
            })
            .collect();
        let hours = |segment: &Segment| u32::try_from((41 - segment.base) / 10).unwrap();
        let written = |segment: &Segment| now - Duration::from_secs(3_600) * hours(segment);
        retention.expired(segments.iter(), written, now)
    }

    #[test]
    fn without_limits_everything_is_kept() {
        assert_eq!(expired(Retention::default()), 0);
    }

    #[test]
    fn the_oldest_segments_beyond_a_number_of_records_expire() {
        for (most, wanted) in [(0, 4), (10, 4), (11, 3), (25, 2), (40, 1), (41, 0), (1_000, 0)] {
            assert_eq!(
                expired(Retention { max_records: Some(most), ..Retention::default() }),
                wanted,
                "{most}"
            );
        }
    }

    #[test]
    fn the_oldest_segments_beyond_a_number_of_bytes_expire() {
        for (most, wanted) in [(0, 4), (1_000, 4), (1_001, 3), (4_000, 1), (4_001, 0)] {
            assert_eq!(
                expired(Retention { max_bytes: Some(most), ..Retention::default() }),
                wanted,
                "{most}"
            );
        }
    }

    #[test]
    fn segments_beyond_an_age_expire() {
        for (minutes, wanted) in [(1, 4), (90, 3), (230, 1), (250, 0)] {
            let max_age = Some(Duration::from_secs(60 * minutes));
            assert_eq!(expired(Retention { max_age, ..Retention::default() }), wanted, "{minutes}");
        }
    }
}

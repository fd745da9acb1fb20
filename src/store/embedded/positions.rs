//! Ranges in a set of positions.

use std::ops::Range;

use roaring::RoaringTreemap;

pub(super) trait Positions {
    /// Returns the positions in a range, rising.
    fn within(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_;

    /// Counts the positions in a range.
    fn count_within(&self, range: Range<u64>) -> u64;
}

impl Positions for RoaringTreemap {
    fn within(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let mut positions = self.iter();
        positions.advance_to(range.start);
        positions.take_while(move |position| *position < range.end)
    }

    fn count_within(&self, range: Range<u64>) -> u64 {
        let before = |position: u64| position.checked_sub(1).map_or(0, |last| self.rank(last));
        before(range.end).saturating_sub(before(range.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_before_their_end() {
        let set: RoaringTreemap = [1, 5, 70_000, 1 << 40].into_iter().collect();
        let within = |range| set.within(range).collect::<Vec<_>>();
        assert_eq!(within(0..5), [1]);
        assert_eq!(within(5..70_001), [5, 70_000]);
        assert_eq!(within(70_001..u64::MAX), [1 << 40]);
        for range in [0..0, 0..1, 0..2, 1..5, 2..5, 5..70_000, 6..u64::MAX] {
            let counted = within(range.clone()).len() as u64;
            assert_eq!(set.count_within(range.clone()), counted, "{range:?}");
        }
    }
}

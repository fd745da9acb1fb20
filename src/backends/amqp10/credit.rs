//! The credit of a link: a number of messages, and a number of bytes estimated by recent sizes.

use std::sync::Arc;

use super::guard::HeldBytes;

/// The first credit, before sizes are known.
const FIRST: u32 = 4;

pub(super) struct CreditWindow {
    credit: u32,
    bytes: usize,
    /// The next credit, which grows while messages arrive.
    most: u32,
    /// The largest recent message.
    largest: usize,
    held: Arc<HeldBytes>,
}

impl CreditWindow {
    pub(super) fn new(credit: u32, bytes: usize, held: Arc<HeldBytes>) -> Self {
        // A message beyond it, larger than estimated, is returned.
        held.limit(bytes.saturating_mul(2));
        Self { credit, bytes, most: FIRST, largest: 1, held }
    }

    /// How many more messages fit beside the unsettled ones, and whether that is less than half of the credit.
    pub(super) fn more(&self, here: u32) -> (u32, bool) {
        let held = self.held.count();
        let by_bytes = self.bytes.saturating_sub(held) / self.largest;
        let by_bytes = if here == 0 { by_bytes.max(1) } else { by_bytes };
        let by_bytes = u32::try_from(by_bytes).unwrap_or(u32::MAX);
        let room = self.credit.saturating_sub(here).min(by_bytes).min(self.most);
        (room, room < self.credit.div_ceil(2))
    }

    pub(super) fn granted(&mut self) {
        self.most = self.most.saturating_mul(2).min(self.credit.max(FIRST));
    }

    pub(super) fn arrived(&mut self, size: usize) {
        self.largest = size.max(self.largest - self.largest / 16);
    }

    pub(super) fn left(&self, size: usize) {
        self.held.subtract(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_small_messages_and_shrinks_with_large_ones() {
        let held = Arc::new(HeldBytes::default());
        let mut room = CreditWindow::new(100, 1_000, Arc::clone(&held));
        assert_eq!(room.more(0), (FIRST, true));
        for _ in 0..8 {
            room.arrived(1);
            room.granted();
        }
        assert_eq!((room.more(0), room.more(30)), ((100, false), (70, false)));
        held.add(300);
        room.arrived(300);
        assert_eq!(room.more(1), (2, true));
        held.add(600);
        assert_eq!(room.more(3), (0, true));
        room.left(900);
        room.arrived(5_000);
        assert_eq!((room.more(1).0, room.more(0).0), (0, 1));
        (0..200).for_each(|_| room.arrived(1));
        assert_eq!(room.more(0).0, 66);
    }
}

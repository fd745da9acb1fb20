//! The parts that the subscriptions of one consumer share.

use std::collections::HashMap;
use std::sync::Mutex;

use super::returning::Returning;

/// The parts that the subscriptions of one consumer share here.
#[derive(Default)]
pub(super) struct Sharing {
    pub(super) returning: Returning,
    /// How many deliveries of a message do not count as attempts.
    pub(super) uncounted: Mutex<HashMap<u64, u64>>,
}

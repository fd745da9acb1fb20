//! An inserted message, as far as the schedule needs it.

use std::time::Duration;

/// The row of an inserted message.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) position: u64,
    pub(crate) partition: i16,
    pub(crate) size: u64,
    /// How long its delay still lasts.
    pub(crate) wait: Duration,
    /// Whether this process does not read it until its transaction has ended, as the message is handed over then.
    pub(crate) reserved: bool,
}

//! Messages that stand in a transaction which is not committed yet.

use crate::message::Message;

/// Messages inserted by a transaction: say [`committed`](Self::committed) once it is, so that they leave at once.
/// Dropped, they leave when the relay finds them, if they are there.
#[derive(Debug)]
#[must_use]
pub(crate) struct Inserted {
    #[expect(dead_code, reason = "for the relay of this process")]
    pub(crate) positions: Vec<u64>,
}

impl Inserted {
    pub(crate) fn committed(self, messages: Vec<Message>) {
        drop(messages);
    }
}

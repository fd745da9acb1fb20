//! The origin of a message's id.

/// The origin of a message's id.
#[derive(Clone, Copy)]
pub(super) enum Identity {
    /// The id was made with the message.
    Own,
    /// The caller set the id.
    Given,
    /// A retry of the request makes the same id, so the message is stored once.
    Once,
}

/// The origin of an id does not count when messages are compared.
impl PartialEq for Identity {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

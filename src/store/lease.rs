//! Leased messages.

use crate::message::Message;

/// The right to settle one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Lease {
    /// The position of the message.
    pub position: u64,
    /// Distinguishes this lease from every other lease of the same message.
    pub token: u64,
}

impl Lease {
    /// For implementors of a store.
    #[must_use]
    pub fn new(position: u64, token: u64) -> Self {
        Self { position, token }
    }
}

/// A leased message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leased {
    /// The lease, which settles the message.
    pub lease: Lease,
    /// The message.
    pub message: Message,
    /// How many attempts failed.
    pub attempts: u32,
}

impl Leased {
    /// For implementors of a store.
    #[must_use]
    pub fn new(lease: Lease, message: Message, attempts: u32) -> Self {
        Self { lease, message, attempts }
    }
}

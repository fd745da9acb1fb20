//! How far messages are when a send returns.

/// How far messages are when [`send`](crate::messenger::Messenger::send) of a messenger returns `Ok`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The broker has confirmed them.
    #[default]
    Confirmed,
    /// They are in memory, and are sent later.
    Buffered,
    /// They are in a store, and are sent later.
    Stored,
}

impl Stage {
    /// Returns its word in logs and metrics: `confirmed`, `buffered` or `stored`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Buffered => "buffered",
            Self::Stored => "stored",
        }
    }
}

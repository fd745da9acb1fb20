//! Whether a messenger can send.

/// Whether a messenger can send now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Messages can be sent.
    Up,
    /// Messages cannot be sent now.
    Down {
        /// The last error, for a person to read.
        reason: String,
    },
}

impl Health {
    /// Whether messages can be sent.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}

//! The parts of the contract that an engine keeps exactly.

/// The parts of the contract of an [`Engine`](super::Engine) that it keeps exactly. [`exact`](Self::exact) has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineCapabilities {
    /// Whether all that one call settles is settled at once, with what moves to other queues. Otherwise a crash may leave a part, and a
    /// message that was moved may come once more.
    pub settles_at_once: bool,
    /// Whether a purge removes all messages or none. Otherwise a crash may leave a part.
    pub purges_at_once: bool,
    /// Whether a peek leaves out what other processes hold.
    pub peeks_past_holders: bool,
    /// Whether a responder always knows that its answer is late.
    pub knows_late_answers: bool,
    /// Whether a receive without a wait finds what was sent before.
    pub finds_at_once: bool,
    /// Whether several processes can use the same channels.
    pub is_shared: bool,
}

impl EngineCapabilities {
    /// Returns the capabilities of an engine that keeps the whole contract, for one process.
    #[must_use]
    pub fn exact() -> Self {
        Self {
            settles_at_once: true,
            purges_at_once: true,
            peeks_past_holders: true,
            knows_late_answers: true,
            finds_at_once: true,
            is_shared: false,
        }
    }

    /// Returns those of an engine that several processes share, and that keeps the rest of the contract.
    #[must_use]
    pub fn shared() -> Self {
        Self {
            settles_at_once: false,
            purges_at_once: false,
            peeks_past_holders: false,
            knows_late_answers: false,
            finds_at_once: false,
            is_shared: true,
        }
    }
}

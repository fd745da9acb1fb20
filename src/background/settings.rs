//! The bounds of a background buffer.

/// The behaviour of [`Background`](super::Background) when its buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum WhenFull {
    /// The response waits until the buffer has room.
    #[default]
    Wait,
    /// The request is answered 503 before its handler runs ([`Admission`](crate::messenger::Admission)). A request that
    /// enqueues more messages than fit is answered 503 after its handler ran, whatever
    /// [`OnSendFailure`](crate::layer::OnSendFailure) is.
    Refuse,
}

/// The bounds of [`Background`](super::Background).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct BackgroundSettings {
    /// How many messages may wait; 10,000 by default, at least 1.
    pub max_messages: u32,
    /// How many bytes may wait; 64 MiB by default. A batch larger than this alone counts as this much.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::size_u32"))]
    pub max_bytes: u32,
    /// The behaviour when the buffer is full; [`WhenFull::Wait`] by default.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::word"))]
    pub when_full: WhenFull,
}

impl Default for BackgroundSettings {
    fn default() -> Self {
        Self { max_messages: 10_000, max_bytes: 64 << 20, when_full: WhenFull::default() }
    }
}

impl BackgroundSettings {
    /// Sets [`max_messages`](Self::max_messages).
    #[must_use]
    pub fn with_max_messages(mut self, max_messages: u32) -> Self {
        self.max_messages = max_messages;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u32) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets [`when_full`](Self::when_full).
    #[must_use]
    pub fn with_when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }
}

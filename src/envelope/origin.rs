//! The sender that envelopes name.

/// The sender in an envelope.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Origin<'a> {
    pub(crate) organization: Option<&'a str>,
    pub(crate) service: Option<&'a str>,
    pub(crate) event_source: Option<&'a str>,
}

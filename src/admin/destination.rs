//! The brokers, and where on them messages go.

/// Where messages go, as the settings say. No user, password or token is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Destination {
    /// The addresses of the brokers.
    pub(crate) brokers: Vec<String>,
    /// The exchange, topic or address, with the prefix of topics.
    pub(crate) goes_to: Option<String>,
}

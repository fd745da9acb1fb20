//! The durable names that this engine uses.

use std::collections::HashMap;
use std::sync::Mutex;

/// The names that this engine uses.
#[derive(Default)]
pub(super) struct Leases {
    /// By the subject.
    pub(super) own: Mutex<HashMap<String, Own>>,
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// A name that this engine has.
pub(super) struct Own {
    /// The sequence of the message, by which nobody else has written it.
    pub(super) sequence: u64,
    pub(super) is_used: bool,
}

//! The facts about a link.

use crate::routing::Namespace;

/// The link of a router to the designated router of a namespace.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LinkInfo {
    /// The namespace.
    pub namespace: Namespace,
    /// The address of the designated router.
    pub address: String,
    /// Whether messages can be handed over now.
    pub is_up: bool,
    /// The reason for which the link was lost the last time.
    pub last_failure: Option<String>,
}

impl LinkInfo {
    /// For implementors of [`Upstream`](super::Upstream): a link that was not lost yet.
    #[must_use]
    pub fn new(namespace: Namespace, address: String, is_up: bool) -> Self {
        Self { namespace, address, is_up, last_failure: None }
    }
}

//! The links of a router to the designated routers.

use std::collections::HashMap;
use std::sync::Arc;

use super::link::Link;
use crate::routing::Namespace;

/// The links of a router, by their namespaces.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<Namespace, Arc<Link>>);

impl Links {
    pub(super) fn new(links: HashMap<Namespace, Arc<Link>>) -> Self {
        Self(links)
    }

    /// Returns the link of a namespace; `None` if this router has its last values.
    pub(super) fn of(&self, namespace: &Namespace) -> Option<&Arc<Link>> {
        self.0.get(namespace)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.0.values()
    }

    /// Returns how many links there are, and how many are up.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.0.len(), self.0.values().filter(|link| link.is_up()).count())
    }
}

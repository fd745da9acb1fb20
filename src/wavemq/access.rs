//! The rights of clients.

use std::time::SystemTime;

use crate::routing::{GrantTable, Namespace, Pattern, RouteError, Subject, Verb};

/// The grants of a router; without a table everything is allowed.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) grants: Option<GrantTable>,
}

impl Access {
    /// Whether a subject may do this on any URI of the namespace.
    pub(super) fn has_any(&self, subject: Option<&Subject>, verb: Verb, namespace: &Namespace) -> bool {
        let Some(grants) = &self.grants else { return true };
        grants.current().has_any(subject, verb, namespace, SystemTime::now())
    }

    /// Checks whether a subject may do this.
    pub(super) fn check(
        &self,
        subject: Option<&Subject>,
        verb: Verb,
        namespace: &Namespace,
        uris: &Pattern,
    ) -> Result<(), RouteError> {
        let Some(grants) = &self.grants else { return Ok(()) };
        let checked = grants.current().check(subject, verb, namespace, uris, SystemTime::now());
        checked.map_err(|refused| {
            tracing::warn!(%refused, "refused a request");
            RouteError::Refused(refused)
        })
    }
}

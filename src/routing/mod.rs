//! A router for sites: messages on URIs, a queue for each subscriber that outlives power cuts, and the last value of each URI.

mod grant;
mod grant_files;
#[cfg(test)]
mod model;
mod namespace;
mod pattern;
mod subject;
#[cfg_attr(not(test), allow(dead_code, reason = "the router will use it"))]
mod subscriptions;
mod uri;
#[cfg_attr(not(test), allow(dead_code, reason = "the router will use it"))]
mod values;

pub use self::grant::{Grant, Grants, Refused, Verb};
pub use self::grant_files::{GrantError, GrantTable};
pub use self::namespace::{Namespace, NamespaceError};
pub use self::pattern::Pattern;
pub use self::subject::{Subject, SubjectError};
pub use self::uri::{Uri, UriError};

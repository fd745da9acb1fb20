//! The person behind a request.

use std::fmt;
use std::sync::Arc;

/// The name of the operator: the app's own authentication puts it into the extensions of a request, and what they do is kept under this name.
///
/// ```
/// use axum::extract::Request;
/// use axum::middleware::Next;
/// use axum::response::Response;
/// use tower_outbox::admin::Operator;
///
/// async fn operators(mut request: Request, next: Next) -> Response {
///     // After the check of the service:
///     request.extensions_mut().insert(Operator::new("jo@example.com"));
///     next.run(request).await
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator(Arc<str>);

impl Operator {
    /// A person with this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

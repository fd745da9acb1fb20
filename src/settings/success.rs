//! `SUCCESS`: which statuses of a response send the messages of its request.

use http::response::Parts;
use serde::{Deserialize, Serialize};

/// The statuses that count as a success of a request, so that its messages are sent. Consumers acknowledge 2xx only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SuccessStatus {
    /// `"2xx"`, the default.
    #[default]
    #[serde(rename = "2xx")]
    Successful,
    /// `"2xx,3xx"`: for apps that answer a POST with a redirect, as 303 See Other.
    #[serde(rename = "2xx,3xx", alias = "2xx, 3xx")]
    SuccessfulOrRedirect,
}

impl SuccessStatus {
    /// The rule for [`MessagingLayer::with_success`](crate::layer::MessagingLayer::with_success).
    #[must_use]
    pub fn rule(self) -> fn(&Parts) -> bool {
        match self {
            Self::Successful => crate::layer::is_success,
            Self::SuccessfulOrRedirect => {
                |response| response.status.is_redirection() || crate::layer::is_success(response)
            }
        }
    }
}

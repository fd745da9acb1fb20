//! Last values, read at this router or at the designated one.

use std::collections::VecDeque;
use std::fmt::Debug;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::link_info::LinkInfo;
use super::message;
use crate::message::Message;
use crate::routing::{Namespace, Pattern, RouteError, RoutedMessage, Values};

/// Reads last values at the designated routers of an app's router.
#[async_trait]
pub trait Upstream: Debug + Send + Sync + 'static {
    /// Returns the last values of the URIs that a pattern means; `None` if this router keeps those of the namespace itself.
    ///
    /// # Errors
    /// [`RouteError::LinkDown`] while the designated router cannot be reached, [`RouteError::Upstream`] if it refuses.
    async fn query(
        &self,
        namespace: &Namespace,
        pattern: &Pattern,
    ) -> Result<Option<mpsc::Receiver<Result<RoutedMessage, RouteError>>>, RouteError>;

    /// Returns the links to designated routers. By default none is known.
    fn links(&self) -> Vec<LinkInfo> {
        Vec::new()
    }
}

/// The last values that a query has found.
#[derive(Debug)]
pub struct LastValues(Found);

#[derive(Debug)]
enum Found {
    Here(Values, VecDeque<RoutedMessage>),
    There(mpsc::Receiver<Result<RoutedMessage, RouteError>>),
}

impl LastValues {
    pub(super) fn here(values: Values) -> Self {
        Self(Found::Here(values, VecDeque::new()))
    }

    pub(super) fn there(values: mpsc::Receiver<Result<RoutedMessage, RouteError>>) -> Self {
        Self(Found::There(values))
    }

    /// Returns the next value; `None` at the end. A value that cannot be read as a message is left out and logged.
    ///
    /// # Errors
    /// As [`Upstream::query`]; the values end then.
    ///
    /// # Cancel safety
    /// Dropping the future loses no value.
    pub async fn next(&mut self) -> Result<Option<Message>, RouteError> {
        loop {
            let routed = match &mut self.0 {
                Found::Here(values, ahead) => {
                    if ahead.is_empty() {
                        *ahead = values.next().await.into();
                    }
                    ahead.pop_front()
                }
                Found::There(values) => values.recv().await.transpose()?,
            };
            let Some(routed) = routed else { return Ok(None) };
            match message::read(&routed) {
                Ok(message) => return Ok(Some(message)),
                Err(error) => {
                    tracing::warn!(uri = %routed.uri, %error, "a last value cannot be read as a message; it is left out")
                }
            }
        }
    }
}

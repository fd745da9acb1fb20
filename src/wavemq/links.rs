//! The links of a router to the designated routers.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::StreamExt;
use tokio::sync::mpsc;

use super::convert;
use super::link::Link;
use crate::routing::{LinkInfo, Namespace, Pattern, RouteError, RoutedMessage, Upstream};
use crate::wavemq_wire as wire;

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

/// The number of last values that are read ahead for an app.
const AHEAD: usize = 64;

#[async_trait]
impl Upstream for Links {
    async fn query(
        &self,
        namespace: &Namespace,
        pattern: &Pattern,
    ) -> Result<Option<mpsc::Receiver<Result<RoutedMessage, RouteError>>>, RouteError> {
        let Some(link) = self.of(namespace) else { return Ok(None) };
        let mut values = link.query(namespace, pattern).await?.boxed();
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            while let Some(item) = values.next().await {
                let failed = |fault: String| Err(RouteError::Upstream(fault.into()));
                let value = match item {
                    Ok(wire::QueryMessage { message: Some(message), .. }) => {
                        convert::message(message).or_else(failed)
                    }
                    Ok(wire::QueryMessage { error: Some(error), .. }) => failed(error.message),
                    Ok(_) => continue,
                    Err(_) => Err(RouteError::LinkDown),
                };
                if sender.send(value).await.is_err() {
                    return;
                }
            }
        });
        Ok(Some(receiver))
    }

    fn links(&self) -> Vec<LinkInfo> {
        self.iter().map(|link| link.info()).collect()
    }
}

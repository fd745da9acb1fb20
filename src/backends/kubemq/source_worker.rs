//! The task behind a source: connects, receives, and does so again when the connection is lost.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::Connection;
use super::prefetched::Prefetched;
use super::source_context::SourceContext;
use crate::backends::brokers::{ConnectionEnded, Demand, Pauses};
use crate::messenger::Failure;
use crate::util::error::Chain;
use crate::util::repeated::Repeated;

/// Receives over one connection after the other.
pub(super) trait Receiver: Send {
    /// Fills the prefetched messages until the connection is lost, for this reason; `None` when the source is closed.
    fn serve(
        &mut self,
        connection: &Connection,
        demand: &mut watch::Receiver<Demand>,
    ) -> impl Future<Output = Option<Failure>> + Send;

    /// Drops what cannot be settled over another connection.
    fn lost(&mut self);
}

/// Fills the prefetched messages while the source is wanted.
pub(super) struct SourceWorker<R> {
    pub(super) context: Arc<SourceContext>,
    pub(super) prefetched: Arc<Prefetched>,
    pub(super) demand: watch::Receiver<Demand>,
    pub(super) receiver: R,
}

impl<R: Receiver> SourceWorker<R> {
    /// Runs until the source is closed or dropped.
    pub(super) async fn run(mut self) {
        let (mut pauses, unreachable) = (Pauses::default(), Repeated::default());
        while Demand::is_wanted(&mut self.demand).await {
            let opened = tokio::select! {
                opened = self.context.connect() => opened,
                _ = self.demand.changed() => continue,
            };
            let failure = match opened {
                Ok(connection) => {
                    let begun = Instant::now();
                    let end = self.receiver.serve(&connection, &mut self.demand).await;
                    let Some(failure) = end else { continue };
                    connection.lost.cancel();
                    self.receiver.lost();
                    if pauses.lasted(begun.elapsed()) {
                        unreachable.over();
                    }
                    if let Some(line) = unreachable.occurred() {
                        let (channel, error) = (&self.context.reader.channel, Chain(failure.cause()));
                        tracing::warn!(%channel, %error, times = line.times, "lost the connection while receiving; reconnecting");
                    }
                    failure
                }
                Err(failure) => {
                    let (channel, error) = (&self.context.reader.channel, Chain(failure.cause()));
                    if let Some(line) = unreachable.occurred() {
                        tracing::warn!(%channel, %error, times = line.times, "failed to start receiving; retrying");
                    }
                    failure
                }
            };
            if !failure.is_transient() || failure.cause().is::<ConnectionEnded>() {
                self.prefetched.set_error(Some(failure.clone()));
            }
            pauses.after(&failure, &mut self.demand).await;
        }
    }
}

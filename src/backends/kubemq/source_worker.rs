//! The task behind a source: connects, receives, and does so again when the connection is lost.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::connection::Connection;
use super::prefetched::Prefetched;
use super::source_context::SourceContext;
use crate::backends::brokers::ConnectionEnded;
use crate::messenger::Failure;
use crate::util::backoff::Backoff;
use crate::util::error::Chain;
use crate::util::repeated::Repeated;

/// The shortest pause after a fault that a person has to mend.
const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// A connection that lasted this long resets the backoff.
const LIVED: Duration = Duration::from_secs(5);
/// Whether messages are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    Messages,
    Pause,
    Close,
}

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
        let mut failures = 0;
        let unreachable = Repeated::default();
        loop {
            let demand = *self.demand.borrow_and_update();
            if demand == Demand::Close || self.demand.has_changed().is_err() {
                return;
            }
            if demand == Demand::Pause {
                let _ = self.demand.changed().await;
                continue;
            }
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
                    if begun.elapsed() > LIVED {
                        failures = 0;
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
            let mut pause = Backoff::default().delay(failures);
            failures = failures.saturating_add(1);
            if !failure.is_transient() || failure.cause().is::<ConnectionEnded>() {
                pause = pause.max(ERROR_PAUSE);
                self.prefetched.set_error(Some(failure));
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.demand.changed() => {}
            }
        }
    }
}

//! The task behind a source: finds a broker, attaches the link, and does so again when it is lost.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::Receiver;
use fe2o3_amqp::session::SessionHandle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::prefetched::Prefetched;
use super::source_context::SourceContext;
use super::source_link::{End, LinkContext, SourceLink};
use crate::backends::brokers::{Attempts, Demand, Pauses};

/// How long a connection may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Fills the prefetched messages while the source is wanted.
pub(super) struct SourceWorker {
    pub(super) context: Arc<SourceContext>,
    pub(super) prefetched: Arc<Prefetched>,
    pub(super) demand: watch::Receiver<Demand>,
}

impl SourceWorker {
    /// Runs until the source is closed or dropped.
    pub(super) async fn run(mut self) {
        let mut attempts = Attempts::default();
        let mut pauses = Pauses::default();
        while Demand::is_wanted(&mut self.demand).await {
            let failure = match self.context.attach(&mut self.demand).await {
                Ok((connection, session, receiver)) => {
                    self.prefetched.set_error(None);
                    let begun = Instant::now();
                    let end = self.serve(&mut attempts, Arc::clone(&connection), session, receiver).await;
                    // Its messages cannot be settled any more: the broker delivers them again.
                    drop(self.prefetched.take_all());
                    attempts.give_all_back();
                    let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
                    pauses.lasted(begun.elapsed());
                    match end {
                        End::Lost(failure) => {
                            tracing::warn!(address = %self.context.reader.address, %failure, "lost the source link; reconnecting");
                            failure
                        }
                        End::Paused | End::Closed => continue,
                    }
                }
                Err(failure) => failure,
            };
            if !failure.is_transient() {
                self.prefetched.set_error(Some(failure.clone()));
            }
            pauses.after(&failure, &mut self.demand).await;
        }
    }

    async fn serve(
        &mut self,
        attempts: &mut Attempts,
        connection: Arc<Connection>,
        session: SessionHandle<()>,
        receiver: Receiver,
    ) -> End {
        let SourceContext { reader, subscription, .. } = &*self.context;
        let context = LinkContext {
            reader,
            prefetched: &self.prefetched,
            attempts,
            demand: &mut self.demand,
            credit: subscription.credit,
            prefetch_bytes: subscription.prefetch_bytes,
            dead_letter_address: subscription.dead_letter_address.as_deref(),
            reply_addresses: &subscription.reply_addresses,
            durable: subscription.durable.is_some(),
        };
        SourceLink::new(context, connection, session, receiver).serve().await
    }
}

//! The task behind a source: connects to a broker, and does so again when the connection is lost.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{Event, EventLoop};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::failure::end_failure;
use super::session::Session;
use super::source_context::{Opened, SourceContext, Subscribed};
use crate::backends::brokers::{Demand, Pauses};
use crate::messenger::Failure;

/// How long a broker may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Fills the inbox while the source is wanted.
pub(super) struct SourceWorker {
    pub(super) context: Arc<SourceContext>,
    pub(super) demand: watch::Receiver<Demand>,
}

impl SourceWorker {
    /// Runs until the source is closed or dropped.
    pub(super) async fn run(mut self) {
        let (mut pauses, mut is_first, mut _check) = (Pauses::default(), true, None);
        while Demand::is_wanted(&mut self.demand).await {
            let failure = match self.context.open(&mut self.demand, is_first).await {
                Ok(opened) => {
                    if is_first && self.context.urls.len() > 1 {
                        let check = Arc::clone(&self.context).check_cluster();
                        _check = Some(AbortOnDropHandle::new(tokio::spawn(check)));
                    }
                    is_first = false;
                    let begun = Instant::now();
                    let failure = self.serve(opened).await;
                    let unreachable = &self.context.unreachable;
                    if pauses.lasted(begun.elapsed()) {
                        unreachable.over();
                    }
                    let Some(failure) = failure else { continue };
                    if let Some(line) = unreachable.occurred() {
                        let source = &self.context.reader.source;
                        tracing::warn!(%source, %failure, times = line.times, "lost the connection while receiving; reconnecting");
                    }
                    failure
                }
                Err(failure) => failure,
            };
            if !failure.is_transient() {
                self.context.inbox.set_error(Some(failure.clone()));
            }
            pauses.after(&failure, &mut self.demand).await;
        }
    }

    /// Receives until the connection is lost, or the source is closed.
    async fn serve(&mut self, opened: Opened) -> Option<Failure> {
        let Opened { session, events, subscribed } = opened;
        let failure = self.receive(&session, events, subscribed).await;
        // The broker delivers again what is not acknowledged.
        session.end();
        self.context.inbox.drop_stale();
        failure
    }

    async fn receive(
        &mut self,
        session: &Arc<Session>,
        mut events: EventLoop,
        mut subscribed: Subscribed,
    ) -> Option<Failure> {
        let Self { context, demand } = self;
        let inbox = &context.inbox;
        // It is not cancelled before the end of the connection: a packet would be cut off.
        let receive = async {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => inbox.push(publish, session),
                    Ok(_) => {}
                    Err(error) => return end_failure(&error),
                }
            }
        };
        tokio::pin!(receive);
        let mut is_subscribed = false;
        loop {
            match *demand.borrow_and_update() {
                Demand::Messages => session.intake.pause(false),
                Demand::Pause => session.intake.pause(true),
                Demand::Close => break,
            }
            if demand.has_changed().is_err() {
                break;
            }
            tokio::select! {
                biased;
                failure = &mut receive => return Some(failure),
                outcome = &mut subscribed, if !is_subscribed => match outcome {
                    Ok(()) => {
                        is_subscribed = true;
                        inbox.set_error(None);
                    }
                    Err(failure) => return Some(failure),
                },
                () = inbox.due() => inbox.end_waits(),
                _ = demand.changed() => {}
            }
        }
        context.settlements.close();
        session.intake.discard();
        let settled = async {
            context.settlements.wait().await;
            // Brokers do not confirm acknowledgements. But they answer in order, so those before a new subscription have arrived.
            if let Some(answer) = session.subscribe(context.subscribe_filters()) {
                let _ = answer.wait_async().await;
            }
        };
        let finish = async {
            tokio::select! {
                () = settled => {}
                _ = &mut receive => return,
            }
            session.close();
            receive.await;
        };
        let _ = timeout(CLOSE_TIMEOUT, finish).await;
        None
    }
}

//! The task behind a source: connects to a server, and does so again when the connection is lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::ack_subject::AckSubject;
use super::inbox::Holding;
use super::incoming::Raw;
use super::link::{Answer, Pulls, SourceLink};
use super::quarantine::Quarantine;
use super::settle::give_back;
use super::source_context::SourceContext;
use crate::backends::brokers::{Demand, Pauses};
use crate::messenger::Failure;
use crate::util::in_order::join_in_order;

/// How long the last settlements and the server may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest interval between signs of life for unsettled messages.
const MOST_SILENT: Duration = Duration::from_secs(30);

/// Fills the inbox while the source is wanted.
pub(super) struct SourceWorker {
    pub(super) context: Arc<SourceContext>,
    pub(super) demand: watch::Receiver<Demand>,
}

impl SourceWorker {
    /// Runs until the source is closed or dropped.
    pub(super) async fn run(mut self) {
        let (mut pauses, mut is_lost) = (Pauses::default(), false);
        let quarantine = Arc::<Quarantine>::default();
        // A lost connection is made again during a pause too: messages are settled over it.
        loop {
            let demand = *self.demand.borrow_and_update();
            if demand == Demand::Close || self.demand.has_changed().is_err() {
                self.context.settlements.close();
                return;
            }
            let failure = match self.context.open(&mut self.demand).await {
                Ok((link, pulls)) => {
                    self.context.inbox.set_error(None);
                    let begun = Instant::now();
                    let failure = self.serve(link, pulls, is_lost.then(|| Arc::clone(&quarantine))).await;
                    pauses.lasted(begun.elapsed());
                    let Some(failure) = failure else { continue };
                    is_lost = true;
                    if quarantine.take_found() {
                        pauses = Pauses::default();
                    }
                    tracing::warn!(source = %self.context.reader.source, %failure, "lost the connection while receiving; reconnecting");
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
    async fn serve(
        &mut self,
        link: Arc<SourceLink>,
        pulls: Pulls,
        quarantine: Option<Arc<Quarantine>>,
    ) -> Option<Failure> {
        self.context.link.send_replace(Some(Arc::clone(&link)));
        let _look = quarantine.map(|quarantine| {
            let (context, link) = (Arc::clone(&self.context), Arc::clone(&link));
            AbortOnDropHandle::new(tokio::spawn(async move { quarantine.look(&context, &link).await }))
        });
        let failure = self.receive(&link, pulls).await;
        if failure.is_none() {
            self.context.settlements.close();
            self.give_ready_back().await;
            let _ = timeout(CLOSE_TIMEOUT, self.context.settlements.wait()).await;
        }
        self.context.link.send_replace(None);
        link.connection.close().await;
        failure
    }

    async fn receive(&mut self, link: &Arc<SourceLink>, mut pulls: Pulls) -> Option<Failure> {
        let context = Arc::clone(&self.context);
        let generation = link.connection.generation();
        let subscription = &context.subscription;
        let most = (usize::from(subscription.prefetch()), subscription.prefetch_bytes);
        // Three signs of life within the time after which the server delivers a message again.
        let mut signs = interval((link.limits.ack_wait / 3).clamp(Duration::from_millis(100), MOST_SILENT));
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let demand = *self.demand.borrow_and_update();
            match demand {
                Demand::Messages => {
                    if pulls.is_stopped {
                        pulls = match context.pulls(generation, link.limits).await {
                            Ok(pulls) => pulls,
                            Err(failure) => return Some(failure),
                        };
                    }
                    pulls.request(generation, context.inbox.unsettled(), most).await;
                }
                Demand::Pause | Demand::Close => {
                    if !pulls.is_stopped {
                        for (message, ack) in pulls.stop(generation).await {
                            self.arrived(message, ack);
                        }
                    }
                    self.give_ready_back().await;
                }
            }
            if demand == Demand::Close || self.demand.has_changed().is_err() {
                return None;
            }
            tokio::select! {
                biased;
                answer = pulls.next(), if !pulls.is_stopped => {
                    let mut next = Some(answer);
                    while let Some(answer) = next {
                        match answer {
                            Some(Answer::Message(message, ack)) => self.arrived(*message, ack),
                            Some(Answer::Status) => {}
                            Some(Answer::Lost(failure)) => return Some(failure),
                            None => {
                                generation.events.end();
                                return Some(generation.events.failure_of_source());
                            }
                        }
                        next = pulls.next().now_or_never();
                    }
                }
                () = generation.events.ended.cancelled() => return Some(generation.events.failure_of_source()),
                () = context.inbox.freed() => {}
                _ = self.demand.changed() => {}
                _ = signs.tick() => {
                    for reply in context.inbox.replies() {
                        link.in_progress(reply).await;
                    }
                }
            }
        }
    }

    fn arrived(&self, message: Message, ack: AckSubject) {
        let Some(reply) = message.reply else { return };
        let raw =
            Raw { subject: message.subject.to_string(), headers: message.headers, payload: message.payload };
        self.context.inbox.push(raw, ack, reply, message.length);
    }

    /// Returns the messages that the application did not receive.
    async fn give_ready_back(&self) {
        let letters = self.context.inbox.take_ready();
        let all = letters.into_iter().map(|letter| {
            let context = Arc::clone(&self.context);
            async move {
                let holding = Holding::new(&context.inbox, letter.ack.sequence);
                let _ = give_back(&context, holding, Duration::ZERO).await;
            }
        });
        let _ = timeout(CLOSE_TIMEOUT, join_in_order(all)).await;
    }
}

//! A link that sends to one address: its task, and the messages on it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fe2o3_amqp::Sender;
use fe2o3_amqp::link::SendError;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::messaging::Outcome;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::failure::{
    ConnectionGone, LinkLost, NoCredit, NoOutcome, RejectedByBroker, ReleasedByBroker, attach_failure,
    describe, detach_failure, send_failure, session_failure,
};
use super::lifeline::Lifeline;
use super::outgoing::AmqpMessage;
use crate::messenger::Failure;
use crate::telemetry;

/// How long a peer may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A message to send. Its sender gets exactly one reply in every case.
pub(super) struct Job {
    message: AmqpMessage,
    deadline: Instant,
    reply: Reply,
}

/// Joins the messages of one batch and address. After one message is not confirmed, later ones that
/// are not sent yet fail too, so that they do not overtake it.
#[derive(Clone, Default)]
pub(super) struct Sequence(Arc<AtomicBool>);

/// The reply to the sender. If it is dropped, it reports that the link is lost.
struct Reply {
    sender: Option<oneshot::Sender<Result<(), Failure>>>,
    sequence: Option<Sequence>,
}

impl Job {
    pub(super) fn new(
        message: AmqpMessage,
        deadline: Instant,
        sequence: Option<Sequence>,
    ) -> (Self, oneshot::Receiver<Result<(), Failure>>) {
        let (sender, answer) = oneshot::channel();
        (Self { message, deadline, reply: Reply { sender: Some(sender), sequence } }, answer)
    }
}

impl Reply {
    fn answer(mut self, result: Result<(), Failure>) {
        self.give(result);
    }

    fn is_behind_a_failure(&self) -> bool {
        self.sequence.as_ref().is_some_and(|Sequence(broken)| broken.load(Ordering::Relaxed))
    }

    fn give(&mut self, result: Result<(), Failure>) {
        let Some(sender) = self.sender.take() else { return };
        if let (Err(Failure::Transient(_)), Some(Sequence(broken))) = (&result, &self.sequence) {
            broken.store(true, Ordering::Relaxed);
        }
        if let Err(Err(failure)) = sender.send(result) {
            telemetry::lost(1, &format_args!("its sender is gone, and {failure}"));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.give(Err(Failure::transient(LinkLost("it was closed".to_owned()))));
        }
    }
}

/// The options of a link.
pub(super) struct LinkOptions {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) window: usize,
    pub(super) attach_timeout: Duration,
    pub(super) kind: LinkKind,
}

/// The other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// An address of the settings. Its silence means that the connection is lost.
    Topic,
    /// The node of a caller. Its silence is its own.
    Caller,
}

impl LinkOptions {
    /// Ends the connection over the silence of this link.
    fn silent(&self, lifeline: &Lifeline, failure: &Failure) {
        if self.kind == LinkKind::Topic {
            lifeline.cut(failure);
        }
    }
}

/// Attaches a link and sends every job over it, until the jobs end or the link does.
///
/// It has a session of its own: a broker that ends the session over a bad address (RabbitMQ 3.10 does)
/// takes no other address down with it.
pub(super) async fn run(
    mut session: SessionHandle<()>,
    options: LinkOptions,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    lifeline: Lifeline,
) {
    let attach =
        Sender::builder().name(options.name.clone()).target(options.address.clone()).attach(&mut session);
    let failure = match timeout(options.attach_timeout, lifeline.while_alive(attach)).await {
        Ok(Ok(Ok(sender))) => {
            let link = SenderLink {
                session,
                sender: Some(sender),
                options,
                jobs,
                lifeline,
                in_flight: InFlight::default(),
            };
            return link.run().await;
        }
        Ok(Ok(Err(error))) => attach_failure(error),
        Ok(Err(lost)) => lost,
        Err(_) => {
            let failure = Failure::transient(LinkLost(format!(
                "no answer to attach within {:?}",
                options.attach_timeout
            )));
            options.silent(&lifeline, &failure);
            failure
        }
    };
    lifeline.retire_if_over(&failure);
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        job.reply.answer(Err(failure.clone()));
    }
    let _ = timeout(CLOSE_TIMEOUT, session.end()).await;
}

struct SenderLink {
    session: SessionHandle<()>,
    // None once the link is lost.
    sender: Option<Sender>,
    options: LinkOptions,
    jobs: mpsc::UnboundedReceiver<Job>,
    lifeline: Lifeline,
    in_flight: InFlight,
}

type Delivery = Pin<Box<dyn Future<Output = (u64, Result<Outcome, SendError>)> + Send>>;

/// The deliveries whose outcome is awaited, in the order they were sent.
#[derive(Default)]
struct InFlight {
    next: u64,
    replies: BTreeMap<u64, (Instant, Reply)>,
    outcomes: FuturesUnordered<Delivery>,
}

impl SenderLink {
    async fn run(mut self) {
        let failure = loop {
            let Some(sender) = &mut self.sender else { return };
            let oldest = self.in_flight.oldest();
            let room = self.in_flight.replies.len() < self.options.window;
            tokio::select! {
                biased;
                failure = self.lifeline.lost() => break failure,
                Some((number, outcome)) = self.in_flight.outcomes.next() => {
                    if let Err(failure) = self.in_flight.settle(number, outcome) {
                        break failure;
                    }
                }
                result = self.session.on_end() => break session_failure(result),
                error = sender.on_detach() => break detach_failure(error),
                () = overdue(oldest), if oldest.is_some() => {
                    let failure = Failure::transient(NoOutcome);
                    self.options.silent(&self.lifeline, &failure);
                    break failure;
                }
                job = self.jobs.recv(), if room => match job {
                    Some(job) => if let Err(failure) = self.transmit(job).await {
                        break failure;
                    },
                    None => return self.finish().await,
                },
            }
        };
        self.fail(failure).await;
    }

    /// Sends one message; an error means the link is lost.
    async fn transmit(&mut self, job: Job) -> Result<(), Failure> {
        let Job { message, deadline, reply } = job;
        let Some(sender) = &mut self.sender else { return Ok(()) };
        if reply.is_behind_a_failure() {
            reply.answer(Err(Failure::transient("an earlier message of its topic was not confirmed")));
            return Ok(());
        }
        // Waits for the peer's credit.
        let sent = timeout_at(deadline, self.lifeline.while_alive(sender.send_batchable(message))).await;
        let error = match sent {
            Ok(Ok(Ok(delivery))) => {
                self.in_flight.push(deadline, reply, delivery);
                return Ok(());
            }
            Ok(Ok(Err(error))) => error,
            Ok(Err(lost)) => {
                reply.answer(Err(lost.clone()));
                return Err(lost);
            }
            Err(_) => {
                let failure = Failure::transient(NoCredit);
                self.options.silent(&self.lifeline, &failure);
                reply.answer(Err(failure.clone()));
                return Err(failure);
            }
        };
        match error {
            SendError::MessageSizeExceeded(error) => reply.answer(Err(Failure::rejected(error))),
            SendError::MessageEncodeError => reply.answer(Err(Failure::rejected("it cannot be encoded"))),
            error => {
                let failure = send_failure(error);
                reply.answer(Err(failure.clone()));
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Replies to every message of a lost link.
    async fn fail(mut self, mut failure: Failure) {
        self.jobs.close();
        self.lifeline.retire_if_over(&failure);
        if failure.cause().is::<ConnectionGone>()
            && let Ok(reason) = timeout(CLOSE_TIMEOUT, self.lifeline.lost()).await
        {
            failure = reason;
        }
        // Outcomes that arrived before the link was lost still count.
        while let Some(Some((number, outcome))) = self.in_flight.outcomes.next().now_or_never() {
            let _ = self.in_flight.settle(number, outcome);
        }
        for (_, (_, reply)) in std::mem::take(&mut self.in_flight.replies) {
            reply.answer(Err(failure.clone()));
        }
        while let Ok(job) = self.jobs.try_recv() {
            job.reply.answer(Err(failure.clone()));
        }
        drop(self.sender.take());
        let _ = timeout(CLOSE_TIMEOUT, self.session.end()).await;
    }

    /// Awaits every outcome after the last job, then closes link and session.
    async fn finish(mut self) {
        while let Some(oldest) = self.in_flight.oldest() {
            let settled = timeout_at(oldest, self.lifeline.while_alive(self.in_flight.outcomes.next())).await;
            let settled = match settled {
                Ok(Ok(Some((number, outcome)))) => self.in_flight.settle(number, outcome),
                Ok(Ok(None)) => Err(Failure::transient(LinkLost("it was closed".to_owned()))),
                Ok(Err(lost)) => Err(lost),
                Err(_) => Err(Failure::transient(NoOutcome)),
            };
            if let Err(failure) = settled {
                return self.fail(failure).await;
            }
        }
        if let Some(sender) = self.sender.take() {
            // RabbitMQ 3.10 replies with a meaningless error.
            let _ = timeout(CLOSE_TIMEOUT, sender.close()).await;
        }
        let _ = timeout(CLOSE_TIMEOUT, self.session.end()).await;
    }
}

impl InFlight {
    fn push(
        &mut self,
        deadline: Instant,
        reply: Reply,
        delivery: impl Future<Output = Result<Outcome, SendError>> + Send + 'static,
    ) {
        let number = self.next;
        self.next += 1;
        self.replies.insert(number, (deadline, reply));
        self.outcomes.push(Box::pin(async move { (number, delivery.await) }));
    }

    /// When the oldest delivery is overdue. Deadlines rise with the numbers: jobs come in the order they were made.
    fn oldest(&self) -> Option<Instant> {
        self.replies.first_key_value().map(|(_, (deadline, _))| *deadline)
    }

    /// Answers one delivery; an error means the link is lost, and that one is unanswered.
    fn settle(&mut self, number: u64, outcome: Result<Outcome, SendError>) -> Result<(), Failure> {
        let result = match outcome {
            Ok(Outcome::Accepted(_)) => Ok(()),
            Ok(Outcome::Rejected(rejected)) => {
                Err(Failure::rejected(RejectedByBroker(rejected.error.as_ref().map(describe))))
            }
            Ok(Outcome::Released(_)) => Err(Failure::transient(ReleasedByBroker)),
            Ok(Outcome::Modified(_)) => Err(Failure::transient("the broker returned it (modified)")),
            Err(error) => return Err(send_failure(error)),
        };
        if let Some((_, reply)) = self.replies.remove(&number) {
            reply.answer(result);
        }
        Ok(())
    }
}

async fn overdue(oldest: Option<Instant>) {
    if let Some(oldest) = oldest {
        sleep_until(oldest).await;
    }
}

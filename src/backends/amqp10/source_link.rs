//! A link that receives: its credit, and the settlement of its messages.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::{self, AmqpError};
use fe2o3_amqp_types::messaging::{Accepted, Batch, Data, Modified, Rejected, Released};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::credit::CreditWindow;
use super::dead_letters::{DeadLetters, Reply, Sent};
use super::delayed::{Delayed, DelayedDelivery};
use super::failure::{NotSettled, receive_failure, session_failure};
use super::guard::MAX_MESSAGE;
use super::incoming::Reader;
use super::original::joined;
use super::prefetched::{Content, Prefetched, PrefetchedMessage};
use super::replies;
use super::settle::{DeliverySettler, PendingDelivery, SettleRequest};
use crate::backends::brokers::{Attempts, Demand};
use crate::message::{FailedAttempt, Settlement, headers};
use crate::messenger::Failure;
use crate::source::SourceError;
use crate::util::error::Chain;

/// The most retries that are delayed here; the broker delivers further ones again at once.
const MAX_DELAYED: usize = 1_000;
/// The delay of a message that could not be sent to the dead letters.
const DEAD_LETTER_PAUSE: Duration = Duration::from_secs(1);
/// How long a peer may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most settlements that are sent together.
const ANSWERS: usize = 256;
/// The most bytes of a reason that are sent to the broker.
const REASON_LEN: usize = 1_000;

/// The reason for the end of a link.
pub(super) enum End {
    Lost(Failure),
    /// The source is paused, and every message of the link is settled.
    Paused,
    Closed,
}

/// The parts of a source that a link uses.
pub(super) struct LinkContext<'a> {
    pub(super) reader: &'a Reader,
    pub(super) prefetched: &'a Prefetched,
    pub(super) attempts: &'a mut Attempts,
    pub(super) demand: &'a mut watch::Receiver<Demand>,
    pub(super) credit: u32,
    pub(super) prefetch_bytes: usize,
    pub(super) dead_letter_address: Option<&'a str>,
    pub(super) reply_addresses: &'a [String],
    /// Whether the subscription is durable.
    pub(super) durable: bool,
}

/// A link that is attached.
pub(super) struct SourceLink<'a> {
    context: LinkContext<'a>,
    connection: Arc<Connection>,
    session: SessionHandle<()>,
    /// Dropping it would close the link, and its durable subscription with it.
    receiver: ManuallyDrop<Receiver>,
    answers: (mpsc::UnboundedSender<SettleRequest>, mpsc::UnboundedReceiver<SettleRequest>),
    /// The messages that use credit: they arrived, and are neither settled nor delayed.
    held: u32,
    room: CreditWindow,
    delayed: Delayed,
    dead_letters: DeadLetters,
    /// Whether the broker knows `modified`, and so counts attempts.
    modifies: bool,
}

impl<'a> SourceLink<'a> {
    pub(super) fn new(
        context: LinkContext<'a>,
        connection: Arc<Connection>,
        session: SessionHandle<()>,
        receiver: Receiver,
    ) -> Self {
        let modifies = knows_modified(&receiver);
        let room = CreditWindow::new(context.credit, context.prefetch_bytes, connection.held());
        Self {
            context,
            connection,
            session,
            receiver: ManuallyDrop::new(receiver),
            answers: mpsc::unbounded_channel(),
            held: 0,
            room,
            delayed: Delayed::default(),
            dead_letters: DeadLetters::default(),
            modifies,
        }
    }

    /// Receives and settles until the link is lost, or the source is paused or closed.
    pub(super) async fn serve(mut self) -> End {
        let end = loop {
            match self.step().await {
                Ok(None) => {}
                Ok(Some(end)) => break end,
                Err(failure) => break End::Lost(failure),
            }
        };
        let end = match end {
            End::Lost(failure) => End::Lost(failure),
            end => self.finish().await.err().map_or(end, End::Lost),
        };
        self.leave(end).await
    }

    async fn step(&mut self) -> Result<Option<End>, Failure> {
        let demand = *self.context.demand.borrow_and_update();
        match demand {
            _ if self.context.demand.has_changed().is_err() => return Ok(Some(End::Closed)),
            Demand::Close => return Ok(Some(End::Closed)),
            Demand::Pause => {
                self.hand_back().await?;
                if self.held == 0 && self.delayed.len() == 0 {
                    return Ok(Some(End::Paused));
                }
            }
            Demand::Messages => self.grant().await?,
        }
        let mut answers = Vec::new();
        tokio::select! {
            biased;
            failure = self.connection.lifeline().lost() => return Err(failure),
            result = self.session.on_end() => return Err(session_failure(result)),
            _ = self.context.demand.changed() => {}
            _ = self.answers.1.recv_many(&mut answers, ANSWERS) => self.answer(answers).await?,
            Some(sent) = self.dead_letters.next() => self.dead_letter_sent(sent).await?,
            () = self.delayed.wait() => self.end_waits().await?,
            () = self.context.prefetched.emptied() => {}
            // The guard packs every message as data.
            received = self.receiver.recv::<Batch<Data>>() => match received {
                Ok(delivery) => {
                    let (info, message) = delivery.into_parts();
                    self.arrived(info, joined(message.body.into_iter()));
                }
                Err(RecvError::MessageDecode(dropped)) => self.no_message_of(dropped.info).await?,
                Err(error) => return Err(receive_failure(error)),
            }
        }
        Ok(None)
    }

    /// Grants credit once all granted credit is used.
    ///
    /// RabbitMQ 3.10 exceeds its credit when it gets credit while it has some, and the client library drops the
    /// excess. A grant costs a round trip, so it waits for more than a few free places while messages are prefetched.
    async fn grant(&mut self) -> Result<(), Failure> {
        let (room, few) = self.room.more(self.held);
        if room == 0 || (few && !self.context.prefetched.is_empty()) || self.receiver.credit() > 0 {
            return Ok(());
        }
        self.room.granted();
        self.receiver.set_credit(room).await.map_err(unsettled)
    }

    /// The guard dropped the message: the memory limit was reached, or its sender aborted it.
    async fn no_message_of(&mut self, info: DeliveryInfo) -> Result<(), Failure> {
        tracing::warn!(address = %self.context.reader.address, limit = self.context.prefetch_bytes, "returned a message unread: PREFETCH_BYTES are used up, or its sender aborted it");
        self.receiver.dispose(info, Released {}).await.map_err(unsettled)
    }

    fn arrived(&mut self, info: DeliveryInfo, message: Bytes) {
        let size = message.len();
        self.room.arrived(size);
        if message.len() > MAX_MESSAGE {
            let reason = format!("it is larger than {MAX_MESSAGE} bytes, and was not received completely");
            let letter = PendingDelivery { info, record: None, attempt: 1, size, original: None };
            return self.fetched(letter, Err(reason.into()));
        }
        let (original, message) = self.context.reader.read(message, !self.modifies);
        let attempts = &mut *self.context.attempts;
        let comes_again = message.is_ok() && !original.is_first() && !attempts.is_empty();
        let record = if comes_again { attempts.take(original.content()) } else { None };
        let failed = attempts.count(record).max(original.delivery_count());
        let attempt = failed.saturating_add(1);
        let content = message.map(|message| Content {
            message,
            attempt,
            redelivered: attempt > 1 || !original.is_first(),
            failures: [&original.foreign_failures(&self.context.reader.address), attempts.last(record)]
                .concat(),
            reply_to: replies::reply_to(&original, self.context.reply_addresses, Instant::now()),
        });
        self.fetched(PendingDelivery { info, record, attempt, size, original: Some(original) }, content);
    }

    fn fetched(&mut self, letter: PendingDelivery, content: Result<Content, Arc<str>>) {
        self.held += 1;
        self.context.prefetched.push(PrefetchedMessage {
            content,
            ticket: DeliverySettler {
                letter,
                connection: Arc::clone(&self.connection),
                source: Arc::clone(&self.context.reader.address),
                answers: self.answers.0.clone(),
            },
        });
    }

    /// Frees the credit and the memory of a message.
    fn let_go(&mut self, size: usize) {
        self.held -= 1;
        self.room.left(size);
    }

    async fn answer(&mut self, answers: Vec<SettleRequest>) -> Result<(), Failure> {
        let (mut accepted, mut released, mut given) = (Vec::new(), Vec::new(), Vec::new());
        for SettleRequest { letter, settlement, reply } in answers {
            match settlement {
                Settlement::Ack | Settlement::Discard => {
                    self.let_go(letter.size);
                    self.context.attempts.forget(letter.record);
                    accepted.push(letter.info);
                }
                Settlement::Release => {
                    self.let_go(letter.size);
                    self.context.attempts.give_back(letter.record);
                    released.push(letter.info);
                }
                Settlement::Retry { after, reason } => {
                    let record = letter.original.map(|original| {
                        self.context.attempts.failed(letter.record, original.content(), reason)
                    });
                    self.let_go(letter.size);
                    self.retry(letter.info, record, after).await?;
                }
                Settlement::Reject { reason } => {
                    self.reject(letter, &reason, reply).await?;
                    continue;
                }
            }
            given.push(reply);
        }
        self.receiver.accept_all(accepted).await.map_err(unsettled)?;
        self.receiver.release_all(released).await.map_err(unsettled)?;
        for reply in given {
            let _ = reply.send(Ok(()));
        }
        Ok(())
    }

    /// Brokers deliver a returned message again at once: so it stays here until it is due, unsettled and without credit.
    async fn retry(
        &mut self,
        info: DeliveryInfo,
        record: Option<u64>,
        after: Duration,
    ) -> Result<(), Failure> {
        let outcome = match self.modifies {
            true => Modified {
                delivery_failed: Some(true),
                undeliverable_here: Some(false),
                message_annotations: None,
            }
            .into(),
            false => Released {}.into(),
        };
        if self.delayed.len() < MAX_DELAYED {
            self.delayed.insert(after, (info, outcome, record));
            return Ok(());
        }
        tracing::warn!(address = %self.context.reader.address, limit = MAX_DELAYED, "too many delayed retries; the broker delivers the message again at once");
        self.give_back((info, outcome, record)).await
    }

    async fn give_back(&mut self, (info, outcome, record): DelayedDelivery) -> Result<(), Failure> {
        self.context.attempts.give_back(record);
        self.receiver.dispose(info, outcome).await.map_err(unsettled)
    }

    async fn end_waits(&mut self) -> Result<(), Failure> {
        while let Some(held) = self.delayed.pop_due() {
            self.give_back(held).await?;
        }
        Ok(())
    }

    async fn reject(
        &mut self,
        mut letter: PendingDelivery,
        reason: &Arc<str>,
        reply: Reply,
    ) -> Result<(), Failure> {
        if let Some(address) = self.context.dead_letter_address
            && let Some(original) = letter.original.take()
        {
            let mut history = self.context.attempts.last(letter.record).to_vec();
            history.push(FailedAttempt::new(SystemTime::now(), Arc::clone(reason)));
            let (reader, attempt) = (self.context.reader, letter.attempt);
            let topic = reader.topic(&original);
            let message =
                original.into_dead_letter(&reader.address, topic.as_ref(), attempt, &history, reason);
            self.dead_letters.send(&self.connection, address, message, letter, reply);
            return Ok(());
        }
        let description = headers::start_of(reason, REASON_LEN).to_owned();
        let error = definitions::Error::new(AmqpError::PreconditionFailed, description, None);
        self.context.attempts.forget(letter.record);
        self.let_go(letter.size);
        self.receiver.dispose(letter.info, Rejected { error: Some(error) }).await.map_err(unsettled)?;
        let _ = reply.send(Ok(()));
        Ok(())
    }

    async fn dead_letter_sent(&mut self, sent: Sent) -> Result<(), Failure> {
        let Sent { letter, reply, result } = sent;
        self.let_go(letter.size);
        let Err(failure) = result else {
            self.context.attempts.forget(letter.record);
            self.receiver.dispose(letter.info, Accepted {}).await.map_err(unsettled)?;
            let _ = reply.send(Ok(()));
            return Ok(());
        };
        let cause = Chain(failure.cause()).to_string();
        tracing::warn!(address = self.context.dead_letter_address, %cause, "failed to send a message to DEAD_LETTER_ADDRESS; the broker delivers it again");
        self.delayed.insert(DEAD_LETTER_PAUSE, (letter.info, Released {}.into(), letter.record));
        let _ = reply.send(Err(SourceError::unavailable(cause)));
        Ok(())
    }

    /// Releases the prefetched messages.
    async fn hand_back(&mut self) -> Result<(), Failure> {
        let mut infos = Vec::new();
        for fetched in self.context.prefetched.take_all() {
            let letter = fetched.ticket.letter;
            self.let_go(letter.size);
            self.context.attempts.give_back(letter.record);
            infos.push(letter.info);
        }
        self.receiver.release_all(infos).await.map_err(unsettled)
    }

    /// Sends every settlement that was requested.
    async fn finish(&mut self) -> Result<(), Failure> {
        self.hand_back().await?;
        loop {
            let mut answers = Vec::new();
            while let Ok(answered) = self.answers.1.try_recv() {
                answers.push(answered);
            }
            self.answer(answers).await?;
            let lifeline = self.connection.lifeline();
            match lifeline.while_alive(self.dead_letters.next()).await? {
                Some(sent) => self.dead_letter_sent(sent).await?,
                None => break,
            }
        }
        while let Some(held) = self.delayed.pop() {
            self.give_back(held).await?;
        }
        Ok(())
    }

    async fn leave(mut self, end: End) -> End {
        // Dead letters in flight end with the connection; their outcomes do not matter any more.
        let _ = timeout(CLOSE_TIMEOUT, async { while self.dead_letters.next().await.is_some() {} }).await;
        let receiver = ManuallyDrop::into_inner(self.receiver);
        let farewell = async {
            if self.context.durable {
                drop(receiver.detach().await);
            } else {
                // RabbitMQ 3.10 replies with a meaningless error.
                let _ = receiver.close().await;
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
        let _ = timeout(CLOSE_TIMEOUT, self.session.end()).await;
        end
    }
}

/// RabbitMQ 3.10 lists the outcomes it supports, without `modified`, and misbehaves when it gets that one.
pub(super) fn knows_modified(receiver: &Receiver) -> bool {
    let outcomes = receiver.source().as_ref().and_then(|source| source.outcomes.as_ref());
    outcomes.is_none_or(|known| known.0.is_empty() || known.0.iter().any(|it| it.0 == "amqp:modified:list"))
}

fn unsettled(error: impl std::fmt::Display) -> Failure {
    Failure::transient(NotSettled(error.to_string()))
}

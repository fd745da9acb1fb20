//! A link that messages come over: its credit, and the answers to them.

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
use tokio::time::timeout;

use super::attempts::Attempts;
use super::connection::Connection;
use super::dead_letters::{DeadLetters, Reply, Sent};
use super::failure::{Unsettled, receive_failure, session_failure};
use super::guard::MAX_MESSAGE;
use super::inbox::{Content, Fetched, Inbox};
use super::reading::{Reader, joined};
use super::room::Room;
use super::settle::{Answered, Letter, Ticket};
use super::waiting::{Held, Waiting};
use crate::message::FailedAttempt;
use crate::message::Settlement;
use crate::message::headers;
use crate::messenger::Failure;
use crate::source::SourceError;
use crate::util::error::Chain;

/// How many messages may wait here for their retry; beyond that they come again at once.
const MAX_WAITING: usize = 1_000;
/// How long a message stays here that could not be sent to the dead letters.
const DEAD_LETTER_PAUSE: Duration = Duration::from_secs(1);
/// How long a peer may take to answer a farewell.
const FAREWELL: Duration = Duration::from_secs(2);
/// How many answers are carried out together.
const ANSWERS: usize = 256;
/// How many bytes of a reason a broker is told.
const REASON_LEN: usize = 1_000;

/// What is wanted of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    Messages,
    Pause,
    Close,
}

/// Why a link is given up.
pub(super) enum End {
    Lost(Failure),
    /// It is not wanted, and everything that came over it is answered.
    Paused,
    Closed,
}

/// What a link serves, and how.
pub(super) struct Served<'a> {
    pub(super) reader: &'a Reader,
    pub(super) inbox: &'a Inbox,
    pub(super) attempts: &'a mut Attempts,
    pub(super) demand: &'a mut watch::Receiver<Demand>,
    pub(super) credit: u32,
    pub(super) prefetch_bytes: usize,
    pub(super) dead_letter_address: Option<&'a str>,
    /// Whether the link is to be found again.
    pub(super) durable: bool,
}

/// A link that is attached.
pub(super) struct Link<'a> {
    served: Served<'a>,
    connection: Arc<Connection>,
    session: SessionHandle<()>,
    /// Never just dropped: that would close the link, and its durable subscription with it.
    receiver: ManuallyDrop<Receiver>,
    answers: (mpsc::UnboundedSender<Answered>, mpsc::UnboundedReceiver<Answered>),
    /// How many hold credit: they came, and are neither answered nor waiting.
    held: u32,
    room: Room,
    waiting: Waiting,
    dead_letters: DeadLetters,
    /// Whether the broker knows `modified`, and so counts attempts.
    modifies: bool,
}

impl<'a> Link<'a> {
    pub(super) fn new(
        served: Served<'a>,
        connection: Arc<Connection>,
        session: SessionHandle<()>,
        receiver: Receiver,
    ) -> Self {
        let modifies = knows_modified(&receiver);
        let room = Room::new(served.credit, served.prefetch_bytes, connection.held());
        Self {
            served,
            connection,
            session,
            receiver: ManuallyDrop::new(receiver),
            answers: mpsc::unbounded_channel(),
            held: 0,
            room,
            waiting: Waiting::default(),
            dead_letters: DeadLetters::default(),
            modifies,
        }
    }

    /// Receives and answers, until the link is lost or no more wanted.
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
        let demand = *self.served.demand.borrow_and_update();
        match demand {
            _ if self.served.demand.has_changed().is_err() => return Ok(Some(End::Closed)),
            Demand::Close => return Ok(Some(End::Closed)),
            Demand::Pause => {
                self.hand_back().await?;
                if self.held == 0 && self.waiting.len() == 0 {
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
            _ = self.served.demand.changed() => {}
            _ = self.answers.1.recv_many(&mut answers, ANSWERS) => self.answer(answers).await?,
            Some(sent) = self.dead_letters.next() => self.dead_letter_sent(sent).await?,
            () = self.waiting.wait() => self.end_waits().await?,
            () = self.served.inbox.emptied() => {}
            // Whatever was sent, it comes as data: the guard packs it so.
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

    /// Lets more come once all that may come has come.
    ///
    /// Not sooner: RabbitMQ 3.10 sends more than it may when it is given credit while it has some, which the client
    /// library drops. And not for a few, while there are others to take: each grant costs a round trip.
    async fn grant(&mut self) -> Result<(), Failure> {
        let (room, few) = self.room.more(self.held);
        if room == 0 || (few && !self.served.inbox.is_empty()) || self.receiver.credit() > 0 {
            return Ok(());
        }
        self.room.granted();
        self.receiver.set_credit(room).await.map_err(unsettled)
    }

    /// The guard dropped it: too much was here, or its sender broke it off.
    async fn no_message_of(&mut self, info: DeliveryInfo) -> Result<(), Failure> {
        tracing::warn!(address = %self.served.reader.address, limit = self.served.prefetch_bytes, "a message was handed back unread: there was no room for it, or its sender broke it off");
        self.receiver.dispose(info, Released {}).await.map_err(unsettled)
    }

    fn arrived(&mut self, info: DeliveryInfo, message: Bytes) {
        let size = message.len();
        self.room.arrived(size);
        if message.len() > MAX_MESSAGE {
            let reason = format!("it is larger than {MAX_MESSAGE} bytes, and was not received whole");
            let letter = Letter { info, record: None, attempt: 1, size, original: None };
            return self.fetched(letter, Err(reason.into()));
        }
        let (original, message) = self.served.reader.read(message, !self.modifies);
        let attempts = &mut *self.served.attempts;
        let comes_again = message.is_ok() && !original.is_first() && !attempts.is_empty();
        let record = if comes_again { attempts.take(original.content()) } else { None };
        let failed = attempts.count(record).max(original.delivery_count());
        let attempt = failed.saturating_add(1);
        let content = message.map(|message| Content {
            message,
            attempt,
            redelivered: attempt > 1 || !original.is_first(),
            failures: [&original.told_failures(&self.served.reader.address), attempts.last(record)].concat(),
        });
        self.fetched(Letter { info, record, attempt, size, original: Some(original) }, content);
    }

    fn fetched(&mut self, letter: Letter, content: Result<Content, Arc<str>>) {
        self.held += 1;
        self.served
            .inbox
            .push(Fetched { content, ticket: Ticket { letter, answers: self.answers.0.clone() } });
    }

    /// Its content is no longer here.
    fn let_go(&mut self, size: usize) {
        self.held -= 1;
        self.room.left(size);
    }

    async fn answer(&mut self, answers: Vec<Answered>) -> Result<(), Failure> {
        let (mut accepted, mut released, mut given) = (Vec::new(), Vec::new(), Vec::new());
        for Answered { letter, settlement, reply } in answers {
            match settlement {
                Settlement::Ack | Settlement::Discard => {
                    self.let_go(letter.size);
                    self.served.attempts.forget(letter.record);
                    accepted.push(letter.info);
                }
                Settlement::Release => {
                    self.let_go(letter.size);
                    self.served.attempts.give_back(letter.record);
                    released.push(letter.info);
                }
                Settlement::Retry { after, reason } => {
                    let record = letter.original.map(|original| {
                        self.served.attempts.failed(letter.record, original.content(), reason)
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

    /// Brokers give a message again at once: it stays here, unsettled and without holding credit, until it is due.
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
        if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(after, (info, outcome, record));
            return Ok(());
        }
        tracing::warn!(address = %self.served.reader.address, limit = MAX_WAITING, "too many messages wait for their retry: one comes again at once");
        self.give_back((info, outcome, record)).await
    }

    async fn give_back(&mut self, (info, outcome, record): Held) -> Result<(), Failure> {
        self.served.attempts.give_back(record);
        self.receiver.dispose(info, outcome).await.map_err(unsettled)
    }

    async fn end_waits(&mut self) -> Result<(), Failure> {
        while let Some(held) = self.waiting.pop_due() {
            self.give_back(held).await?;
        }
        Ok(())
    }

    async fn reject(&mut self, mut letter: Letter, reason: &Arc<str>, reply: Reply) -> Result<(), Failure> {
        if let Some(address) = self.served.dead_letter_address
            && let Some(original) = letter.original.take()
        {
            let mut history = self.served.attempts.last(letter.record).to_vec();
            history.push(FailedAttempt::new(SystemTime::now(), Arc::clone(reason)));
            let message = original.into_dead_letter(self.served.reader, letter.attempt, &history, reason);
            self.dead_letters.send(&self.connection, address, message, letter, reply);
            return Ok(());
        }
        let description = headers::start_of(reason, REASON_LEN).to_owned();
        let error = definitions::Error::new(AmqpError::PreconditionFailed, description, None);
        self.served.attempts.forget(letter.record);
        self.let_go(letter.size);
        self.receiver.dispose(letter.info, Rejected { error: Some(error) }).await.map_err(unsettled)?;
        let _ = reply.send(Ok(()));
        Ok(())
    }

    async fn dead_letter_sent(&mut self, sent: Sent) -> Result<(), Failure> {
        let Sent { letter, reply, result } = sent;
        self.let_go(letter.size);
        let Err(failure) = result else {
            self.served.attempts.forget(letter.record);
            self.receiver.dispose(letter.info, Accepted {}).await.map_err(unsettled)?;
            let _ = reply.send(Ok(()));
            return Ok(());
        };
        let cause = Chain(failure.cause()).to_string();
        tracing::warn!(address = self.served.dead_letter_address, %cause, "a message could not be sent to the dead letters: it comes again");
        self.waiting.insert(DEAD_LETTER_PAUSE, (letter.info, Released {}.into(), letter.record));
        let _ = reply.send(Err(SourceError::unavailable(cause)));
        Ok(())
    }

    /// Releases what nobody was given.
    async fn hand_back(&mut self) -> Result<(), Failure> {
        let mut infos = Vec::new();
        for fetched in self.served.inbox.take_all() {
            let letter = fetched.ticket.letter;
            self.let_go(letter.size);
            self.served.attempts.give_back(letter.record);
            infos.push(letter.info);
        }
        self.receiver.release_all(infos).await.map_err(unsettled)
    }

    /// Gives every answer there is.
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
        while let Some(held) = self.waiting.pop() {
            self.give_back(held).await?;
        }
        Ok(())
    }

    async fn leave(mut self, end: End) -> End {
        // What is on its way to the dead letters ends with the connection; its outcome says nothing any more.
        let _ = timeout(FAREWELL, async { while self.dead_letters.next().await.is_some() {} }).await;
        let receiver = ManuallyDrop::into_inner(self.receiver);
        let farewell = async {
            if self.served.durable {
                drop(receiver.detach().await);
            } else {
                // RabbitMQ 3.10 answers with an error that means nothing.
                let _ = receiver.close().await;
            }
        };
        let _ = timeout(FAREWELL, farewell).await;
        let _ = timeout(FAREWELL, self.session.end()).await;
        end
    }
}

/// RabbitMQ 3.10 lists what it knows, without `modified`, and goes wrong when it is told that.
pub(super) fn knows_modified(receiver: &Receiver) -> bool {
    let outcomes = receiver.source().as_ref().and_then(|source| source.outcomes.as_ref());
    outcomes.is_none_or(|known| known.0.is_empty() || known.0.iter().any(|it| it.0 == "amqp:modified:list"))
}

fn unsettled(error: impl std::fmt::Display) -> Failure {
    Failure::transient(Unsettled(error.to_string()))
}

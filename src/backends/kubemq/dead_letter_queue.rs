//! The dead letters in a queue, and how they are requeued.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::connection::{self, Connection};
use super::dead_letters;
use super::incoming::{Incoming, Reader};
use super::receiver_link::{ReceiverLink, Transaction};
use super::settings::KubemqSettings;
use crate::backends::brokers::Dialer;
use crate::message::headers::{QUEUE, REASON};
use crate::messenger::Failure;
use crate::source::dead_letters::{DeadLetter, DeadLetterQueue, DeadLettersError, Target};
use crate::util::error::Chain;

/// How long a request for a message waits at the broker.
const WAIT: Duration = Duration::from_secs(1);
/// The queue is empty when no message arrives for so long. KubeMQ has no count of messages.
const IDLE: Duration = Duration::from_secs(2);

/// A queue of dead letters. Each message is in a transaction of its own; those that are neither requeued nor removed return to their position,
/// without an attempt counted, when the transaction or the connection ends.
pub(crate) struct KubemqDeadLetters {
    connection: Connection,
    client_id: String,
    reader: Reader,
    link: Arc<ReceiverLink>,
    passed: Vec<Transaction>,
    current: Option<(Transaction, Incoming)>,
}

impl KubemqDeadLetters {
    pub(crate) async fn open(
        settings: KubemqSettings,
        queue: String,
        _: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        let (urls, tls) = settings.check().map_err(|error| DeadLettersError::Broker(error.into()))?;
        let opened = connection::open_any(&settings, &Arc::new(Dialer::new(tls)), &urls).await;
        let (connection, _) =
            opened.map_err(|failure| DeadLettersError::Unreachable(Chain(failure.cause()).to_string()))?;
        let client_id = settings.client_id().to_owned();
        let link = Arc::new(ReceiverLink::open(&connection, client_id.as_str().into()));
        let reader = Reader {
            channel: queue.into(),
            topic_prefix: settings.broker.topic_prefix.clone(),
            envelope: settings.broker.envelope,
            content_type: None,
        };
        Ok(Box::new(Self { connection, client_id, reader, link, passed: Vec::new(), current: None }))
    }

    fn view(&self, incoming: &Incoming) -> DeadLetter {
        let failures = incoming.foreign_failures(&self.reader.channel);
        DeadLetter {
            message: self.reader.read(incoming).map_err(|reason| reason.to_string()),
            reason: incoming.tags.get(REASON).cloned(),
            attempts: u32::try_from(failures.len()).unwrap_or(u32::MAX),
            failures,
            headers: incoming.tags.clone(),
        }
    }

    fn take_current(&mut self) -> Result<(Transaction, Incoming), DeadLettersError> {
        self.current.take().ok_or_else(|| DeadLettersError::Broker("no dead letter was taken".into()))
    }
}

#[async_trait]
impl DeadLetterQueue for KubemqDeadLetters {
    fn left(&self) -> Option<u64> {
        None
    }

    fn caution(&self) -> Option<String> {
        None
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, DeadLettersError> {
        self.passed.extend(self.current.take().map(|(transaction, _)| transaction));
        self.link.reserve();
        // A message that comes after that goes back.
        let got = timeout(IDLE, self.link.get(&self.reader.channel, || WAIT)).await;
        let Ok(got) = got else { return Ok(None) };
        let (transaction, message) = got.map_err(|failure| fault(&failure))?;
        let incoming = Incoming::from(message);
        let view = self.view(&incoming);
        self.current = Some((transaction, incoming));
        Ok(Some(view))
    }

    /// The queue in its tag, if this one is for its dead letters.
    fn target(&self, also: &[String]) -> Result<Target, DeadLettersError> {
        let named = self.current.as_ref().and_then(|(_, incoming)| incoming.tags.get(QUEUE));
        let named = named.ok_or(DeadLettersError::NoTarget)?;
        match self.reader.channel.strip_suffix(".dead") == Some(named) || also.contains(named) {
            true => Ok(self.named(named)),
            false => Err(DeadLettersError::Foreign(named.clone())),
        }
    }

    fn named(&self, to: &str) -> Target {
        Target::Queue { queue: to.to_owned() }
    }

    async fn requeue(&mut self, target: Target) -> Result<(), DeadLettersError> {
        let Target::Queue { queue } = &target else {
            let reason = "KubeMQ has no exchanges; give --to".to_owned();
            return Err(DeadLettersError::NotTaken { target, reason });
        };
        let (mut transaction, incoming) = self.take_current()?;
        let message = incoming.into_requeued(&self.client_id, queue);
        match dead_letters::send(&self.connection, message).await {
            Ok(()) => transaction.ack().await.map_err(|failure| fault(&failure)),
            Err(failure) => {
                let reason = Chain(failure.cause()).to_string();
                Err(DeadLettersError::NotTaken { target, reason })
            }
        }
    }

    async fn remove(&mut self) -> Result<(), DeadLettersError> {
        let (mut transaction, _) = self.take_current()?;
        transaction.ack().await.map_err(|failure| fault(&failure))
    }

    /// Waits until the others are back, so that the next command sees them.
    async fn close(mut self: Box<Self>) {
        self.passed.extend(self.current.take().map(|(transaction, _)| transaction));
        for transaction in &mut self.passed {
            if transaction.release().await.is_err() {
                break;
            }
        }
        self.connection.lost.cancel();
    }
}

fn fault(failure: &Failure) -> DeadLettersError {
    DeadLettersError::Broker(Chain(failure.cause()).to_string().into())
}

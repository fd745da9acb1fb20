//! Requests for messages of a consumer.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::error::Fault;
use crate::backends::brokers::{Requests, withdraw};
use crate::channels::content::MOST_BYTES;
use crate::channels::error::EngineError;

/// How long an answer may take beyond the time of its request.
const SLACK: Duration = Duration::from_secs(3);
/// How often a server says that a long request still waits.
const SIGNS: Duration = Duration::from_secs(3);
/// How long a server may take to withdraw a request.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The most messages about requests that can be on their way.
const MOST_SIGNS: u64 = 8;
/// The longest request that waits for a message. Others follow it.
pub(super) const LONGEST: Duration = Duration::from_secs(20);

/// A message that a consumer delivered to this engine.
pub(super) struct Pulled {
    pub(super) message: Message,
    /// Where it is settled.
    pub(super) reply: Subject,
    pub(super) sequence: u64,
    /// The number of this delivery, from 1.
    pub(super) delivered: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub(super) time: u64,
    /// The messages that follow and were not delivered yet.
    pub(super) pending: u64,
}

impl Pulled {
    fn read(message: Message) -> Result<Self, Box<Message>> {
        let Some(reply) = message.reply.clone() else { return Err(Box::new(message)) };
        let mut words = reply.strip_prefix("$JS.ACK.").unwrap_or_default().split('.');
        // With the domain and the account before, and a random word after.
        if words.clone().count() > 7 {
            words.next();
            words.next();
        }
        let mut numbers = words.skip(2).map(|word| word.parse::<u64>().ok());
        let mut number = || numbers.next().flatten();
        match (number(), number(), number(), number(), number()) {
            (Some(delivered), Some(sequence), Some(_), Some(time), Some(pending)) => {
                Ok(Self { message, reply, sequence, delivered, time, pending })
            }
            _ => Err(Box::new(message)),
        }
    }

    /// The last word of the subject.
    pub(super) fn last_word(&self) -> &str {
        self.message.subject.rsplit('.').next().unwrap_or_default()
    }
}

/// Requests messages of one consumer, one request at a time.
pub(super) struct Puller {
    answers: Subscriber,
    /// How many messages of all kinds were read.
    read: u64,
    inbox: String,
    /// The number of the last request. Its answers have it in their subject: the server also says that a batch is complete, which comes
    /// while the answer to the next request is awaited.
    request: u64,
    /// How many messages of the last request did not come.
    missing: u64,
    /// The stream and the consumer.
    place: (String, String),
    subject: String,
    /// How often the connection was lost when it was opened.
    losses: u64,
    /// Whether nothing of an earlier request can come.
    is_clean: bool,
    /// Whether a request did not end in order: its messages may come at any time.
    is_spoiled: bool,
}

impl Puller {
    pub(super) async fn open(connection: &Connection, stream: &str, consumer: &str) -> Result<Self, Fault> {
        let (losses, client) = (connection.losses(), connection.client());
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await;
        Ok(Self {
            answers: answers.map_err(EngineError::unavailable)?,
            read: 0,
            inbox,
            request: 0,
            missing: 0,
            place: (stream.to_owned(), consumer.to_owned()),
            subject: connection.next_subject(stream, consumer),
            losses,
            is_clean: true,
            is_spoiled: false,
        })
    }

    pub(super) fn is_clean(&self) -> bool {
        self.is_clean && !self.is_spoiled
    }

    /// Whether the connection has not been lost since.
    pub(super) fn is_of(&self, connection: &Connection) -> bool {
        self.losses == connection.losses()
    }

    /// Requests up to `batch` messages that are there now, or with `wait` those that come meanwhile. It ends early when the connection is lost,
    /// and one that waits when `cancel` is; messages may come later then.
    pub(super) async fn pull(
        &mut self,
        connection: &Connection,
        batch: usize,
        wait: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<Vec<Pulled>, Fault> {
        let mut request = serde_json::json!({"batch": batch, "max_bytes": MOST_BYTES});
        match wait {
            Some(wait) => request["expires"] = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX).into(),
            None => request["no_wait"] = true.into(),
        }
        // A consumer whose leader was killed says nothing any more.
        let has_signs = wait.is_some_and(|wait| wait > SIGNS * 2);
        if has_signs {
            request["idle_heartbeat"] = u64::try_from(SIGNS.as_nanos()).unwrap_or(u64::MAX).into();
        }
        let losses = connection.losses();
        let payload = Bytes::from(request.to_string());
        self.request += 1;
        let (client, reply) = (connection.client(), format!("{}.{}", self.inbox, self.request));
        let sent = client.publish_with_reply(self.subject.clone(), reply.clone(), payload);
        sent.await.map_err(EngineError::unavailable)?;
        let until = |wait: Duration| Instant::now() + wait + SLACK;
        let quiet = if has_signs { SIGNS * 2 } else { wait.unwrap_or_default() };
        let mut deadline = until(quiet);
        let mut pulled = Vec::new();
        self.is_clean = false;
        loop {
            let message = tokio::select! {
                biased;
                message = self.answers.next() => {
                    if message.is_none() {
                        connection.suspects.add(&self.place);
                    }
                    message
                }
                () = connection.lost(losses) => {
                    connection.suspects.add(&self.place);
                    None
                }
                // Messages that are there come at once, and in their order only if all are read.
                () = cancel.cancelled(), if wait.is_some() => None,
                () = sleep_until(deadline) => None,
            };
            let Some(message) = message else {
                self.is_spoiled = true;
                self.missing = batch.saturating_sub(pulled.len()) as u64;
                return Ok(pulled);
            };
            self.read += 1;
            deadline = until(quiet);
            let message = match Pulled::read(message) {
                Ok(one) => {
                    pulled.push(one);
                    if pulled.len() == batch {
                        break;
                    }
                    continue;
                }
                Err(message) => message,
            };
            match message.status {
                None | Some(StatusCode::IDLE_HEARTBEAT) => continue,
                Some(_) if *message.subject != *reply => continue,
                Some(StatusCode::NO_RESPONDERS) if pulled.is_empty() => {
                    self.is_clean = true;
                    return Err(Fault::NoResponders);
                }
                Some(_) => {
                    let text = message.description.as_deref().unwrap_or_default();
                    if pulled.is_empty() && (text.contains("Deleted") || text.contains("push based")) {
                        self.is_clean = true;
                        return Err(Fault::NoResponders);
                    }
                    break;
                }
            }
        }
        self.is_clean = true;
        Ok(pulled)
    }

    /// Withdraws what was requested, and returns the messages that were on their way.
    pub(super) async fn stop(mut self, connection: &Connection) -> Vec<Pulled> {
        let mut rest = Vec::new();
        if self.is_clean() {
            return rest;
        }
        let withdraw = async {
            if self.withdraw(connection).await.is_none() {
                return;
            }
            while let Some(message) = self.answers.next().await {
                rest.extend(Pulled::read(message));
            }
        };
        let _ = timeout(STOP_TIMEOUT, withdraw).await;
        rest
    }

    async fn withdraw(&mut self, connection: &Connection) -> Option<()> {
        if !self.is_of(connection) {
            // The server of now has not counted from the start.
            return self.answers.drain().await.ok();
        }
        let requests = Requests {
            subject: &self.subject,
            inbox: format!("{}.0", self.inbox).into(),
            read: self.read,
            missing: self.missing + MOST_SIGNS,
        };
        withdraw(&connection.client(), &mut self.answers, requests).await
    }
}

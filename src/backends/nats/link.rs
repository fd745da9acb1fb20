//! One connection of a source: its requests for messages, and its settlements.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::ack_subject::AckSubject;
use super::client::Generation;
use super::connection::Connection;
use super::setup::Limits;
use crate::backends::brokers::{Requests, withdraw};
use crate::messenger::Failure;

/// How long a request for messages is valid.
const EXPIRES: Duration = Duration::from_secs(30);
/// How long a server may take to withdraw requests.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The most answers other than messages that can be on their way.
const MOST_STATUSES: usize = 16;
/// The fewest bytes that are worth a request.
const LEAST_BYTES: usize = 16 << 10;
/// How often the server says that a request still waits.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long a request may wait without a sign. A leader of the consumer that is killed takes its requests with it, and says nothing.
const QUIET: Duration = Duration::from_secs(10);

/// A connection of a source.
pub(super) struct SourceLink {
    pub(super) connection: Connection,
    pub(super) limits: Limits,
}

/// The requests of one connection.
pub(super) struct Pulls {
    answers: Subscriber,
    inbox: Subject,
    /// Where the server takes requests.
    subject: String,
    limits: Limits,
    /// How many answers were read.
    read: u64,
    /// Messages and bytes that were requested, and have not come.
    wanted: usize,
    wanted_bytes: usize,
    /// The next message is larger than all room, so it comes alone.
    alone: bool,
    /// When the last sign came, or the first request was made.
    heard: Instant,
    pub(super) is_stopped: bool,
}

/// An answer to a request.
pub(super) enum Answer {
    Message(Box<Message>, AckSubject),
    /// The request ended, or is of no interest.
    Status,
    /// The consumer must be looked at again.
    Lost(Failure),
}

impl Pulls {
    pub(super) async fn subscribe(
        generation: &Generation,
        subject: String,
        limits: Limits,
    ) -> Result<Self, Failure> {
        let inbox = Subject::from(generation.client.new_inbox());
        let answers = generation.client.subscribe(inbox.clone()).await.map_err(Failure::transient)?;
        Ok(Self {
            answers,
            inbox,
            subject,
            limits,
            read: 0,
            wanted: 0,
            wanted_bytes: 0,
            alone: false,
            heard: Instant::now(),
            is_stopped: false,
        })
    }

    /// Requests messages if there is room: `unsettled` are the number and bytes of messages here, `most` what may be here.
    pub(super) async fn request(
        &mut self,
        generation: &Generation,
        unsettled: (usize, usize),
        most: (usize, usize),
    ) {
        let mut count = most.0.saturating_sub(unsettled.0 + self.wanted);
        let mut bytes = most.1.saturating_sub(unsettled.1 + self.wanted_bytes);
        if self.wanted == 0 {
            self.wanted_bytes = 0;
            bytes = most.1.saturating_sub(unsettled.1);
        }
        // A few at a time would cost a request each.
        if count == 0 || (self.wanted > 0 && count < most.0.div_ceil(4)) {
            return;
        }
        if self.alone {
            if unsettled.0 > 0 || self.wanted > 0 {
                return;
            }
            (count, bytes) = (1, 0);
        } else if bytes < LEAST_BYTES.min(most.1) {
            return;
        }
        if self.limits.batch > 0 {
            count = count.min(self.limits.batch);
        }
        if self.limits.bytes > 0 && !self.alone {
            bytes = bytes.min(self.limits.bytes);
        }
        let expires = match self.limits.expires {
            Duration::ZERO => EXPIRES,
            limit => limit.min(EXPIRES),
        };
        let heartbeat = HEARTBEAT.min(expires / 2);
        let mut request = serde_json::json!({
            "batch": count,
            "expires": expires.as_nanos() as u64,
            "idle_heartbeat": heartbeat.as_nanos() as u64,
        });
        if self.wanted == 0 {
            self.heard = Instant::now();
        }
        if bytes > 0 {
            request["max_bytes"] = bytes.into();
        }
        let payload = Bytes::from(request.to_string());
        let sent = generation.client.publish_with_reply(self.subject.clone(), self.inbox.clone(), payload);
        if sent.await.is_ok() {
            self.wanted += count;
            self.wanted_bytes += bytes;
        }
    }

    /// Withdraws the requests, and gives the messages that are on their way.
    pub(super) async fn stop(&mut self, generation: &Generation) -> Vec<(Message, AckSubject)> {
        let mut rest = Vec::new();
        self.is_stopped = true;
        let requests = Requests {
            subject: &self.subject,
            inbox: self.inbox.clone(),
            read: self.read,
            missing: (self.wanted + MOST_STATUSES) as u64,
        };
        let withdraw = async {
            if withdraw(&generation.client, &mut self.answers, requests).await.is_none() {
                return;
            }
            while let Some(message) = self.answers.next().await {
                let ack = message.reply.as_deref().and_then(AckSubject::read);
                rest.extend(ack.map(|ack| (message, ack)));
            }
        };
        let _ = timeout(STOP_TIMEOUT, withdraw).await;
        rest
    }

    /// The next answer; none at the end of the connection.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        let quiet = sleep_until(self.heard + QUIET);
        let message = tokio::select! {
            biased;
            message = self.answers.next() => message?,
            () = quiet, if self.wanted > 0 => {
                let why = format!("the server gave no sign of the consumer for {QUIET:?}, as when its leader was killed");
                return Some(Answer::Lost(Failure::transient(why)));
            }
        };
        self.read += 1;
        self.heard = Instant::now();
        // A publisher can give its message a status too. Only the server chooses where an answer is acknowledged.
        if let Some(ack) = message.reply.as_deref().and_then(AckSubject::read) {
            self.alone = false;
            self.wanted = self.wanted.saturating_sub(1);
            self.wanted_bytes = self.wanted_bytes.saturating_sub(message.length);
            return Some(Answer::Message(Box::new(message), ack));
        }
        let Some(status) = message.status else { return Some(Answer::Status) };
        if status == StatusCode::IDLE_HEARTBEAT {
            return Some(Answer::Status);
        }
        let left =
            |name| message.headers.as_ref()?.get(name).and_then(|value| value.as_str().parse::<usize>().ok());
        self.wanted = self.wanted.saturating_sub(left("Nats-Pending-Messages").unwrap_or(usize::MAX));
        self.wanted_bytes = self.wanted_bytes.saturating_sub(left("Nats-Pending-Bytes").unwrap_or_default());
        let text = message.description.as_deref().unwrap_or_default();
        if text.contains("Exceeds MaxBytes") {
            self.alone = true;
        } else if status == StatusCode::NO_RESPONDERS
            || ["Deleted", "push based", "Exceeded"].iter().any(|word| text.contains(word))
        {
            let why =
                format!("the server refuses to deliver ({status} {text}): looking at the consumer again");
            return Some(Answer::Lost(Failure::transient(why)));
        }
        Some(Answer::Status)
    }
}

impl SourceLink {
    pub(super) fn is_over(&self) -> bool {
        self.connection.is_closed()
    }

    /// Reports to the server that this process still has the message.
    pub(super) async fn in_progress(&self, reply: Subject) {
        let client = &self.connection.generation().client;
        let _ = client.publish(reply, Bytes::from_static(b"+WPI")).await;
    }
}

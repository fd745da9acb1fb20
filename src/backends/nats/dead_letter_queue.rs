//! The dead letters in a stream, and how they are requeued.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_STREAM;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_trait::async_trait;

use super::ack_subject::AckSubject;
use super::client;
use super::connection::Connection;
use super::incoming::{Raw, Reader, requeued};
use super::outgoing::{Needs, Outgoing};
use super::settings::{NatsSettings, Pattern};
use super::windows::Windows;
use crate::message::headers::{ATTEMPT, QUEUE, REASON, TOPIC, read_failures};
use crate::messenger::Failure;
use crate::source::dead_letters::{DeadLetter, DeadLetterQueue, DeadLettersError, Target};
use crate::util::error::{BoxError, Chain};

/// A stream of dead letters. Messages are read by their sequences, so that looking at them changes nothing.
pub(crate) struct NatsDeadLetters {
    connection: Connection,
    stream: Stream,
    reader: Reader,
    name: String,
    /// The sequence to read next, and the last one at the start.
    next: u64,
    last: u64,
    left: u64,
    current: Option<Letter>,
}

/// The current dead letter.
struct Letter {
    place: AckSubject,
    raw: Raw,
}

impl NatsDeadLetters {
    pub(crate) async fn open(
        mut settings: NatsSettings,
        queue: String,
        _: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        settings.pattern = Pattern::Streams;
        let (urls, tls) = settings.check().map_err(|error| DeadLettersError::Broker(error.into()))?;
        let opened = client::open_any(&settings, tls.as_ref(), &urls).await;
        let unreachable =
            |failure: Failure| DeadLettersError::Unreachable(Chain(failure.cause()).to_string());
        let (generation, _) = opened.map_err(unreachable)?;
        let stream = generation.context.get_stream(&queue).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                DeadLettersError::NoQueue(queue.clone())
            }
            _ => broker(error),
        })?;
        let state = &stream.cached_info().state;
        let (next, last, left) = (state.first_sequence, state.last_sequence, state.messages);
        let windows = Windows::new(settings.retry_horizon());
        let connection = Connection::new(generation, &settings, windows).await.map_err(unreachable)?;
        let reader = Reader { settings: settings.into(), stream: queue.clone(), source: "".into() };
        Ok(Box::new(Self { connection, stream, reader, name: queue, next, last, left, current: None }))
    }

    fn view(&self, letter: &Letter) -> DeadLetter {
        let Letter { place, raw } = letter;
        let failures = raw.value(crate::message::headers::FAILURES).map(read_failures).unwrap_or_default();
        let attempt = raw.value(ATTEMPT).and_then(|attempt| attempt.parse().ok());
        // As it was sent.
        let subject = raw.value(TOPIC).map(|topic| self.reader.settings.prefixed_filter(topic));
        let sent = Raw { subject: subject.unwrap_or_else(|| raw.subject.clone()), ..raw.clone() };
        DeadLetter {
            message: self.reader.read(&sent, *place).map_err(|reason| reason.to_string()),
            reason: raw.value(REASON).map(str::to_owned),
            attempts: attempt.unwrap_or_else(|| u32::try_from(failures.len()).unwrap_or(u32::MAX)),
            failures,
            headers: raw.texts(),
        }
    }

    fn take_current(&mut self) -> Result<Letter, DeadLettersError> {
        self.current.take().ok_or_else(|| DeadLettersError::Broker("no dead letter was taken".into()))
    }

    async fn delete(&self, sequence: u64) -> Result<(), DeadLettersError> {
        self.stream.delete_message(sequence).await.map(drop).map_err(broker)
    }
}

#[async_trait]
impl DeadLetterQueue for NatsDeadLetters {
    fn left(&self) -> Option<u64> {
        Some(self.left)
    }

    fn caution(&self) -> Option<String> {
        None
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, DeadLettersError> {
        self.current = None;
        if self.next > self.last {
            return Ok(None);
        }
        let found = match self.stream.get_first_raw_message_by_subject(">", self.next).await {
            Ok(found) if found.sequence <= self.last => found,
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(None),
            Err(error) => return Err(broker(error)),
        };
        self.next = found.sequence + 1;
        self.left = self.left.saturating_sub(1);
        let raw =
            Raw { subject: found.subject.to_string(), headers: Some(found.headers), payload: found.payload };
        let place = AckSubject { delivered: 1, sequence: found.sequence, stored: found.time.into() };
        let letter = Letter { place, raw };
        let view = self.view(&letter);
        self.current = Some(letter);
        Ok(Some(view))
    }

    /// The subject of its topic, in the stream that its header names, if this one is for the dead letters of that consumer.
    fn target(&self, also: &[String]) -> Result<Target, DeadLettersError> {
        let value = |name| self.current.as_ref().and_then(|letter| letter.raw.value(name));
        let (Some(consumer), Some(topic)) = (value(QUEUE), value(TOPIC)) else {
            return Err(DeadLettersError::NoTarget);
        };
        let Some((stream, _)) = consumer.split_once('/') else { return Err(DeadLettersError::NoTarget) };
        let is_own = format!("{}-dead", consumer.replace('/', "-")) == self.name;
        if !is_own && !also.iter().any(|known| known == consumer) {
            return Err(DeadLettersError::Foreign(consumer.to_owned()));
        }
        let subject = self.reader.settings.prefixed_filter(topic);
        Ok(Target::Subject { subject, stream: Some(stream.to_owned()) })
    }

    fn named(&self, to: &str) -> Target {
        Target::Subject { subject: to.to_owned(), stream: None }
    }

    async fn requeue(&mut self, target: Target) -> Result<(), DeadLettersError> {
        let Target::Subject { subject, stream } = &target else {
            let reason = "NATS has no exchanges; give --to".to_owned();
            return Err(DeadLettersError::NotTaken { target, reason });
        };
        let letter = self.take_current()?;
        let mut headers: HeaderMap = requeued(&letter.raw);
        // The id of the message may still be known there, and a new one with it would be dropped.
        headers.insert("Nats-Msg-Id", format!("requeued-{}-{}", self.name, letter.place.identity()));
        if let Some(stream) = stream {
            headers.insert(NATS_EXPECTED_STREAM, stream.as_str());
        }
        let (subject, payload) = (subject.clone(), letter.raw.payload.clone());
        let outgoing = Outgoing { subject, headers, payload, needs: Needs::default() };
        match self.connection.publish_one(outgoing).await {
            Ok(()) => self.delete(letter.place.sequence).await,
            Err(failure) => {
                let reason = Chain(failure.cause()).to_string();
                Err(DeadLettersError::NotTaken { target, reason })
            }
        }
    }

    async fn remove(&mut self) -> Result<(), DeadLettersError> {
        let letter = self.take_current()?;
        self.delete(letter.place.sequence).await
    }

    async fn close(self: Box<Self>) {
        self.connection.close().await;
    }
}

fn broker(error: impl Into<BoxError>) -> DeadLettersError {
    DeadLettersError::Broker(error.into())
}

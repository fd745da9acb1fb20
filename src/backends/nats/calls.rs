//! Messages of many callers over one connection, each with its answer: publishes, settlements, and requests.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;
use uuid::fmt::Simple;

use super::client::{Events, Generation};
use crate::messenger::Failure;
use crate::util::sync::lock;

/// A limit for answers is measured in parts of it, with one timer for all calls.
const PARTS: u32 = 8;

/// Publishes messages, each with a reply address of its own, and assigns the answers to them.
///
/// One task publishes for all callers, so that the messages of many callers go out in one write. The client library has the same for
/// requests, at the cost of a timer, two names and two maps for each, and of a write for each caller.
pub(super) struct Calls {
    waiting: Waiting,
    begun: mpsc::UnboundedSender<Call>,
    /// The parts of the limit that have passed.
    passed: Arc<AtomicU64>,
    _worker: AbortOnDropHandle<()>,
}

/// The calls without an answer, by the last part of their reply address.
type Waiting = Arc<Mutex<HashMap<Uuid, Slot>>>;

struct Slot {
    subject: Subject,
    /// The parts of the limit that had passed when it began.
    began: u64,
    answer: oneshot::Sender<Result<Message, Unanswered>>,
}

/// A message that is not published yet.
struct Call {
    subject: Subject,
    headers: Option<HeaderMap>,
    payload: Bytes,
    token: Uuid,
}

/// A call that awaits its answer. If it is dropped before it is published, it is not published.
pub(super) struct Pending {
    answer: oneshot::Receiver<Result<Message, Unanswered>>,
    token: Uuid,
    waiting: Waiting,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The server denies to publish to the subject.
    Denied,
    /// The connection has ended.
    Ended,
    /// There was none within the limit.
    Overdue,
}

impl Calls {
    /// Subscribes to the answers, of which each may take as long as `limit`, and an eighth more. One that no call awaits goes to `stray`
    /// with its subject.
    pub(super) async fn new(
        generation: &Generation,
        limit: Option<Duration>,
        stray: fn(&str),
    ) -> Result<Self, Failure> {
        let Generation { client, events, .. } = generation;
        let inbox = format!("{}.", client.new_inbox());
        let answers = client.subscribe(format!("{inbox}*")).await.map_err(Failure::transient)?;
        let (begun, calls) = mpsc::unbounded_channel();
        let (waiting, passed) = (Waiting::default(), Arc::<AtomicU64>::default());
        let worker = Worker {
            client: client.clone(),
            events: Arc::clone(events),
            inbox,
            waiting: Arc::clone(&waiting),
            passed: Arc::clone(&passed),
            stray,
        };
        let worker = AbortOnDropHandle::new(tokio::spawn(worker.run(limit, answers, calls)));
        Ok(Self { waiting, begun, passed, _worker: worker })
    }

    /// Publishes a message, after those of earlier calls.
    pub(super) fn begin(&self, subject: Subject, headers: Option<HeaderMap>, payload: Bytes) -> Pending {
        let (answer, receiver) = oneshot::channel();
        // A responder knows the address of its own replies, and must not guess another one.
        let token = Uuid::from_u128(rand::random());
        let began = self.passed.load(Ordering::Relaxed);
        lock(&self.waiting).insert(token, Slot { subject: subject.clone(), began, answer });
        let pending = Pending { answer: receiver, token, waiting: Arc::clone(&self.waiting) };
        if self.begun.send(Call { subject, headers, payload, token }).is_err() {
            lock(&self.waiting).remove(&token);
        }
        pending
    }
}

impl Pending {
    /// Completes with the answer.
    pub(super) async fn answer(mut self) -> Result<Message, Unanswered> {
        (&mut self.answer).await.unwrap_or(Err(Unanswered::Ended))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.token);
    }
}

fn address(inbox: &str, token: Uuid) -> Subject {
    let mut address = String::with_capacity(inbox.len() + Simple::LENGTH);
    address.push_str(inbox);
    address.push_str(token.simple().encode_lower(&mut [0; Simple::LENGTH]));
    Subject::from(address)
}

struct Worker {
    client: Client,
    events: Arc<Events>,
    inbox: String,
    waiting: Waiting,
    passed: Arc<AtomicU64>,
    stray: fn(&str),
}

impl Drop for Worker {
    fn drop(&mut self) {
        lock(&self.waiting).clear();
    }
}

impl Worker {
    async fn run(
        self,
        limit: Option<Duration>,
        mut answers: Subscriber,
        mut calls: mpsc::UnboundedReceiver<Call>,
    ) {
        let mut parts = limit.map(|limit| {
            let mut parts = interval((limit / PARTS).max(Duration::from_millis(1)));
            parts.set_missed_tick_behavior(MissedTickBehavior::Delay);
            parts
        });
        self.work(&mut parts, &mut answers, &mut calls).await;
        // A call that begins later finds no receiver, and one that has begun is ended with the worker.
        drop(calls);
    }

    async fn work(
        &self,
        parts: &mut Option<Interval>,
        answers: &mut Subscriber,
        calls: &mut mpsc::UnboundedReceiver<Call>,
    ) {
        let mut ended = pin!(self.events.ended.cancelled());
        loop {
            tokio::select! {
                biased;
                () = &mut ended => return,
                () = self.events.denial() => self.deny(),
                () = part(parts) => self.part_passed(),
                answer = answers.next() => {
                    let Some(answer) = answer else { return self.events.end() };
                    self.answered(answer);
                    while let Some(Some(answer)) = answers.next().now_or_never() {
                        self.answered(answer);
                    }
                }
                call = calls.recv() => {
                    // The callers that can run now go first: their messages are written together.
                    yield_now().await;
                    let mut next = call;
                    while let Some(call) = next {
                        let mut published = pin!(self.publish(call));
                        let is_published = loop {
                            tokio::select! {
                                biased;
                                () = &mut ended => return,
                                is_published = &mut published => break is_published,
                                () = part(parts) => self.part_passed(),
                            }
                        };
                        if !is_published {
                            return self.events.end();
                        }
                        next = calls.try_recv().ok();
                    }
                }
            }
        }
    }

    /// Hands a message to the client library, whose buffer may be full. Returns false when the client has ended.
    async fn publish(&self, call: Call) -> bool {
        let Call { subject, headers, payload, token } = call;
        if !lock(&self.waiting).contains_key(&token) {
            return true;
        }
        let reply = address(&self.inbox, token);
        let published = match headers {
            Some(headers) => {
                self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            }
            None => self.client.publish_with_reply(subject, reply, payload).await,
        };
        published.is_ok()
    }

    fn answered(&self, answer: Message) {
        let token = answer.subject.strip_prefix(&*self.inbox);
        let token = token.and_then(|token| Uuid::try_parse(token).ok());
        match token.and_then(|token| lock(&self.waiting).remove(&token)) {
            Some(slot) => drop(slot.answer.send(Ok(answer))),
            None => (self.stray)(&answer.subject),
        }
    }

    /// Ends the calls whose subject is denied: the server gives no answer to them.
    fn deny(&self) {
        let mut waiting = lock(&self.waiting);
        let denied = waiting.extract_if(|_, slot| self.events.is_denied(&slot.subject));
        denied.for_each(|(_, slot)| drop(slot.answer.send(Err(Unanswered::Denied))));
    }

    /// Ends the calls without an answer within the limit.
    fn part_passed(&self) {
        let passed = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waiting = lock(&self.waiting);
        let overdue = waiting.extract_if(|_, slot| passed - slot.began > PARTS.into());
        overdue.for_each(|(_, slot)| drop(slot.answer.send(Err(Unanswered::Overdue))));
    }
}

/// Completes when the next part of the limit has passed.
async fn part(parts: &mut Option<Interval>) {
    match parts {
        Some(parts) => drop(parts.tick().await),
        None => std::future::pending().await,
    }
}

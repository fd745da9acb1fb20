//! A stream QueuesDownstream, and the transactions on it. Each transaction holds one message.
//!
//! A transaction of KubeMQ that could take more messages keeps new ones from all consumers until it ends, so each one asks for
//! one message and is full. A stream handles its requests one after the other, so that settlements wait for a request for
//! messages that is ahead of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::connection::Connection;
use super::failure;
use super::link::{Link, Reply};
use crate::kubemq_wire::{
    QueueMessage, QueuesDownstreamRequest, QueuesDownstreamRequestType as Kind, QueuesDownstreamResponse,
};
use crate::messenger::Failure;

/// How many requests may wait to be written.
const PERMITS: usize = 64;
/// The id of requests whose replies nobody awaits.
const NOBODY: &str = "0";
/// After so many empty replies in a row that came too soon, the next request waits.
const EARLY: usize = 16;
const EARLY_PAUSE: Duration = Duration::from_millis(50);

impl Reply for QueuesDownstreamResponse {
    fn request_id(&self) -> &str {
        &self.ref_request_id
    }
}

/// A stream that receives, with the transactions on it.
pub(super) struct ReceiverLink {
    link: Link<QueuesDownstreamRequest, QueuesDownstreamResponse>,
    connection: Connection,
    client_id: Arc<str>,
    /// How many transactions are open.
    held: AtomicUsize,
    /// Whether a request for a message is under way.
    asking: AtomicBool,
}

impl ReceiverLink {
    pub(super) fn open(connection: &Connection, client_id: Arc<str>) -> Self {
        let mut client = connection.client.clone();
        let authorized = connection.clone();
        let (own, lost) = (Arc::clone(&client_id), connection.lost.clone());
        let link = Link::open(
            connection.lost.clone(),
            PERMITS,
            |requests| async move { client.queues_downstream(authorized.request(requests)).await },
            // The message of a request that was given up goes back.
            |requests| {
                Box::new(move |reply: QueuesDownstreamResponse| {
                    let requests = requests.upgrade().filter(|_| !reply.messages.is_empty());
                    let close = || {
                        of_transaction(
                            Kind::CloseByClient,
                            NOBODY.to_owned(),
                            &own,
                            reply.transaction_id.clone(),
                        )
                    };
                    if requests.is_some_and(|requests| requests.try_send(close()).is_err()) {
                        lost.cancel();
                    }
                })
            },
        );
        let connection = connection.clone();
        Self { link, connection, client_id, held: AtomicUsize::new(0), asking: AtomicBool::new(false) }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.link.is_ended()
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Reserves the stream for a request for a message; false if it has one.
    pub(super) fn reserve(&self) -> bool {
        !self.asking.swap(true, Ordering::AcqRel)
    }

    /// Asks for a message until there is one. The stream is reserved, and free afterwards.
    pub(super) async fn get(
        self: &Arc<Self>,
        channel: &str,
        wait: impl Fn() -> Duration,
    ) -> Result<(Transaction, QueueMessage), Failure> {
        let _free = Free(&self.asking);
        let mut early = 0;
        loop {
            let (wait, begun) = (wait(), Instant::now());
            let mut call = self.link.begin()?;
            let request = QueuesDownstreamRequest {
                request_id: call.id.to_string(),
                client_id: self.client_id.to_string(),
                request_type_data: Kind::Get as i32,
                channel: channel.to_owned(),
                max_items: 1,
                wait_timeout: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
                ..QueuesDownstreamRequest::default()
            };
            self.link.write(request).await?;
            let limit = wait.max(Duration::from_secs(1)) + self.connection.send_timeout;
            let Some(mut reply) = self.link.reply(&mut call, limit).await? else {
                self.connection.give_up();
                return Err(Failure::transient("the broker did not reply to a request for messages in time"));
            };
            if reply.is_error {
                return Err(failure::of_result(&reply.error));
            }
            let message = reply.messages.pop();
            let Some(message) = message else {
                // It may be open, after an expired message, and would then keep the next message from all consumers.
                self.close_transaction(reply.transaction_id);
                early = if begun.elapsed() < wait / 2 { early + 1 } else { 0 };
                if early > EARLY {
                    sleep(EARLY_PAUSE).await;
                }
                continue;
            };
            let transaction = Transaction::new(Arc::clone(self), reply.transaction_id);
            return match reply.messages.is_empty() {
                true => Ok((transaction, message)),
                false => Err(Failure::transient("the broker sent more messages than it was asked for")),
            };
        }
    }

    fn close_transaction(&self, transaction: String) {
        self.link.try_write(of_transaction(
            Kind::CloseByClient,
            NOBODY.to_owned(),
            &self.client_id,
            transaction,
        ));
    }

    /// Sends an operation on a transaction. A broker replies only to one that fails, so a second request, which it handles
    /// after the first and always replies to, shows that it is done.
    async fn settle(&self, kind: Kind, transaction: &str, queue: &str) -> Result<(), Failure> {
        let (mut operation, mut after) = (self.link.begin()?, self.link.begin()?);
        let request =
            |kind, id: u64| of_transaction(kind, id.to_string(), &self.client_id, transaction.to_owned());
        let first = request(kind, operation.id);
        self.link.write(QueuesDownstreamRequest { re_queue_channel: queue.to_owned(), ..first }).await?;
        self.link.write(request(Kind::ActiveOffsets, after.id)).await?;
        let limit = WAIT + self.connection.send_timeout;
        let done = tokio::select! {
            biased;
            failed = self.link.reply(&mut operation, limit) => match failed? {
                Some(reply) if reply.is_error => return Err(failure::of_result(&reply.error)),
                done => done,
            },
            done = self.link.reply(&mut after, limit) => done?,
        };
        if done.is_none() {
            self.connection.give_up();
            return Err(Failure::transient("the broker did not reply to a settlement in time"));
        }
        Ok(())
    }
}

/// How long a request for a message may wait on a stream without open transactions.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// Frees a stream for the next request for a message.
struct Free<'a>(&'a AtomicBool);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn of_transaction(
    kind: Kind,
    request_id: String,
    client_id: &str,
    transaction: String,
) -> QueuesDownstreamRequest {
    QueuesDownstreamRequest {
        request_id,
        client_id: client_id.to_owned(),
        request_type_data: kind as i32,
        ref_transaction_id: transaction,
        ..QueuesDownstreamRequest::default()
    }
}

/// An open transaction with one message, which goes back to the queue if this is dropped.
pub(super) struct Transaction {
    link: Arc<ReceiverLink>,
    id: String,
    is_settled: bool,
}

impl Transaction {
    fn new(link: Arc<ReceiverLink>, id: String) -> Self {
        link.held.fetch_add(1, Ordering::Relaxed);
        Self { link, id, is_settled: false }
    }

    /// Whether it can no longer be settled.
    pub(super) fn is_stale(&self) -> bool {
        self.link.is_ended()
    }

    /// Removes the message from the queue.
    pub(super) async fn ack(&mut self) -> Result<(), Failure> {
        self.settle(Kind::AckAll, "").await
    }

    /// Puts the message to the end of the queue, and counts the attempt.
    pub(super) async fn nack(&mut self) -> Result<(), Failure> {
        self.settle(Kind::NAckAll, "").await
    }

    /// Puts the message back to its place; the attempt does not count.
    pub(super) async fn release(&mut self) -> Result<(), Failure> {
        self.settle(Kind::CloseByClient, "").await
    }

    /// Moves the message to another queue, unchanged.
    pub(super) async fn move_to(&mut self, queue: &str) -> Result<(), Failure> {
        self.settle(Kind::ReQueueAll, queue).await
    }

    async fn settle(&mut self, kind: Kind, queue: &str) -> Result<(), Failure> {
        let settled = self.link.settle(kind, &self.id, queue).await;
        self.is_settled |= settled.is_ok();
        settled
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.link.held.fetch_sub(1, Ordering::Relaxed);
        if !self.is_settled {
            self.link.close_transaction(std::mem::take(&mut self.id));
        }
    }
}

//! Sending to queues: the stream QueuesUpstream of one connection.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::connection::Connection;
use super::failure;
use super::link::{Link, Reply};
use crate::kubemq_wire::{
    QueueMessage, QueuesUpstreamRequest, QueuesUpstreamResponse, SendQueueMessageResult,
};
use crate::messenger::Failure;

/// The most bytes of bodies in one request, but for a single message that has more.
const REQUEST_BYTES: usize = 4 << 20;
/// How many requests may wait to be written.
const PERMITS: usize = 16;

/// The result of each message of a batch, in its order.
pub(super) type Results = Vec<Result<(), Failure>>;

impl Reply for QueuesUpstreamResponse {
    fn request_id(&self) -> &str {
        &self.ref_request_id
    }
}

/// The stream that sends to queues. Batches share it: each waits for its own replies.
pub(super) struct SenderLink {
    link: Link<QueuesUpstreamRequest, QueuesUpstreamResponse>,
    connection: Connection,
    /// How many messages may await their result.
    window: Arc<Semaphore>,
    most: usize,
}

impl SenderLink {
    pub(super) fn open(connection: Connection, window: u32) -> Self {
        let mut client = connection.client.clone();
        let authorized = connection.clone();
        let link = Link::open(
            connection.lost.clone(),
            PERMITS,
            |requests| async move { client.queues_upstream(authorized.request(requests)).await },
            |_| Box::new(drop),
        );
        let most = (window as usize).min(Semaphore::MAX_PERMITS);
        Self { link, connection, window: Arc::new(Semaphore::new(most)), most }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.link.is_ended()
    }

    /// Sends messages in requests one after the other: a server handles the requests of a stream side by side, and only the
    /// messages within one request keep their order.
    pub(super) async fn send(&self, messages: Vec<Result<QueueMessage, Failure>>) -> Results {
        let mut results: Results = Vec::with_capacity(messages.len());
        let mut failed = None;
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let (mut request, mut places, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some(next) = messages.next_if(|next| match next {
                Ok(next) => {
                    let is_small = bytes + next.body.len() <= REQUEST_BYTES;
                    request.is_empty() || (request.len() < self.most && is_small)
                }
                Err(_) => true,
            }) {
                if let Ok(next) = &next {
                    bytes += next.body.len();
                    places.push(results.len());
                }
                results.push(next.map(|next| request.push(next)));
            }
            if request.is_empty() {
                continue;
            }
            // The messages after a failed request would overtake its messages.
            let sent = match failed.take() {
                Some(failure) => Err(failure),
                None => self.request(request).await,
            };
            match sent {
                Ok(sent) => places.into_iter().zip(sent).for_each(|(place, result)| results[place] = result),
                Err(failure) => {
                    places.into_iter().for_each(|place| results[place] = Err(failure.clone()));
                    failed = Some(failure);
                }
            }
        }
        results
    }

    /// Waits until nothing is in flight, and accepts nothing more.
    pub(super) async fn finish(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        if self.window.acquire_many(all).await.is_ok() {
            self.window.close();
        }
    }

    async fn request(&self, messages: Vec<QueueMessage>) -> Result<Results, Failure> {
        let ids: Vec<_> = messages.iter().map(|message| message.message_id.clone()).collect();
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let window = self.window.acquire_many(count).await;
        let _window = window.map_err(|_| Failure::transient("the connection is closed"))?;
        let limit = self.connection.send_timeout;
        let exchange = async {
            let mut call = self.link.begin()?;
            self.link.write(QueuesUpstreamRequest { request_id: call.id.to_string(), messages }).await?;
            self.link.reply(&mut call, limit).await
        };
        match timeout(limit, exchange).await {
            Ok(Ok(Some(reply))) => {
                Ok(ids.iter().enumerate().map(|(at, id)| of_reply(&reply, at, id)).collect())
            }
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(None)) | Err(_) => {
                self.connection.give_up();
                Err(Failure::transient("the broker gave no result within SEND_TIMEOUT"))
            }
        }
    }
}

/// The result of the message at this place of a request. Servers give results in order, and repeat the ids.
fn of_reply(reply: &QueuesUpstreamResponse, at: usize, id: &str) -> Result<(), Failure> {
    let is_named = |result: &&SendQueueMessageResult| result.message_id == id;
    let result = reply.results.get(at).filter(is_named);
    match result.or_else(|| reply.results.iter().find(is_named)) {
        Some(result) if !result.is_error => Ok(()),
        Some(result) => Err(failure::of_result(&result.error)),
        None if reply.is_error => Err(failure::of_result(&reply.error)),
        None => Err(Failure::transient("the broker gave no result for it")),
    }
}

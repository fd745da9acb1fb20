//! The contract of queues.

use std::time::Duration;

use async_trait::async_trait;

use super::error::EngineError;
use super::name::ChannelName;
use super::queue_types::{Peeked, QueueMessage, Receipt, Receive, Received, Sent, Settle, Which};

/// Queues: durable, first in, first out, with competing consumers.
///
/// # Contract
/// - **Order** is the order of sequences, which begin at 1 in each queue. A message gets its sequence when it becomes
///   visible: when it is sent, when its delay is over, or when it is rejected.
/// - **A receive takes messages** under one new [`Receipt`]. Until they are settled, nobody else receives them, sees them
///   in a peek, or purges them. New messages never join an open receipt.
/// - **Released messages return to their old place**, with the receive not counted: when the receipt is released, closed or
///   dropped with its connection, and after a restart of the engine.
/// - **Rejected messages go to the tail**, as a new sequence with the receive counted; so do messages whose visibility
///   runs out. A message that was received as often as its [`Policy`](super::Policy) allows goes to its dead-letter queue
///   instead, with the name of its old queue, without its policy; without such a queue it is discarded, logged and counted.
/// - **Expired messages** are dropped, and counted in the next [`Received::expired`]. A message that expires while it is
///   held can still be settled.
#[async_trait]
pub trait Queues: Send + Sync + 'static {
    /// Sends messages, each to its own queue; returns a result for each, in their order. A refused message does not take the
    /// others along.
    ///
    /// # Cancel safety
    /// Dropping the future leaves each message sent or not.
    async fn send(&self, messages: Vec<(ChannelName, QueueMessage)>) -> Vec<Result<Sent, EngineError>>;

    /// Receives up to [`Receive::max`] messages, and waits at most [`Receive::wait`] for the first one. Without any it
    /// returns an empty list, whose receipt is not open. Messages of more than 64 MiB are not read at once: it returns fewer then.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// Dropping the future releases what it had taken; also with [`Receive::auto_ack`], unless the engine dies then.
    async fn receive(&self, channel: &ChannelName, receive: Receive) -> Result<Received, EngineError>;

    /// Returns visible messages from the head of the queue, without taking them; waits at most `wait` for the first one. As
    /// [`receive`](Self::receive) it returns fewer than `max` rather than more than 64 MiB.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    async fn peek(&self, channel: &ChannelName, max: usize, wait: Duration) -> Result<Peeked, EngineError>;

    /// Removes all visible messages; returns how many. Held and delayed messages stay.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves all of them removed or none.
    async fn purge(&self, channel: &ChannelName) -> Result<u64, EngineError>;

    /// Settles messages of a receipt; returns how many. With the last one the receipt is not open any more.
    ///
    /// The messages of a [list](Which::Sequences) are settled in its order, up to the first one that the receipt does not
    /// hold. All that is settled by one call is settled at once: a crash leaves all or none of it.
    ///
    /// # Errors
    /// [`EngineError::UnknownReceipt`]; [`EngineError::NotHeld`] after the messages before that one were settled; after
    /// [`EngineError::Unavailable`] the messages are still held, unless their visibility ran out.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the messages settled, or held.
    async fn settle(&self, receipt: Receipt, which: Which, settle: Settle) -> Result<u64, EngineError>;

    /// Starts the visibility of the messages of a receipt again, from now.
    ///
    /// # Errors
    /// [`EngineError::UnknownReceipt`], [`EngineError::NotHeld`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it started again or not.
    async fn extend(&self, receipt: Receipt, which: Which, visibility: Duration) -> Result<(), EngineError>;

    /// Returns the sequences that a receipt holds, in order.
    ///
    /// # Errors
    /// [`EngineError::UnknownReceipt`].
    async fn held(&self, receipt: Receipt) -> Result<Vec<u64>, EngineError>;

    /// Releases all that a receipt holds, without waiting. A receipt that is not open is none of its business.
    ///
    /// It is what a dropped connection calls.
    fn release(&self, receipt: Receipt);
}

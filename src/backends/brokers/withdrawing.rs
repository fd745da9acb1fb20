//! The end of a subscription to the messages of a consumer of JetStream.

use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;

/// A request that the server refuses at once.
const REFUSED: Bytes = Bytes::from_static(br#"{"expires":1000000,"idle_heartbeat":1000000000}"#);

/// The requests whose answers a subscription gets.
pub(crate) struct Requests<'a> {
    /// Where the server takes them.
    pub(crate) subject: &'a str,
    /// Where their answers go.
    pub(crate) inbox: Subject,
    /// How many answers were read.
    pub(crate) read: u64,
    /// How many more can be on their way at most.
    pub(crate) missing: u64,
}

/// Ends a subscription without losing a message on its way, and withdraws its requests. The stream of answers ends when all have come;
/// with `None` the client has ended.
///
/// When the client library drains a subscription, it forgets it before the server does (async-nats 0.51), and messages that come
/// meanwhile are lost until `ACK_WAIT`. So it ends after a number of answers, which client and server count alike; refused requests make
/// up the number.
pub(crate) async fn withdraw(
    client: &Client,
    answers: &mut Subscriber,
    requests: Requests<'_>,
) -> Option<()> {
    let Requests { subject, inbox, read, missing } = requests;
    answers.unsubscribe_after(read + missing).await.ok()?;
    for _ in 0..missing {
        client.publish_with_reply(subject.to_owned(), inbox.clone(), REFUSED).await.ok()?;
    }
    Some(())
}

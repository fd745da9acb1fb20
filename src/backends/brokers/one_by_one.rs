//! Sends the messages that were in flight when connections ended one by one, over a connection of their own.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::timeout;

use super::connection::{Connection, ConnectionEnded, Connector, connect};
use super::url::BrokerUrl;
use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::error::Chain;

/// After so many connections lost in a row the broker itself is taken to be down.
const MAX_LOST: u32 = 8;

/// The outcome of messages that were sent one by one.
#[derive(Default)]
pub(super) struct OneByOne {
    /// The messages that the broker answered, or that ended their connection.
    pub(super) unsent: Unsent,
    /// The messages that were not tried because the broker is down.
    pub(super) untried: Vec<Message>,
    /// Why the rest was not tried.
    pub(super) why: Option<String>,
}

/// Rejects a message over which the broker closes two connections in a row. A connection that is lost without a
/// reason is an outage, for which no message is to blame.
pub(super) async fn send_one_by_one<C: Connector>(
    connector: &C,
    url: &BrokerUrl,
    connection_timeout: Duration,
    batch: Vec<Message>,
) -> OneByOne {
    let mut outcome = OneByOne::default();
    let mut left: VecDeque<_> = batch.into_iter().map(|message| (message, false)).collect();
    let (mut open, mut lost): (Option<C::Connection>, _) = (None, 0);
    while let Some((message, ended_one)) = left.pop_front() {
        let connection = match open.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => match connect(connector, url, connection_timeout).await {
                Ok(connection) => connection,
                Err(why) => {
                    outcome.why = Some(why);
                    outcome.untried.push(message);
                    break;
                }
            },
        };
        let sent = connection.send(vec![message]).await;
        let is_closed = connection.is_closed();
        open = Some(connection);
        let Err(unsent) = sent else {
            lost = 0;
            continue;
        };
        for (message, failure) in unsent {
            let is_blamed = is_closed && failure.cause().is::<ConnectionEnded>();
            lost = if is_closed && failure.is_transient() && !is_blamed { lost + 1 } else { 0 };
            if !is_blamed {
                outcome.unsent.extend([(message, failure)]);
            } else if ended_one {
                let why = Failure::rejected(EndsConnections(Chain(failure.cause()).to_string()));
                outcome.unsent.extend([(message, why)]);
            } else {
                left.push_front((message, true));
            }
        }
        if lost == MAX_LOST {
            outcome.why = Some(format!("{MAX_LOST} connections in a row were lost"));
            break;
        }
    }
    outcome.untried.extend(left.into_iter().map(|(message, _)| message));
    if let Some(connection) = open {
        let _ = timeout(connection_timeout, connection.close()).await;
    }
    outcome
}

#[derive(Debug, thiserror::Error)]
#[error("the broker closes every connection that the message is sent over: {0}")]
struct EndsConnections(String);

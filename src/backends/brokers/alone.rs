//! Messages that were out when connections ended: each by itself, over a connection that nobody else uses.

use std::collections::VecDeque;

use super::failover::{Connection, Connector, Failover};
use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::error::Chain;
use tokio::time::timeout;

/// How many messages in a row may lose their connection before it is the broker that is away.
const LOST: u32 = 8;

/// The broker closed the connection, and says that it did so over something we sent.
#[derive(Debug, thiserror::Error)]
#[error("the broker closed the connection over a message ({0})")]
pub(crate) struct ConnectionEnded(pub(crate) String);

/// How messages fared that were sent each alone.
#[derive(Default)]
pub(super) struct Alone {
    /// Those that the broker answered, or that ended their connection.
    pub(super) unsent: Unsent,
    /// Those that were not tried, as the broker is away, and why.
    pub(super) untried: Vec<Message>,
    pub(super) why: Option<String>,
}

impl<C: Connector> Failover<C> {
    /// Sends each alone: one over which the broker closes two connections in a row is rejected. A connection that is
    /// lost without a word is an outage, and blames nobody.
    pub(super) async fn send_alone(&self, index: usize, batch: Vec<Message>) -> Alone {
        let broker = &self.brokers[index];
        let mut alone = Alone::default();
        let mut left: VecDeque<_> = batch.into_iter().map(|message| (message, false)).collect();
        let Ok(_turn) = timeout(self.connection_timeout, broker.alone.lock()).await else {
            alone.why = Some("others are sent alone".to_owned());
            alone.untried.extend(left.into_iter().map(|(message, _)| message));
            return alone;
        };
        let (mut open, mut lost): (Option<C::Connection>, _) = (None, 0);
        while let Some((message, ended_one)) = left.pop_front() {
            let connection = match open.take().filter(|connection| !connection.is_closed()) {
                Some(connection) => connection,
                None => match self.connect(&broker.url).await {
                    Ok(connection) => connection,
                    Err(why) => {
                        alone.why = Some(why);
                        alone.untried.push(message);
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
                let blames = is_closed && failure.cause().is::<ConnectionEnded>();
                lost = if is_closed && failure.is_transient() && !blames { lost + 1 } else { 0 };
                if !blames {
                    alone.unsent.extend([(message, failure)]);
                } else if ended_one {
                    let why = Failure::rejected(EndsConnections(Chain(failure.cause()).to_string()));
                    alone.unsent.extend([(message, why)]);
                } else {
                    left.push_front((message, true));
                }
            }
            if lost == LOST {
                alone.why = Some("connections are lost again and again".to_owned());
                break;
            }
        }
        alone.untried.extend(left.into_iter().map(|(message, _)| message));
        if let Some(connection) = open {
            let _ = timeout(self.connection_timeout, connection.close()).await;
        }
        alone
    }
}

#[derive(Debug, thiserror::Error)]
#[error("each connection ends that it is sent over: {0}")]
struct EndsConnections(String);

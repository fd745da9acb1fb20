//! Publishing over a connection: every message gets its own result, independent of its neighbours.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, PoisonError};

use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::Channel;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::failure::{
    AtFault, ChannelClosed, ChannelLost, ExchangeRejected, Results, failure, give_returns_to_their_owners,
    is_of_closed_channel, outcome,
};
use super::limits::Limits;
use super::outgoing::Publish;
use crate::backends::brokers::ConnectionEnded;
use crate::messenger::Failure;
use crate::util::deadline::after;
use crate::util::error::Chain;

/// The most messages that are published together when one of them may be at fault.
const TOGETHER: usize = 16;

impl Connection {
    /// Publishes in order and awaits every confirm. Messages that a channel took down with another's
    /// fault are published once more, where only the one at fault can fail.
    pub(super) async fn publish(&self, batch: &[Publish]) -> Results {
        let deadline = after(Instant::now(), self.send_timeout);
        // lapin assigns a returned message to the next confirm: only one batch at a time can be matched.
        let _alone = if batch.iter().any(|publish| publish.mandatory) {
            let Ok(alone) = timeout_at(deadline, self.mandatory.lock()).await else {
                return batch.iter().map(|_| Err(self.overdue())).collect();
            };
            Some(alone)
        } else {
            None
        };
        let mut results: Results = batch.iter().map(|publish| self.check(publish)).collect();
        let open: Vec<usize> = (0..batch.len()).filter(|index| results[*index].is_ok()).collect();
        if open.is_empty() {
            return results;
        }
        let channel = {
            let mut kept = self.channel.lock().await;
            self.channel_in(&mut kept, deadline).await
        };
        let outcomes = match channel {
            Ok(channel) => self.publish_on(&channel, batch, &open, deadline).await,
            Err(failure) => open.iter().map(|index| (*index, Err(failure.clone()))).collect(),
        };
        let lost = self.settle(outcomes, batch, &mut results);
        let is_open = !self.is_closed();
        let lost_a_channel = !lost.is_empty() && (is_open || results.iter().any(is_of_closed_channel));
        if !lost.is_empty() && is_open {
            self.find_out(batch, lost, &mut results).await;
        }
        if lost_a_channel && batch.len() > 1 && self.is_closed() && !self.is_given_up() {
            // RabbitMQ closes the connection when more of the batch was on its way to the closed channel.
            let failures = results.iter_mut().filter_map(|result| result.as_mut().err());
            for failure in failures.filter(|failure| failure.is_transient()) {
                *failure = Failure::transient(ConnectionEnded(Chain(failure.cause()).to_string()));
            }
        }
        give_returns_to_their_owners(batch, &mut results);
        results
    }

    fn check(&self, publish: &Publish) -> Result<(), Failure> {
        self.limits.check_publish(publish, self.frame_max()).map_err(Failure::rejected)
    }

    /// Records the results. Returns the messages that were lost with a channel, in order, unless all are rejected for one reason.
    fn settle(
        &self,
        outcomes: Vec<(usize, Result<(), Failure>)>,
        batch: &[Publish],
        results: &mut Results,
    ) -> Vec<usize> {
        let (mut lost, mut refused) = (Vec::new(), None);
        for (index, outcome) in outcomes {
            if let Err(failure) = &outcome {
                let cause = failure.cause();
                if let Some(ChannelClosed(text)) = cause.downcast_ref()
                    && let Some(limit) = Limits::largest_body(text)
                    && batch.iter().any(|publish| publish.body.len() > limit)
                {
                    self.limits.set_largest_body(limit);
                }
                if cause.is::<ChannelClosed>() || cause.is::<ChannelLost>() {
                    lost.push(index);
                } else if cause.is::<ExchangeRejected>() {
                    refused = Some(failure.clone());
                }
            }
            results[index] = outcome;
        }
        // All go to one exchange, whose fault concerns all.
        if let Some(refused) = refused {
            lost.drain(..).for_each(|index| results[index] = Err(refused.clone()));
        }
        lost.sort_unstable();
        lost
    }

    /// Publishes messages of a closed channel again, over a channel that no other batch uses. If the broker closes that
    /// one too, the messages on it are sent one by one, so that its error concerns one message.
    async fn find_out(&self, batch: &[Publish], lost: Vec<usize>, results: &mut Results) {
        let mut left = VecDeque::from(lost);
        // Another batch may be using the channel.
        let turn = timeout_at(after(Instant::now(), self.send_timeout), self.trial.lock()).await;
        let Ok(mut kept) = turn else { return };
        let mut alone = 0_usize;
        while let Some(&first) = left.front() {
            let size = if alone > 0 { 1 } else { TOGETHER.min(left.len()) };
            alone = alone.saturating_sub(size);
            let mut open: Vec<usize> = left.drain(..size).collect();
            open.retain(|index| {
                results[*index] = self.check(&batch[*index]);
                results[*index].is_ok()
            });
            if open.is_empty() {
                continue;
            }
            let deadline = after(Instant::now(), self.send_timeout);
            let outcomes = match self.channel_in(&mut kept, deadline).await {
                Ok(channel) => self.publish_on(&channel, batch, &open, deadline).await,
                Err(failure) => open.iter().map(|index| (*index, Err(failure.clone()))).collect(),
            };
            let lost = self.settle(outcomes, batch, results);
            if self.is_closed() {
                let failure = results[first].clone().err().filter(Failure::is_transient);
                let failure = failure.unwrap_or_else(|| Failure::transient("the connection was lost"));
                left.into_iter().for_each(|index| results[index] = Err(failure.clone()));
                return;
            }
            if lost.is_empty() {
                continue;
            }
            *kept = None;
            if open.len() > 1 {
                alone = lost.len();
                lost.into_iter().rev().for_each(|index| left.push_front(index));
            } else if let Err(failure) = &results[first]
                && let Some(ChannelClosed(text)) = failure.cause().downcast_ref()
            {
                results[first] = Err(Failure::rejected(AtFault(text.clone())));
            }
        }
    }

    /// The channel that is kept, or a new one.
    async fn channel_in(&self, kept: &mut Option<Channel>, deadline: Instant) -> Result<Channel, Failure> {
        if let Some(channel) = kept.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let open = async {
            let channel = self.new_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            lapin::Result::Ok(channel)
        };
        match timeout_at(deadline, open).await {
            Ok(Ok(channel)) => Ok(kept.insert(channel).clone()),
            Ok(Err(error)) => Err(Failure::transient(error)),
            Err(_) => {
                self.give_up();
                Err(Failure::transient("the broker opened no channel within SEND_TIMEOUT"))
            }
        }
    }

    async fn publish_on(
        &self,
        channel: &Channel,
        batch: &[Publish],
        open: &[usize],
        deadline: Instant,
    ) -> Vec<(usize, Result<(), Failure>)> {
        let mut done = Vec::with_capacity(open.len());
        let mut confirms = FuturesUnordered::new();
        let mut left = open.iter().copied();
        let overdue = 'publish: {
            for index in left.by_ref() {
                let publish = &batch[index];
                let permit = loop {
                    tokio::select! {
                        biased;
                        Some(outcome) = confirms.next() => done.push(outcome),
                        permit = self.room() => break permit,
                        () = tokio::time::sleep_until(deadline) => {
                            done.push((index, Err(self.overdue())));
                            break 'publish true;
                        }
                    }
                };
                let mut sent = pin!(channel.basic_publish(
                    publish.exchange.as_str().into(),
                    publish.routing_key.as_str().into(),
                    BasicPublishOptions { mandatory: publish.mandatory, ..BasicPublishOptions::default() },
                    &publish.body,
                    publish.properties.clone(),
                ));
                // The first poll numbers the message and queues it. Two threads that did so at once would mix up the
                // numbers, and with them the confirms.
                let mut queued = false;
                let sent = poll_fn(|cx| {
                    if queued {
                        return sent.as_mut().poll(cx);
                    }
                    queued = true;
                    let _turn = self.numbering.lock().unwrap_or_else(PoisonError::into_inner);
                    sent.as_mut().poll(cx)
                });
                match timeout_at(deadline, sent).await {
                    Ok(Ok(confirm)) => confirms.push(async move {
                        let outcome = outcome(confirm.await, publish);
                        drop(permit);
                        (index, outcome)
                    }),
                    Ok(Err(error)) => done.push((index, Err(failure(&error, publish)))),
                    Err(_) => {
                        done.push((index, Err(self.overdue())));
                        break 'publish true;
                    }
                }
            }
            loop {
                match timeout_at(deadline, confirms.next()).await {
                    Ok(Some(outcome)) => done.push(outcome),
                    Ok(None) => break 'publish false,
                    Err(_) => break 'publish true,
                }
            }
        };
        if overdue {
            let settled: std::collections::HashSet<usize> = done.iter().map(|(index, _)| *index).collect();
            let unsettled = open.iter().filter(|index| !settled.contains(index));
            let failure = self.overdue();
            done.extend(unsettled.map(|index| (*index, Err(failure.clone()))).collect::<Vec<_>>());
            if self.blocked().is_none() {
                self.give_up();
            }
        }
        done
    }

    /// A place in the window, while the broker does not block publishers.
    async fn room(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let _ = self.blocked.clone().wait_for(Option::is_none).await;
        Arc::clone(&self.window).acquire_owned().await.ok()
    }
}

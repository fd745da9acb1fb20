//! Messages that the server counts as acknowledged, and that are still stored: nobody has received them.
//!
//! A message is removed before it is acknowledged, so no other one is both. nats-server 2.15.1 leaves some when it is killed while it
//! delivers them: the next leader of the consumer neither delivers them nor waits for their acknowledgement.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::error::Fault;
use super::message::{headers, visible};
use super::opening::CONSUMER;
use super::parts::EngineParts;
use super::raw::Raw;
use super::wire::{self, POLICY, QueuePolicy};
use crate::backends::brokers::Stored;
use crate::channels::info::ChannelLimits;
use crate::util::sync::lock;

/// The most messages of a stream that one look stores again.
const MOST: usize = 10_000;

impl EngineParts {
    /// Looks for such messages once in `ACK_WAIT`, and stores those again that were there at the look before, until the engine is closed.
    pub(super) async fn run_forgotten(self: Arc<Self>) {
        let mut floors = HashMap::new();
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = sleep(self.settings.ack_wait) => {}
            }
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = self.look_for_forgotten(&mut floors) => {}
            }
        }
    }

    /// `floors` has the highest sequence that was acknowledged with all before it at the last look, by stream.
    async fn look_for_forgotten(&self, floors: &mut HashMap<String, u64>) {
        let queues: Vec<_> = lock(&self.queues).values().cloned().collect();
        let mut streams = vec![(self.delayed(), self.subject("due.*.*"), None)];
        streams.extend(queues.into_iter().map(|place| (place.stream.clone(), ">".to_owned(), Some(place))));
        let mut last = std::mem::take(floors);
        for (stream, filter, place) in streams {
            let is_held = |sequence| {
                place.as_ref().is_some_and(|place| {
                    let sequence = place.sequence(sequence);
                    lock(&self.taken).is_held(place, sequence)
                })
            };
            match self.store_forgotten(&stream, &filter, last.remove(&stream), is_held).await {
                Ok(floor) => drop(floors.insert(stream, floor)),
                Err(fault) if fault.is_missing() => {}
                Err(fault) => {
                    let error = fault.of_channel(&stream, ChannelLimits::default());
                    tracing::warn!(%error, "failed to look for messages that nobody received; looking again after ACK_WAIT");
                }
            }
        }
    }

    /// Returns the sequence up to which all is acknowledged now.
    async fn store_forgotten(
        &self,
        stream: &str,
        filter: &str,
        last: Option<u64>,
        is_held: impl Fn(u64) -> bool,
    ) -> Result<u64, Fault> {
        let Some(info) = self.stream_info(stream).await?.filter(|info| info.state.messages > 0) else {
            return Ok(0);
        };
        let consumer: Value =
            self.connection.api(&format!("CONSUMER.INFO.{stream}.{CONSUMER}"), &json!({})).await?;
        let floor = consumer["ack_floor"]["stream_seq"].as_u64().unwrap_or_default();
        let (last, mut next, mut count) = (last.unwrap_or_default().min(floor), info.state.first_seq, 0);
        let mut outcome = Ok(floor);
        while next <= last && count < MOST {
            let request = json!({"seq": next, "next_by_subj": filter});
            let stored = match self.stored(stream, request).await {
                Ok(stored) => stored.filter(|it| it.sequence <= last),
                Err(fault) => {
                    outcome = Err(fault);
                    break;
                }
            };
            let Some(stored) = stored else { break };
            next = stored.sequence + 1;
            if is_held(stored.sequence) {
                continue;
            }
            match self.store_again(&stored).await {
                Ok(true) => count += 1,
                Ok(false) => {}
                Err(fault) if fault.is_transient() => {
                    outcome = Err(fault);
                    break;
                }
                Err(fault) => {
                    let error = fault.of_channel(&stream, ChannelLimits::default());
                    tracing::warn!(
                        stream,
                        sequence = stored.sequence,
                        %error,
                        "failed to store a message again that the server counts as acknowledged; trying again after ACK_WAIT"
                    );
                }
            }
        }
        if count > 0 {
            tracing::warn!(
                stream,
                count,
                "messages that the server counted as acknowledged were never settled; they are stored again"
            );
        }
        outcome
    }

    /// Stores a message at its subject again, where it replaces itself. Returns `false` if it is not there any more.
    async fn store_again(&self, stored: &Stored) -> Result<bool, Fault> {
        let Some(raw) = Raw::read(stored) else { return Ok(false) };
        let policy: QueuePolicy = wire::read(Some(&raw.headers), POLICY);
        let content = wire::read_content(Some(&raw.headers), raw.body);
        let id = format!("{}-{}-forgotten", raw.sequence, raw.time);
        let mut headers = visible(headers(&content, &policy)?, &id, &policy);
        headers.insert("Nats-Expected-Last-Subject-Sequence", raw.sequence.to_string().as_str());
        let deadline = self.connection.deadline();
        match self.connection.store(&stored.subject, headers, content.body, deadline).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_outdated() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

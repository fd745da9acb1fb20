//! Messages that the client library cannot read: it ends the connection over one, again at each delivery.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::error::Fault;
use super::message::{headers, visible};
use super::parts::EngineParts;
use super::raw::Raw;
use super::suspects::Suspect;
use super::wire::{self, POLICY, QueuePolicy};
use crate::backends::brokers::Stored;
use crate::channels::info::ChannelLimits;

/// The most messages that are looked at after one lost connection.
const LOOKED_AT: usize = 10_000;

impl EngineParts {
    /// Keeps the client alive, and stores messages that cannot be read again without their headers, until the engine is closed.
    pub(super) async fn run_quarantine(self: Arc<Self>) {
        let look = async {
            let mut next = HashMap::<Suspect, u64>::new();
            loop {
                for place in self.connection.suspects.take().await {
                    match self.look_at(&place, next.remove(&place).unwrap_or_default()).await {
                        Ok(None) => {}
                        Ok(Some(rest)) => drop(next.insert(place, rest)),
                        Err(fault) if fault.is_missing() => {}
                        Err(fault) => {
                            let error = fault.of_channel(&place.0, ChannelLimits::default());
                            tracing::warn!(%error, "failed to look for unreadable messages; doing so after the next lost connection");
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = self.connection.renew_client() => {}
            () = look => {}
        }
    }

    /// Looks at the messages that are delivered and not settled; returns where the next look begins, if they are too many for one.
    async fn look_at(&self, (stream, consumer): &Suspect, from: u64) -> Result<Option<u64>, Fault> {
        let info: Value =
            self.connection.api(&format!("CONSUMER.INFO.{stream}.{consumer}"), &json!({})).await?;
        let sequence = |of: &str| info[of]["stream_seq"].as_u64().unwrap_or_default();
        if info["num_ack_pending"] == 0 {
            return Ok(None);
        }
        let filter = info["config"]["filter_subject"].as_str().unwrap_or(">");
        let (mut next, last) = (from.max(sequence("ack_floor") + 1), sequence("delivered"));
        for _ in 0..LOOKED_AT {
            let request = json!({"seq": next, "next_by_subj": filter});
            let Some(stored) = self.stored(stream, request).await?.filter(|it| it.sequence <= last) else {
                return Ok(None);
            };
            if let Some(fault) = stored.fault() {
                self.store_readable(stream, &stored, &fault).await?;
            }
            next = stored.sequence + 1;
        }
        Ok(Some(next))
    }

    /// Stores a message again without what cannot be read, and deletes it at its place. An engine that does the same meanwhile stores the same id.
    async fn store_readable(&self, stream: &str, stored: &Stored, why: &str) -> Result<(), Fault> {
        let Some(raw) = Raw::read(stored) else { return Ok(()) };
        let policy: QueuePolicy = wire::read(Some(&raw.headers), POLICY);
        let content = wire::read_content(Some(&raw.headers), raw.body);
        let id = format!("{}-{}-readable", raw.sequence, raw.time);
        let mut subject = stored.readable_subject();
        if subject != stored.subject
            && let Some((words, _)) = subject.rsplit_once('.')
        {
            // Its own word could be that of another message now.
            subject = format!("{words}.{id}");
        }
        let headers = visible(headers(&content, &policy)?, &id, &policy);
        tracing::warn!(
            stream,
            sequence = raw.sequence,
            why,
            "a message that ends connections is stored again without its headers"
        );
        self.connection.store(&subject, headers, content.body, self.connection.deadline()).await?;
        // In a queue the message that is stored replaces it.
        self.delete_stored(stream, raw.sequence).await
    }
}

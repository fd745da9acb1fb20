//! The streams of an engine on JetStream.

use std::sync::Arc;
use std::time::SystemTime;

use async_nats::HeaderMap;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::consumer::Consumer;
use super::engine::JetstreamEngine;
use super::error::Fault;
use super::in_use::ChannelInUse;
use super::message::new_word;
use super::outstanding::Outstanding;
use super::parts::EngineParts;
use super::sharing::Sharing;
use super::subscription::Subscription;
use super::wire;
use crate::channels::content::Content;
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::stream::{StreamSubscription, Streams};
use crate::channels::stream_types::{Appended, Start, Subscribe};
use crate::util::in_order::join_in_order;
use crate::util::sync::lock;

impl EngineParts {
    /// Creates a consumer, unless it exists.
    pub(super) async fn open_consumer(
        &self,
        place: &ChannelInUse,
        consumer: &Consumer,
        start: Start,
    ) -> Result<(), Fault> {
        let name = &consumer.name;
        let info = format!("CONSUMER.INFO.{}.{name}", place.stream);
        match self.connection.api::<Value>(&info, &json!({})).await {
            Ok(_) => return Ok(()),
            Err(fault) if fault.is_missing() => {}
            Err(fault) => return Err(fault),
        }
        let config = consumer.config(&place.stream, start, wire::nanos(self.settings.ack_wait))?;
        let create = format!("CONSUMER.CREATE.{}.{name}", place.stream);
        match self.connection.api::<Value>(&create, &config).await {
            // Another member has created it meanwhile, with another start.
            Err(Fault::Refused(refusal)) if refusal.description.contains("can not be updated") => Ok(()),
            created => created.map(drop),
        }
    }

    pub(super) async fn delete_consumer(&self, stream: &str, consumer: &str) {
        let delete = format!("CONSUMER.DELETE.{stream}.{consumer}");
        // Without an answer it is removed when it is inactive.
        let _ = self.connection.api::<Value>(&delete, &json!({})).await;
    }

    fn sharing(&self, consumer: &str) -> Arc<Sharing> {
        let mut all = lock(&self.sharing);
        all.retain(|_, sharing| sharing.strong_count() > 0);
        if let Some(sharing) = all.get(consumer).and_then(std::sync::Weak::upgrade) {
            return sharing;
        }
        let sharing = Arc::<Sharing>::default();
        all.insert(consumer.to_owned(), Arc::downgrade(&sharing));
        sharing
    }

    async fn append_one(&self, channel: &ChannelName, content: Content) -> Result<Appended, EngineError> {
        self.check_open()?;
        let failed = |fault: Fault| {
            let limits = self.known_stream(channel).map(|place| place.limits()).unwrap_or_default();
            fault.of_channel(&format_args!("stream {channel}"), limits)
        };
        let mut headers = HeaderMap::new();
        wire::write_content(&mut headers, &content)?;
        self.connection.check_size(&headers, &content.body)?;
        headers.insert("Nats-Msg-Id", new_word().as_str());
        let size = content.size();
        let (place, stored) = self.store_in_stream(channel, headers, content.body).await.map_err(failed)?;
        place.count_in(size);
        Ok(Appended::new(stored.seq, SystemTime::now()))
    }
}

#[async_trait]
impl Streams for JetstreamEngine {
    async fn append(&self, messages: Vec<(ChannelName, Content)>) -> Vec<Result<Appended, EngineError>> {
        for (at, (channel, _)) in messages.iter().enumerate() {
            if self.shared.known_stream(channel).is_none()
                && messages[..at].iter().all(|(known, _)| known != channel)
            {
                // Its messages say why it failed.
                let _ = self.shared.stream(channel).await;
            }
        }
        let appends = messages
            .into_iter()
            .map(async |(channel, content)| self.shared.append_one(&channel, content).await);
        join_in_order(appends).await
    }

    async fn subscribe_stream(
        &self,
        channel: &ChannelName,
        subscribe: Subscribe,
    ) -> Result<Box<dyn StreamSubscription>, EngineError> {
        let Subscribe { start, group, durable } = subscribe;
        let shared = &self.shared;
        let name = match (&group, &durable) {
            (Some(group), _) => format!("group-{}", EngineParts::durable_word(group)?),
            (None, Some(durable)) => format!("durable-{}", EngineParts::durable_word(durable)?),
            (None, None) => format!("own-{}", new_word()),
        };
        let is_own = group.is_none() && durable.is_none();
        let consumer = Consumer { name, is_durable: durable.is_some(), is_own, is_group: group.is_some() };
        let place = shared.stream(channel).await?;
        let failed = |fault: Fault| fault.of_channel(&format_args!("stream {channel}"), place.limits());
        let lease = match &durable {
            Some(durable) if group.is_none() => {
                let lease = shared.lease(&place.word, &consumer.name).await.map_err(failed)?;
                let in_use = || EngineError::InUse { channel: channel.clone(), name: durable.clone() };
                Some(lease.ok_or_else(in_use)?)
            }
            _ => None,
        };
        let sharing = shared.sharing(&format!("{}.{}", place.stream, consumer.name));
        sharing.returning.done().await;
        let mut opened = shared.open_consumer(&place, &consumer, start).await;
        let mut place = Arc::clone(&place);
        if opened.as_ref().is_err_and(Fault::is_missing) {
            // The stream was deleted since it was used here.
            shared.forget(crate::channels::info::ChannelKind::Stream, channel);
            place = shared.stream(channel).await?;
            opened = shared.open_consumer(&place, &consumer, start).await;
        }
        opened.map_err(failed)?;
        let outstanding = Arc::<Outstanding>::default();
        lock(&shared.outstanding).push(Arc::downgrade(&outstanding));
        Ok(Box::new(Subscription::new(Arc::clone(shared), place, consumer, sharing, outstanding, lease)))
    }
}

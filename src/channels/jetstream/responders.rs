//! Requests that are answered by this engine.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::parts::EngineParts;
use super::wire::{self, REPLY};
use crate::channels::content::Content;
use crate::channels::request_types::{Reply, Responder};
use crate::util::sync::lock;

/// The header of an answer, or of the news about one.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    /// An engine has got the request.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) taken: bool,
    /// Its responders have dropped the request.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) dropped: bool,
    client: String,
    executed: bool,
    error: String,
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl Answer {
    /// Returns the answer of a message; one of another program is a success.
    pub(super) fn into_reply(self, message: async_nats::Message) -> Reply {
        let is_ours = message.headers.as_ref().is_some_and(|headers| headers.get(REPLY).is_some());
        let content = wire::read_content(message.headers.as_ref(), message.payload);
        Reply {
            client: self.client,
            executed: self.executed || !is_ours,
            error: self.error,
            metadata: content.metadata,
            body: content.body,
            tags: content.tags,
        }
    }
}

impl EngineParts {
    /// Returns where the answer to a request goes.
    pub(super) async fn responder(self: &Arc<Self>, to: Subject, deadline: Instant) -> Responder {
        if let Some(known) = lock(&self.answering.0).get(to.as_str()).and_then(mpsc::WeakSender::upgrade) {
            return Responder::new(known);
        }
        let (sender, mut answer) = mpsc::channel(1);
        lock(&self.answering.0).insert(to.to_string(), sender.downgrade());
        self.tell(&to, Answer { taken: true, ..Answer::default() }, None).await;
        let shared = Arc::clone(self);
        self.spawn(async move {
            let reply = tokio::select! {
                biased;
                reply = answer.recv() => reply,
                () = sleep_until(deadline) => {
                    answer.close();
                    answer.recv().await
                }
                () = shared.closing.cancelled() => {
                    // Responders at work may answer within the time that closing has.
                    tokio::time::timeout(Duration::from_secs(1), answer.recv()).await.ok().flatten()
                }
            };
            answer.close();
            match reply {
                Some(Reply { client, executed, error, metadata, body, tags }) => {
                    let content = Content { metadata, body, tags, ..Content::default() };
                    shared
                        .tell(&to, Answer { client, executed, error, ..Answer::default() }, Some(content))
                        .await;
                }
                None => shared.tell(&to, Answer { dropped: true, ..Answer::default() }, None).await,
            }
            lock(&shared.answering.0).remove(to.as_str());
        });
        Responder::new(sender)
    }

    async fn tell(&self, to: &Subject, answer: Answer, content: Option<Content>) {
        let written = |content: &Option<Content>, answer: &Answer| {
            let mut headers = HeaderMap::new();
            wire::insert(&mut headers, REPLY, answer)?;
            if let Some(content) = content {
                wire::write_content(&mut headers, content)?;
                self.connection.check_size(&headers, &content.body)?;
            }
            Ok::<_, crate::channels::error::EngineError>(headers)
        };
        let (headers, body) = match written(&content, &answer) {
            Ok(headers) => (headers, content.map(|content| content.body).unwrap_or_default()),
            Err(error) => {
                tracing::warn!(%error, "an answer cannot be sent; the requester gets an error");
                let answer = Answer { executed: false, error: error.to_string(), ..answer };
                let Ok(headers) = written(&None, &answer) else { return };
                (headers, Bytes::new())
            }
        };
        let _ = self.connection.client().publish_with_headers(to.clone(), headers, body).await;
    }
}

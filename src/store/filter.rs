//! Conditions on stored messages.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::entry::{Entry, EntryState};
use crate::message::Message;

/// Conditions on stored messages, all of which must hold; by default every message matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Filter {
    /// Pending messages or dead letters only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<EntryState>,
    /// The message with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// This topic; with `*` at its end, every topic with this prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// This ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A part of the last failure's reason; upper and lower case are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Older than this many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<u64>,
}

impl Filter {
    /// The message with this id.
    #[must_use]
    pub fn id(id: Uuid) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// Everything in this state.
    #[must_use]
    pub fn state(state: EntryState) -> Self {
        Self { state: Some(state), ..Self::default() }
    }

    /// Whether an entry matches.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        self.state.is_none_or(|state| state == entry.state)
            && self.matches_message(entry.message.as_ref())
            && self.reason.as_ref().is_none_or(|reason| {
                let last = entry.failures.last().map(|failure| failure.reason.to_lowercase());
                last.is_some_and(|last| last.contains(&reason.to_lowercase()))
            })
    }
}

impl Filter {
    /// Whether a message matches, as far as it can be read; state and reason are not compared.
    pub(crate) fn matches_message(&self, message: Option<&Message>) -> bool {
        let of_message = |wanted: bool, is: &dyn Fn(&Message) -> bool| !wanted || message.is_some_and(is);
        of_message(self.id.is_some(), &|message| self.id == Some(message.id()))
            && of_message(self.topic.is_some(), &|message| {
                let (topic, pattern) = (message.topic().as_str(), self.topic.as_deref().unwrap_or_default());
                pattern.strip_suffix('*').map_or(topic == pattern, |prefix| topic.starts_with(prefix))
            })
            && of_message(self.key.is_some(), &|message| self.key.as_deref() == message.key())
            && of_message(self.older_than.is_some(), &|message| {
                let age = SystemTime::now().duration_since(message.time()).unwrap_or_default();
                self.older_than.is_some_and(|seconds| age > Duration::from_secs(seconds))
            })
    }
}

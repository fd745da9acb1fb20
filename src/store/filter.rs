//! Conditions on stored messages.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::entry::{Entry, EntryState};
use crate::message::Message;
use crate::util::readable::span;

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

/// The conditions for people to read: `state dead, topic user.created`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain =
            |text: &String| match text.chars().all(|c| c.is_ascii_alphanumeric() || "._-*/".contains(c)) {
                true if !text.is_empty() => text.clone(),
                _ => format!("{text:?}"),
            };
        let conditions = [
            self.state.map(|state| format!("state {state}")),
            self.id.map(|id| format!("id {id}")),
            self.topic.as_ref().map(|topic| format!("topic {}", plain(topic))),
            self.key.as_ref().map(|key| format!("key {}", plain(key))),
            self.reason.as_ref().map(|reason| format!("reason with {reason:?}")),
            self.older_than.map(|seconds| format!("older than {}", span(Duration::from_secs(seconds)))),
        ];
        let conditions: Vec<_> = conditions.into_iter().flatten().collect();
        f.write_str(if conditions.is_empty() { "all messages" } else { "" })?;
        f.write_str(&conditions.join(", "))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_written_for_people() {
        let filter = |json: &str| serde_json::from_str::<Filter>(json).unwrap().to_string();
        assert_eq!(filter("{}"), "all messages");
        assert_eq!(filter(r#"{"state": "dead", "topic": "user.*"}"#), "state dead, topic user.*");
        assert_eq!(
            filter(r#"{"topic": "a, b", "key": "", "reason": "\u202e", "older_than": 90}"#),
            r#"topic "a, b", key "", reason with "\u{202e}", older than 1m 30s"#
        );
    }
}

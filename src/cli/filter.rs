//! Conditions that select messages.

use std::time::Duration;

use clap::Args;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde_json::{Map, Value};

use super::output::count;

/// The heading of conditions in the help.
pub(super) const WHICH: &str = "Which messages";

/// Conditions; a message must meet all of them.
#[derive(Args, Clone, Debug)]
pub(super) struct FilterArgs {
    /// Pending messages, or dead letters
    #[arg(long, help_heading = WHICH, value_parser = ["pending", "dead"])]
    state: Option<String>,
    /// With this topic; a * at the end matches every topic with this beginning
    #[arg(long, help_heading = WHICH)]
    topic: Option<String>,
    /// With this ordering key
    #[arg(long, help_heading = WHICH)]
    key: Option<String>,
    /// With this text in the last failure, in any case
    #[arg(long, help_heading = WHICH, value_name = "TEXT")]
    reason: Option<String>,
    /// Created longer ago than this: 30m, 1d, or seconds
    #[arg(long, help_heading = WHICH, value_name = "AGE", value_parser = seconds)]
    older_than: Option<u64>,
}

impl FilterArgs {
    /// The conditions as a query of the admin router.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let text = |value: &Option<String>| value.clone();
        let conditions = [
            ("state", text(&self.state)),
            ("topic", text(&self.topic)),
            ("key", text(&self.key)),
            ("reason", text(&self.reason)),
            ("older_than", self.older_than.map(|seconds| seconds.to_string())),
        ];
        conditions.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
    }

    pub(super) fn object(&self) -> Map<String, Value> {
        self.pairs().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
    }

    /// Whether dead letters alone are meant.
    pub(super) fn is_dead(&self) -> bool {
        self.state.as_deref() == Some("dead")
    }

    pub(super) fn set_default_state(&mut self, state: &str) {
        self.state.get_or_insert_with(|| state.to_owned());
    }

    /// Whether a message of a broker with this last failure meets the conditions.
    #[cfg(feature = "amqp091")]
    pub(super) fn matches(&self, message: Option<&crate::message::Message>, reason: Option<&str>) -> bool {
        let (topic, key, older_than) = (self.topic.clone(), self.key.clone(), self.older_than);
        let contains =
            |part: &String| reason.is_some_and(|reason| reason.to_lowercase().contains(&part.to_lowercase()));
        let filter = crate::store::Filter { topic, key, older_than, ..Default::default() };
        filter.matches_message(message) && self.reason.as_ref().is_none_or(contains)
    }

    /// The state, if it is the only condition.
    pub(super) fn only_state(&self) -> Option<&str> {
        self.state.as_deref().filter(|_| self.pairs().len() == 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs().is_empty()
    }

    /// A number of messages, with the noun of the condition.
    pub(super) fn count(&self, messages: u64) -> String {
        match self.state.as_deref() {
            Some("dead") => count(messages, "dead letter"),
            Some("pending") => count(messages, "pending message"),
            _ => count(messages, "message"),
        }
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    duration(text).map(|age| age.as_secs())
}

/// A duration as in settings: `30m`, `1d`, or seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let deserializer: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    crate::util::units::duration(deserializer).map_err(|error| error.to_string())
}

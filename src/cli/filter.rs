//! Conditions that select messages.

use std::time::Duration;

use clap::Args;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde_json::{Map, Value};

use super::output::count;
use crate::source::dead_letters::DeadLetter;
use crate::store::Filter;

/// The heading of conditions in the help.
pub(super) const WHICH: &str = "Which messages";

/// Conditions; a message must meet all of them.
#[derive(Args, Clone, Debug)]
pub(super) struct FilterArgs {
    /// Pending messages, or dead letters
    #[arg(long, help_heading = WHICH, value_parser = ["pending", "dead"])]
    state: Option<String>,
    #[command(flatten)]
    conditions: Conditions,
}

/// Conditions of a message, in whatever state; it must meet all of them.
#[derive(Args, Clone, Debug)]
pub(super) struct Conditions {
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
        let Conditions { topic, key, reason, older_than } = &self.conditions;
        let conditions = [
            ("state", text(&self.state)),
            ("topic", text(topic)),
            ("key", text(key)),
            ("reason", text(reason)),
            ("older_than", older_than.map(|seconds| seconds.to_string())),
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

impl Conditions {
    /// Whether a dead letter of a broker meets the conditions.
    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        let Self { topic, key, reason, older_than } = self.clone();
        let given = letter.reason.as_ref().map(|reason| reason.to_lowercase());
        let filter = Filter { topic, key, older_than, ..Filter::default() };
        filter.matches_message(letter.message.as_ref().ok())
            && reason
                .is_none_or(|part| given.as_ref().is_some_and(|given| given.contains(&part.to_lowercase())))
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
